"""cancel-order works at any moment of an order's life, exactly once, however often a customer asks."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError

from orders.models import CancelOutcome, OrderOutcome
from orders.names import CANCEL_ORDER, PROCESS_ORDER
from saga import Resolution
from sandbox.faults import Fault
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in
from tests.support.scenarios import shown_outcome
from tests.support.shop import Payload, Shop, an_order, eventually, new_order_id
from workflows.process_order import ProcessOrder

O = "o1"  # noqa: E741 (the one order of each test)

NEEDS_3DS = an_order(paymentMethodId="pm_card_authenticationRequired")
REFUSED = an_order(shippingAddress=an_order()["shippingAddress"] | {"street": "1 Refuse Street"})


@dataclass(frozen=True)
class Arrival:
    """When the cancel arrives, by the activity that stands still, and what it then comes to."""

    at: str
    moment: Moment
    answer: tuple[bool, bool, str | None]
    placed: bool
    events: str


VOIDED = (True, False, "authorization_voided")
NOT_CHARGED = (True, False, "not_charged")
REFUNDED = (True, True, None)

UNDONE = "pending undoing cancelled"
BOUGHT_AND_CANCELLED = "pending capturing processing cancelling cancelled"

ARRIVALS = {
    "reserved": Arrival("reserve_stock", "after", NOT_CHARGED, placed=False, events=UNDONE),
    "before the authorization": Arrival("authorize_payment", "before", NOT_CHARGED, placed=False, events=UNDONE),
    "authorized": Arrival("authorize_payment", "after", VOIDED, placed=False, events=UNDONE),
    "before the warehouse is asked": Arrival("request_fulfillment", "before", VOIDED, placed=False, events=UNDONE),
    "accepted by the warehouse": Arrival("request_fulfillment", "after", VOIDED, placed=False, events=UNDONE),
    "before the capture is claimed": Arrival("capture_payment", "before", VOIDED, placed=False, events=UNDONE),
    "captured": Arrival("capture_payment", "after", REFUNDED, placed=True, events=BOUGHT_AND_CANCELLED),
    "before it is finalized": Arrival("finalize_order", "before", REFUNDED, placed=True, events=BOUGHT_AND_CANCELLED),
    "finalized": Arrival("finalize_order", "after", REFUNDED, placed=True, events=BOUGHT_AND_CANCELLED),
    "before the confirmation": Arrival("send_email", "before", REFUNDED, placed=True, events=BOUGHT_AND_CANCELLED),
    "before analytics": Arrival("track_order", "before", REFUNDED, placed=True, events=BOUGHT_AND_CANCELLED),
}


@pytest.mark.parametrize("arrival", ARRIVALS.values(), ids=ARRIVALS)
async def test_at_each_stage_of_a_running_order(shop: Shop, arrival: Arrival) -> None:
    """Before the pivot the run undoes itself, after it the order is called off; one outcome each, one e-mail."""
    held = shop.hooks.hold(arrival.at, arrival.moment, O)
    handle = await shop.start(order_id=O)
    await held.reached.wait()
    cancel = await shop.start_cancel(O)
    await has_looked(shop)
    held.let_go()

    assert shape(await cancel.result()) == arrival.answer
    assert await shown_outcome(cancel) == f"cancelled: {arrival.answer[2] or 'refunded'}"
    outcome = await handle.result()
    assert await shown_outcome(handle) == ("placed" if arrival.placed else "cancelled")
    assert outcome.success is arrival.placed
    assert outcome.error_code == (None if arrival.placed else "cancelled")
    assert " ".join(await shop.events(O)) == arrival.events
    await check_cancelled(shop)


@pytest.mark.parametrize("arrival", one_in(3, ARRIVALS.values()), ids=ARRIVALS)
async def test_at_each_stage_of_an_order_whose_run_was_terminated(shop: Shop, arrival: Arrival) -> None:
    """Without a run of process-order, cancel-order does what the row says; a late attempt lands before or after."""
    held = shop.hooks.hold(arrival.at, arrival.moment, O)
    handle = await shop.start(order_id=O)
    await held.reached.wait()
    await handle.terminate()
    outcome = await shop.cancel(O)
    held.let_go()

    assert shape(outcome) == arrival.answer
    assert (await shop.events(O))[-1] == "cancelled"
    await check_cancelled(shop)


async def test_before_the_row_is_written(shop: Shop) -> None:
    """The cancel writes a row itself, which the attempt to reserve finds."""
    reserving = shop.hooks.hold("reserve_stock", "before", O)
    handle = await shop.start(order_id=O)
    await reserving.reached.wait()

    assert shape(await shop.cancel(O)) == NOT_CHARGED
    reserving.let_go()
    outcome = await handle.result()
    assert (outcome.success, outcome.error_code) == (False, "cancelled")
    assert await shop.events(O) == ["cancelled"]
    assert shop.world.provider_records()["payments"] == []
    await check_cancelled(shop)


@pytest.mark.parametrize("why", ["its start is delayed", "no worker is there", "it is terminated"])
async def test_before_the_order_begins(shop: Shop, why: str) -> None:
    """Whenever its first task comes, it finds the row: nothing is charged and nothing is sent."""
    options: dict[str, Any] = {"its start is delayed": {"start_delay": timedelta(hours=1)}}.get(why, {})
    queue = shop.task_queue if options else "nobody"
    handle = await shop.client.start_workflow(
        PROCESS_ORDER, an_order(), id=O, task_queue=queue, result_type=OrderOutcome, **options
    )
    if why == "it is terminated":
        await handle.terminate()
    try:
        assert shape(await shop.cancel(O)) == NOT_CHARGED
        assert shape(await shop.cancel(O)) == (False, False, "already_cancelled")
    finally:
        if why != "it is terminated":
            await handle.terminate()

    again = await shop.place(order_id=O)
    assert (again.success, again.error_code) == (False, "cancelled")
    assert await shop.events(O) == ["cancelled"]
    assert shop.world.provider_records()["payments"] == []
    await check_cancelled(shop)


@pytest.mark.parametrize("payload", [{}, an_order(customerEmail=7)], ids=["empty", "wrong"])
async def test_an_order_that_is_not_valid_is_unknown(shop: Shop, payload: Payload) -> None:
    """Its run answers `invalid_order`, and there is nothing to cancel."""
    await shop.place(payload, O)

    assert shape(await shop.cancel(O)) == (False, False, "unknown_order")
    assert await shop.status(O) is None


@pytest.mark.prove
@pytest.mark.parametrize("terminated", [False, True], ids=["live", "terminated"])
async def test_while_the_capture_is_claimed(shop: Shop, *, terminated: bool) -> None:
    """Past the pivot there is no undo: the open run captures the money, and cancel-order refunds it."""
    shop.world.faults.add(Fault(service="stripe", route="POST */capture", kind="status", status=503, times=None))
    handle = await shop.start(order_id=O)
    await eventually(lambda: is_in(shop, "capturing"), "the capture is claimed")
    if terminated:
        await handle.terminate()
    cancel = await shop.start_cancel(O)
    await has_looked(shop)
    shop.world.faults.clear()

    assert shape(await cancel.result()) == REFUNDED
    if not terminated:
        assert (await handle.result()).success
    assert " ".join(await shop.events(O)) == BOUGHT_AND_CANCELLED
    await check_cancelled(shop)


async def test_while_the_customer_authenticates(shop: Shop) -> None:
    """The wait ends at once, and the customer can no longer authenticate anything."""
    handle = await shop.start(NEEDS_3DS, O)
    await waits_for_the_customer(handle)

    assert shape(await shop.cancel(O)) == VOIDED
    assert (await handle.result()).error_code == "cancelled"
    assert shop.world.provider_records()["payments"][0]["status"] == "canceled"
    await check_cancelled(shop)


@pytest.mark.parametrize("terminated", [False, True], ids=["live", "terminated"])
async def test_while_the_order_is_undone_for_another_reason(shop: Shop, *, terminated: bool) -> None:
    """The first undo decides the reason; cancel-order finishes it and says why nothing was cancelled."""
    held = shop.hooks.hold("void_payment", "before", O)
    handle = await shop.start(REFUSED, O)
    await held.reached.wait()
    if terminated:
        await handle.terminate()
    cancel = await shop.start_cancel(O)
    await has_looked(shop)
    held.let_go()

    assert shape(await cancel.result()) == (False, False, "order_rejected")
    if not terminated:
        assert (await handle.result()).error_code == "fulfillment_refused"
    assert await shop.status(O) == "rejected"
    await assert_invariants(shop, O)


async def test_while_the_undo_is_parked(shop: Shop) -> None:
    """A parked row waits for an operator; cancel-order answers so, and the parked run takes the resolution."""
    shop.hooks.fail("void_payment", permanent(), workflow_id=O)
    handle = await shop.start(REFUSED, O)
    await is_stuck(handle)

    assert shape(await shop.cancel(O)) == (False, False, "undo_parked")
    await resolve(handle, "void_payment", "retry")
    assert (await handle.result()).error_code == "fulfillment_refused"
    await assert_invariants(shop, O)


async def test_after_completion(shop: Shop) -> None:
    """The money is refunded, the stock back, the shipment called off; the order's own answer stands."""
    placed = await shop.place(order_id=O)

    assert shape(await shop.cancel(O)) == REFUNDED
    assert await shop.place(order_id=O) == placed
    assert (await shop.row(O))["cancelled_at"] is not None
    await check_cancelled(shop)


async def test_after_shipping(shop: Shop) -> None:
    """The warehouse's no is final: the order is marked shipped, the money stays."""
    await shop.place(order_id=O)
    await shop.ship(O)

    for _ in range(2):
        assert shape(await shop.cancel(O)) == (False, False, "already_shipped")
    assert await shop.status(O) == "shipped"
    assert emails_to_customer(shop) == ["order_confirmation"]
    await assert_invariants(shop, O)


async def test_a_warehouse_that_refuses_and_has_nothing_to_ship(shop: Shop) -> None:
    """It contradicts itself: it can never ship a unit, and names a parcel without any. The run ends all the same."""
    await shop.place(order_id=O)
    refusal: Payload = {"error": {"code": "already_shipped"}}
    said: Payload = {"id": "ful_1", "status": "accepted", "parcels": [{"shipmentId": "par_1"}]}
    said["shorted"] = [{"productId": "1", "quantity": 2}]
    for route, status, body in (("POST */cancel", 409, refusal), ("GET /orders/*", 200, said)):
        shop.world.faults.add(
            Fault(service="fulfillment", route=route, kind="status", status=status, body=body, times=None)
        )

    assert shape(await shop.cancel(O)) == (False, False, "already_shipped")
    assert (await shop.events(O))[-2:] == ["cancelling", "shipping"]


async def test_shipped_before_the_undo_goes_forward(shop: Shop) -> None:
    """A cancel that claimed a pending row whose goods have left ends with a paid, shipped order."""
    held = shop.hooks.hold("request_fulfillment", "after", O)
    handle = await shop.start(order_id=O)
    await held.reached.wait()
    await shop.ship(O)
    cancel = await shop.start_cancel(O)
    await has_looked(shop)
    held.let_go()

    assert (await handle.result()).success
    assert shape(await cancel.result()) == (False, False, "already_shipped")
    assert await shop.events(O) == ["pending", "undoing", "capturing", "processing", "cancelling", "shipped"]
    await assert_invariants(shop, O)


async def test_an_unknown_order_leaves_no_row(shop: Shop) -> None:
    """No run of that id exists or existed: the order may still be placed."""
    order_id = new_order_id()
    assert shape(await shop.cancel(order_id)) == (False, False, "unknown_order")
    assert await shop.status(order_id) is None
    assert (await shop.place(order_id=order_id)).success


async def test_again_after_it_was_cancelled(shop: Shop) -> None:
    """The second cancel changes nothing and sends no e-mail."""
    await shop.place(order_id=O)
    await shop.cancel(O)

    assert shape(await shop.cancel(O)) == (False, True, "already_cancelled")
    await check_cancelled(shop)


@pytest.mark.prove
@pytest.mark.parametrize("running", one_in(2, [True, False]), ids=["in flight", "completed"])
async def test_twenty_at_once(shop: Shop, *, running: bool) -> None:
    """Under one id or under many, all who asked in time get the same answer; the effects happen once."""
    held = shop.hooks.hold("authorize_payment", "after", O) if running else None
    handle = await shop.start(order_id=O)
    if held:
        await held.reached.wait()
    else:
        await handle.result()
    own = [await shop.start_cancel(O) for _ in range(10)]
    foreign = [await cancel_as(shop, f"support-{n}") for n in range(10)]
    if held:
        await has_looked(shop)
        held.let_go()
    answers = {shape(answer) for answer in await asyncio.gather(*(each.result() for each in (*own, *foreign)))}

    real = VOIDED if running else REFUNDED
    assert real in answers
    assert answers <= {real, (False, real[1], "already_cancelled")}
    await handle.result()
    await check_cancelled(shop)


async def test_a_pending_refund_closes_the_order(shop: Shop) -> None:
    """The bank takes days; the answer says so, and the e-mail names the amount of the pending refund."""
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), O)

    assert shape(await shop.cancel(O)) == (True, False, "refund_pending")
    assert await shop.pool.fetchval("SELECT status FROM refunds WHERE order_id = $1", O) == "pending"
    await check_cancelled(shop)


async def test_a_failed_refund_parks_until_an_operator_settles_it(shop: Shop) -> None:
    """The order stays open while the refund has failed; an operator's resolution closes it."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    cancel = await shop.start_cancel(O)
    await is_stuck(cancel)

    assert (await shop.row(O))["parked_step"] == "void_payment"
    assert await shop.stock() == (98, 0)
    await resolve(cancel, "void_payment", "retry")
    await eventually(lambda: attempts(shop, 2), "a second refund was tried")
    await is_stuck(cancel)
    await resolve(cancel, "void_payment", "resolved")
    assert (await cancel.result()).cancelled
    assert await shop.status(O) == "cancelled"
    assert await shop.stock() == (100, 0)
    assert await attempts(shop, 2)


@pytest.mark.prove
@pytest.mark.parametrize(
    ("ending", "at", "moment"),
    one_in(
        3,
        [
            ("terminate", "claim_cancellation", "before"),
            ("terminate", "claim_cancellation", "after"),
            ("terminate", "cancel_fulfillment", "after"),
            ("terminate", "void_payment", "before"),
            ("terminate", "void_payment", "after"),
            ("terminate", "release_stock", "before"),
            ("terminate", "release_stock", "after"),
            ("cancel", "claim_cancellation", "before"),
            ("cancel", "void_payment", "after"),
            ("cancel", "send_email", "before"),
        ],
    ),
)
async def test_cancel_order_itself_is_ended_and_started_again(shop: Shop, ending: str, at: str, moment: Moment) -> None:
    """Cancelled it finishes its work all the same; terminated, the next one finds the claim and goes on."""
    await shop.place(order_id=O)
    held = shop.hooks.hold(at, moment, "cancel-order:o1")
    first = await shop.start_cancel(O)
    await held.reached.wait()
    await (first.terminate() if ending == "terminate" else first.cancel())
    held.let_go()

    second = await shop.cancel(O)
    assert shape(second) in {REFUNDED, (False, True, "already_cancelled")}
    assert await shop.status(O) == "cancelled"
    await assert_invariants(shop, O)
    if ending == "cancel":
        await first.result()
        await check_cancelled(shop)


async def test_without_an_address_nobody_is_written_to(shop: Shop) -> None:
    """The address in the input is optional."""
    await shop.place(order_id=O)

    assert shape(await shop.cancel(O, email=None)) == REFUNDED
    assert "order_cancelled" not in emails_to_customer(shop)


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        (None, "input"),
        ("o1", "input"),
        ({}, "orderId"),
        ({"orderId": "a:b"}, "orderId"),
        ({"orderId": 7}, "orderId"),
        ({"orderId": "o1", "customerEmail": "nobody"}, "customerEmail"),
        ({"orderId": "o1", "amount": 5}, "amount"),
        ({"orderId": "o1", "customerEmail": "4242424242424242@example.com"}, "card number"),
    ],
)
async def test_invalid_input_is_a_completed_run(shop: Shop, payload: Any, names: str) -> None:
    """The reason names the field; the order stands."""
    await shop.place(order_id=O)
    handle = await shop.client.start_workflow(
        CANCEL_ORDER, payload, id="anything", task_queue=shop.task_queue, result_type=CancelOutcome
    )
    outcome = await handle.result()

    assert (outcome.cancelled, outcome.refunded) == (False, False)
    assert (outcome.reason or "").startswith("invalid_request")
    assert names in (outcome.reason or "")
    assert await shop.status(O) == "processing"


async def test_a_warehouse_that_is_out_delays_the_cancel_and_fails_nothing(shop: Shop) -> None:
    """It is tried until the warehouse is back."""
    await shop.place(order_id=O)
    shop.world.faults.add(Fault(service="fulfillment", kind="status", status=503, times=None))
    cancel = await shop.start_cancel(O)

    async def was_asked() -> bool:
        return any(entry["path"] == "/orders/o1/cancel" for entry in shop.world.journal.about())

    await eventually(was_asked, "the warehouse was asked")
    assert await shop.status(O) == "cancelling"
    shop.world.faults.clear()
    await shop.advance(cancel, timedelta(minutes=1))
    assert shape(await cancel.result()) == REFUNDED
    await check_cancelled(shop)


# ------------------------------------------------------------------------------------------------------------- helpers


def shape(outcome: CancelOutcome) -> tuple[bool, bool, str | None]:
    return outcome.cancelled, outcome.refunded, outcome.reason


def emails_to_customer(shop: Shop) -> list[str]:
    return [email.template for email in shop.world.inbox.emails]


async def check_cancelled(shop: Shop) -> None:
    """Stock and money are back, and the customer got one e-mail with the refunded amount."""
    await assert_invariants(shop, O)
    assert await shop.status(O) == "cancelled"
    assert await shop.stock() == (100, 0)
    money = shop.world.provider_records()["orders"].get(O, {"refunded": 0, "refund_pending": 0})
    refunded = (money["refunded"] + money["refund_pending"]) / 100
    told = [email.data["refundAmount"] for email in shop.world.inbox.emails if email.template == "order_cancelled"]
    assert told == [refunded]


async def has_looked(shop: Shop) -> None:
    """cancel-order has claimed the row, or found nothing to claim yet and looked for its run."""

    async def looked() -> bool:
        claims = [name for run, name in shop.hooks.calls if run == "cancel-order:o1"]
        return bool(claims) and (len(claims) > 1 or await shop.status(O) in {"undoing", "cancelling"})

    await eventually(looked, "cancel-order has looked at the row")


async def is_in(shop: Shop, status: str) -> bool:
    return await shop.status(O) == status


async def cancel_as(shop: Shop, workflow_id: str) -> WorkflowHandle[Any, CancelOutcome]:
    payload: Payload = {"orderId": O, "customerEmail": "customer@example.com"}
    return await shop.client.start_workflow(
        CANCEL_ORDER, payload, id=workflow_id, task_queue=shop.task_queue, result_type=CancelOutcome
    )


async def waits_for_the_customer(handle: WorkflowHandle[Any, OrderOutcome]) -> None:
    async def waits() -> bool:
        return (await handle.query(ProcessOrder.status)).stage == "awaiting_customer"

    await eventually(waits, "the run waits for the customer")


async def is_stuck(handle: WorkflowHandle[Any, Any]) -> None:
    async def stuck() -> bool:
        return bool((await handle.query("status", result_type=dict))["parked"])

    await eventually(stuck, "the undo is parked")


async def attempts(shop: Shop, count: int) -> bool:
    return len(await shop.pool.fetch("SELECT FROM refunds WHERE order_id = $1", O)) == count


async def resolve(handle: WorkflowHandle[Any, Any], step: str, action: Any) -> None:
    await handle.execute_update("resolve", Resolution(step=step, action=action, reason="looked at it"))


def permanent() -> ApplicationError:
    return ApplicationError("scripted", type="scripted", non_retryable=True)
