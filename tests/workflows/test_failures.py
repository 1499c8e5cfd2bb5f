"""The failure matrix of process-order: every step, and every undo, let down in every way that is known."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowUpdateFailedError
from temporalio.testing import WorkflowEnvironment

from client.orders import submit_order
from orders.names import PROCESS_ORDER
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in, sampled
from tests.support.scenarios import (
    REFUSED_ADDRESS,
    Run,
    emails_to_customer,
    ending_of,
    final_error,
    is_running,
    marks,
    outage,
    resolve,
    shown_outcome,
    until_attempts,
    until_marked,
    until_stuck,
)
from tests.support.shop import Payload, Shop, an_order, eventually, open_shop
from tests.support.split_worker import SplitWorker

O = "o1"  # noqa: E741 (the one order of each test)

PLACED = "pending capturing processing"
UNDONE = "pending undoing"


@dataclass(frozen=True)
class End:
    """How the run ends, the code that its caller gets, the states of its row, and the last e-mail."""

    how: str
    code: str | None
    events: str
    email: str | None = None

    @property
    def stage(self) -> str:
        return "completed" if self.events == PLACED else self.events.split()[-1]

    @property
    def shown(self) -> str:
        """What lists of runs show."""
        if self.events == PLACED:
            return "placed"
        return f"{self.stage}: {self.code}" if self.code not in (None, self.stage) else self.stage


SUCCESS = End("completed", None, PLACED, "order_confirmation")
CANCELLED = End("cancelled", None, f"{UNDONE} cancelled")
CANCELLED_WITH_EMAIL = End("cancelled", None, f"{UNDONE} cancelled", "order_cancelled")
FAILED = End("failed", "failed", f"{UNDONE} failed")
FAILED_WITH_EMAIL = End("failed", "failed", f"{UNDONE} failed", "order_failed")
NEVER_RESERVED = End("failed", "failed", "failed")


async def check_end(shop: Shop, run: Run, end: End) -> None:
    """Check how the run ended, the states of its row, its marks, and the invariants."""
    ending = await ending_of(run)
    assert (ending.how, ending.code) == (end.how, end.code), ending
    assert " ".join(await shop.events(O)) == end.events
    assert emails_to_customer(shop, O) == ([end.email] if end.email else [])
    assert await marks(run) == (end.stage, None)
    assert await shown_outcome(run) == end.shown
    await assert_invariants(shop, O)


# ---------------------------------------------------------------------------------------------------- business refusals

REFUSALS: dict[str, tuple[Payload, End]] = {
    "out of stock": (
        an_order(items=[{"productId": "5", "quantity": 2}]),
        End("completed", "out_of_stock", "rejected"),
    ),
    "price changed": (
        an_order(items=[{"productId": "1", "quantity": 1, "price": 19.99}]),
        End("completed", "price_changed", "rejected"),
    ),
    "card declined": (
        an_order(paymentMethodId="pm_card_chargeDeclined"),
        End("completed", "card_declined", f"{UNDONE} rejected"),
    ),
    "address refused": (
        an_order(shippingAddress=REFUSED_ADDRESS),
        End("completed", "fulfillment_refused", f"{UNDONE} rejected", "order_failed"),
    ),
}


@pytest.mark.parametrize(("payload", "end"), REFUSALS.values(), ids=REFUSALS)
async def test_a_business_no(shop: Shop, payload: Payload, end: End) -> None:
    """The run completes with success=false; only a customer whose payment was authorized gets an e-mail."""
    await check_end(shop, await shop.start(payload, O), end)


async def test_an_authorization_that_is_gone_at_the_capture(shop: Shop) -> None:
    """The capture finds no authorization: a technical failure, undone although the row was claimed for the capture."""

    async def expire() -> None:
        shop.world.stripe.account.expire((await shop.row(O))["payment_intent_id"])

    shop.hooks.when("capture_payment", expire)
    end = End("failed", "authorization_expired", "pending capturing undoing failed", "order_failed")
    await check_end(shop, await shop.start(order_id=O), end)


# ----------------------------------------------------------------------------------------------------- technical errors

BEFORE_THE_PIVOT: dict[tuple[str, Moment], End] = {
    ("reserve_stock", "before"): NEVER_RESERVED,
    ("reserve_stock", "after"): FAILED,
    ("authorize_payment", "before"): FAILED,
    ("authorize_payment", "after"): FAILED_WITH_EMAIL,
    ("request_fulfillment", "before"): FAILED_WITH_EMAIL,
    ("request_fulfillment", "after"): FAILED_WITH_EMAIL,
}
AFTER_THE_PIVOT: tuple[tuple[str, Moment], ...] = (
    ("capture_payment", "before"),
    ("capture_payment", "after"),
    ("finalize_order", "before"),
    ("finalize_order", "after"),
)


@pytest.mark.parametrize(("where", "end"), BEFORE_THE_PIVOT.items(), ids=map(" ".join, BEFORE_THE_PIVOT))
async def test_a_final_error_before_the_pivot(shop: Shop, where: tuple[str, Moment], end: End) -> None:
    """Whether its step took effect or not, the order is undone and the run fails."""
    shop.hooks.fail(where[0], final_error(), where[1])
    await check_end(shop, await shop.start(order_id=O), end)


@pytest.mark.prove
@pytest.mark.parametrize(("where", "end"), one_in(3, BEFORE_THE_PIVOT.items()), ids=map(" ".join, BEFORE_THE_PIVOT))
async def test_an_outage_until_the_deadline(shop: Shop, where: tuple[str, Moment], end: End) -> None:
    """The step is retried until its deadline, with or without an effect that got lost; then the order is undone."""
    shop.hooks.fail(where[0], outage(), where[1], times=None)
    run = await shop.start(order_id=O)
    await until_attempts(shop, where[0], 1)
    await shop.advance(run, timedelta(minutes=20))
    await check_end(shop, run, end)


@pytest.mark.parametrize("where", AFTER_THE_PIVOT, ids=" ".join)
async def test_a_final_error_after_the_pivot(shop: Shop, where: tuple[str, Moment]) -> None:
    """The order can only go forward: operators are alerted, the step is retried, and the order is placed."""
    shop.hooks.fail(where[0], final_error(), where[1])
    run = await shop.start(order_id=O)
    await until_marked(run, where[0])
    await shop.advance(run, timedelta(minutes=2))
    await check_end(shop, run, SUCCESS)
    assert len(shop.world.inbox.alerts) == 1


@pytest.mark.parametrize("where", AFTER_THE_PIVOT, ids=" ".join)
async def test_an_outage_after_the_pivot(shop: Shop, where: tuple[str, Moment]) -> None:
    """There is no deadline: operators are alerted after a while, and the order is placed when the outage ends."""
    shop.hooks.fail(where[0], outage(), where[1], times=None)
    run = await shop.start(order_id=O)
    await until_attempts(shop, where[0], 1)
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, where[0])
    shop.hooks.clear()
    await shop.advance(run, timedelta(hours=1))
    await check_end(shop, run, SUCCESS)


# ------------------------------------------------------------------------------------------------- an operator's cancel

CANCELS: dict[tuple[str, Moment], End] = {
    ("reserve_stock", "before"): CANCELLED,
    ("reserve_stock", "after"): CANCELLED,
    ("authorize_payment", "before"): CANCELLED_WITH_EMAIL,
    ("authorize_payment", "after"): CANCELLED_WITH_EMAIL,
    ("request_fulfillment", "before"): CANCELLED_WITH_EMAIL,
    ("request_fulfillment", "after"): CANCELLED_WITH_EMAIL,
    ("capture_payment", "before"): SUCCESS,
    ("capture_payment", "after"): SUCCESS,
    ("finalize_order", "before"): SUCCESS,
    ("finalize_order", "after"): SUCCESS,
}


@pytest.mark.parametrize(("where", "end"), one_in(2, CANCELS.items()), ids=map(" ".join, CANCELS))
async def test_an_operators_cancel_while_a_step_is_in_flight(shop: Shop, where: tuple[str, Moment], end: End) -> None:
    """The attempt in flight is waited for, then undone: a cancelled run; after the pivot a cancel changes nothing."""
    held = shop.hooks.hold(*where)
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    held.let_go()
    await check_end(shop, run, end)


@pytest.fixture
def split_worker() -> SplitWorker:
    return SplitWorker()


@pytest.fixture
async def halved(database_url: str, temporal: WorkflowEnvironment, split_worker: SplitWorker) -> AsyncIterator[Shop]:
    """A shop whose workflows can be paused."""
    async with open_shop(database_url, temporal, run=split_worker.running) as opened:
        yield opened


AT_ONCE = {step: end for (step, moment), end in CANCELS.items() if moment == "after"}


@pytest.mark.parametrize(("step", "end"), one_in(2, AT_ONCE.items()), ids=AT_ONCE)
async def test_an_operators_cancel_in_the_task_of_a_completion(
    halved: Shop, split_worker: SplitWorker, step: str, end: End
) -> None:
    """The step's answer and the cancel reach the run in one workflow task; nothing of the step is left behind."""
    shop = halved
    held = shop.hooks.hold(step, "after")
    run = await shop.start(order_id=O)
    await held.reached.wait()
    async with split_worker.workflows_paused():
        await run.cancel()
        held.let_go()
        await eventually(lambda: has_ended_its_activities(run), "the step's answer is in the history")
    await check_end(shop, run, end)
    await check_one_task(run, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)


async def test_an_operators_cancel_before_the_first_step(halved: Shop, split_worker: SplitWorker) -> None:
    """The run is cancelled before it did anything: nothing is reserved, and never will be."""
    async with split_worker.workflows_paused():
        run = await halved.start(order_id=O)
        await run.cancel()
    assert (await ending_of(run)).how == "cancelled"
    assert await halved.status(O) in (None, "cancelled")
    assert await halved.stock() == (100, 0)


@pytest.mark.prove
async def test_a_submit_that_joins_a_run_without_an_order(halved: Shop, split_worker: SplitWorker) -> None:
    """The refusal is that of the run's own input: the caller's order gets a run of its own."""
    async with split_worker.workflows_paused():
        await halved.client.start_workflow(PROCESS_ORDER, args=[an_order(), 2], id=O, task_queue=halved.task_queue)
        submitted = asyncio.create_task(submit_order(halved.client, O, an_order(), task_queue=halved.task_queue))
        await asyncio.sleep(1)

    assert (await submitted).success
    assert await halved.stock() == (98, 0)


UNDOS = ("claim_undo", "cancel_fulfillment", "void_payment", "release_stock")


@pytest.mark.parametrize("undo", UNDOS)
@pytest.mark.parametrize("moment", sampled(("before", "after"), lambda moment: moment == "after"))
async def test_an_operators_cancel_during_the_undo(shop: Shop, undo: str, moment: Moment) -> None:
    """It changes nothing: the undo goes on to its end, and the run ends by what caused it."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    held = shop.hooks.hold(undo, moment)
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    held.let_go()
    await check_end(shop, run, FAILED_WITH_EMAIL)


# ----------------------------------------------------------------------------------------------------- undos in trouble


@pytest.mark.parametrize("undo", UNDOS)
@pytest.mark.parametrize("moment", sampled(("before", "after"), lambda moment: moment == "after"))
async def test_an_undo_that_fails_for_a_while(shop: Shop, undo: str, moment: Moment) -> None:
    """It is tried again until it succeeds; one whose answer was lost finds its own effect."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail(undo, outage(), moment, times=2)
    run = await shop.start(order_id=O)
    await until_attempts(shop, undo, 1)
    await shop.advance(run, timedelta(minutes=5))
    await check_end(shop, run, FAILED_WITH_EMAIL)


async def test_an_undo_in_a_long_outage_calls_for_attention(shop: Shop) -> None:
    """Operators are alerted about an undo that keeps failing; it does not park, and ends when the outage ends."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("void_payment", outage(), times=None)
    run = await shop.start(order_id=O)
    await until_attempts(shop, "void_payment", 1)
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "void_payment")
    shop.hooks.clear()
    await shop.advance(run, timedelta(minutes=2))
    await check_end(shop, run, FAILED_WITH_EMAIL)
    assert (await shop.row(O))["parked_step"] is None


@pytest.mark.prove
async def test_an_undo_in_a_long_outage_can_be_resolved(shop: Shop) -> None:
    """An operator need not wait for Stripe: the undo parks, the resolution is recorded, and the order closes."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("void_payment", outage(), times=None)
    run = await shop.start(order_id=O)
    await until_attempts(shop, "void_payment", 1)
    with pytest.raises(WorkflowUpdateFailedError):  # it has not called for attention yet
        await resolve(run, "void_payment", "resolved")
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "void_payment")
    by_hand(shop, "void_payment", await shop.row(O))

    await resolve(run, "void_payment", "resolved")
    await check_end(shop, run, FAILED_WITH_EMAIL)
    said = await shop.pool.fetch("SELECT step, action FROM resolutions WHERE order_id = $1", O)
    assert [tuple(row) for row in said] == [("void_payment", "resolved")]


async def test_a_claim_that_fails_for_good(shop: Shop) -> None:
    """Without the claim nothing is undone: operators are alerted, and the claim is retried once a minute."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("claim_undo", final_error())
    run = await shop.start(order_id=O)
    await until_marked(run, "claim_undo")
    assert await shop.status(O) == "pending"
    await shop.advance(run, timedelta(minutes=2))
    await check_end(shop, run, FAILED_WITH_EMAIL)


async def is_alerted(shop: Shop, what: str) -> bool:
    return any(what in alert.text for alert in shop.world.inbox.alerts)


def by_hand(shop: Shop, undo: str, row: Any) -> None:
    """What an operator does who settles an undo elsewhere."""
    if undo == "void_payment":
        shop.world.stripe.account.expire(row["payment_intent_id"])
    if undo == "cancel_fulfillment":
        shipments = shop.world.fulfillment.shipments
        shipments[O] = shipments[O].model_copy(update={"status": "cancelled"})


@pytest.mark.parametrize("undo", UNDOS[1:])
@pytest.mark.parametrize("moment", sampled(("before", "after"), lambda moment: moment == "after"))
async def test_an_undo_that_fails_for_good_parks_until_it_is_tried_again(shop: Shop, undo: str, moment: Moment) -> None:
    """The run stays open, marked, alerted and named on the row, until an operator says retry."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail(undo, final_error(), moment)
    run = await shop.start(order_id=O)
    if (undo, moment) != ("release_stock", "after"):  # there is nothing to be parked: the order is closed
        assert await until_stuck(run) == (undo,)
        assert await marks(run) == ("parked", undo)
        assert (await shop.row(O))["parked_step"] == undo
        await eventually(lambda: is_alerted(shop, undo), "operators are alerted")
        await resolve(run, undo, "retry")
    await check_end(shop, run, FAILED_WITH_EMAIL)


@pytest.mark.parametrize("undo", UNDOS[1:3])
@pytest.mark.parametrize("action", ["skip", "resolved"])
async def test_an_undo_that_an_operator_settles(shop: Shop, undo: str, action: str) -> None:
    """The resolution is kept with the order and in the run's result; the undo is not retried."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail(undo, final_error(), times=None)
    run = await shop.start(order_id=O)
    await until_stuck(run)
    by_hand(shop, undo, await shop.row(O))
    await resolve(run, undo, action, "done by hand")
    assert f"{undo}: {action} by operator: done by hand" in (await ending_of(run)).words
    await check_end(shop, run, FAILED_WITH_EMAIL)
    said = await shop.pool.fetch("SELECT step, action, reason, actor FROM resolutions WHERE order_id = $1", O)
    assert [tuple(each) for each in said] == [(undo, action, "done by hand", "operator")]


async def test_a_parked_undo_that_keeps_failing_parks_again(shop: Shop) -> None:
    """Each resolution `retry` allows one more attempt, and the run parks again each time."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("void_payment", final_error(), times=2)
    run = await shop.start(order_id=O)
    for _ in range(2):
        await until_stuck(run)
        assert await is_running(run)
        await resolve(run, "void_payment", "retry")
    await check_end(shop, run, FAILED_WITH_EMAIL)
    assert len(shop.world.inbox.alerts) == 2


# -------------------------------------------------------------------------------------------------------------- details


async def has_seen_the_cancel(run: Run) -> bool:
    """A workflow task was completed after the cancel."""
    kinds = [event.event_type async for event in run.fetch_history_events()]
    cancel = kinds.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in kinds[cancel:]


async def has_ended_its_activities(run: Run) -> bool:
    return not (await run.describe()).raw_description.pending_activities


async def check_one_task(run: Run, kind: "EventType.ValueType") -> None:
    """The cancel and an event of this kind stand side by side, with no workflow task in between."""
    kinds = [event.event_type async for event in run.fetch_history_events()]
    cancel = kinds.index(EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)
    task = kinds.index(EventType.EVENT_TYPE_WORKFLOW_TASK_STARTED, cancel)
    assert kind in kinds[cancel:task]


async def test_the_closing_of_the_order_cannot_be_settled_by_a_word(shop: Shop) -> None:
    """Only a closed row is an end, so that a skip of it is refused and a retry is not."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("release_stock", final_error())
    run = await shop.start(order_id=O)
    await until_stuck(run)
    with pytest.raises(WorkflowUpdateFailedError) as refused:
        await resolve(run, "release_stock", "skip", "done by hand")
    assert "can only be tried again" in str(refused.value.cause)
    await resolve(run, "release_stock", "retry")
    await check_end(shop, run, FAILED_WITH_EMAIL)


@pytest.mark.prove
async def test_a_database_that_refuses_ends_no_run(shop: Shop) -> None:
    """Rights are lost in the middle of an undo, and come back: the run is still there, and finishes it."""
    held = shop.hooks.hold("void_payment")
    run = await shop.start(an_order(shippingAddress=REFUSED_ADDRESS), O)
    await held.reached.wait()
    await shop.pool.execute("ALTER TABLE orders RENAME TO orders_away")
    held.let_go()
    await until_attempts(shop, "void_payment", 2)
    await shop.pool.execute("ALTER TABLE orders_away RENAME TO orders")
    await check_end(shop, run, End("completed", "fulfillment_refused", f"{UNDONE} rejected", "order_failed"))


async def test_a_word_that_cannot_be_kept_is_refused(shop: Shop) -> None:
    """And does not make the step deaf to the next one."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("void_payment", final_error())
    run = await shop.start(order_id=O)
    await until_stuck(run)
    with pytest.raises(WorkflowUpdateFailedError):
        await run.execute_update("resolve", {"step": "void_payment", "action": "retry", "reason": "a\x00b"})
    shop.hooks.fail("record_resolution", final_error())
    with pytest.raises(WorkflowUpdateFailedError):
        await resolve(run, "void_payment", "retry")
    await resolve(run, "void_payment", "retry")
    await check_end(shop, run, FAILED_WITH_EMAIL)
