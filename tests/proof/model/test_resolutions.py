"""What the model has found, on the real thing."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import WorkflowUpdateFailedError

from activities.order_state import OrderState, ResolutionRecord
from activities.payments import Payments
from orders.errors import Permanent
from orders.models import Park, Status
from saga import Resolution
from tests.support.activity_bench import ActivityBench, Gate, open_activity_bench, open_clients, order_of
from tests.support.invariants import assert_invariants
from tests.support.scenarios import Run, final_error, is_running, look, resolve, until_stuck
from tests.support.shop import Shop, eventually

O = "o1"  # noqa: E741 (the one order of each test)

STEP = "cancel_fulfillment"


@pytest.fixture
async def late_bench(shop: Shop) -> AsyncIterator[ActivityBench]:
    """Where attempts are executed of which the worker knows nothing any more."""
    async with (
        open_clients(shop.settings) as clients,
        open_activity_bench(shop.settings, shop.sandbox, clients) as bench,
    ):
        yield bench


async def test_a_park_that_comes_after_the_operators_word(shop: Shop, late_bench: ActivityBench) -> None:
    """An attempt of park_order that was given up acts after the operator's `retry`: the undo ends all the same."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail(STEP, final_error())
    run = await shop.start(order_id=O)
    await until_stuck(run)
    park = Park(order_id=O, step=STEP, reason="scripted", workflow_id=O)
    late = await late_bench.stop_at(Gate(1), OrderState.park_order, park)
    again = shop.hooks.hold(STEP)
    await resolve(run, STEP, "retry")
    await again.reached.wait()
    wake(late_bench)
    await late
    again.let_go()

    words = 0
    while await settles(run):
        for step in (await look(run)).parked:
            words += 1
            assert words < 4, f"whatever is said, {step} is stuck"
            await resolve(run, step, "retry")
    assert await shop.status(O) == "failed"
    await assert_invariants(shop, O)


async def test_a_word_to_a_run_whose_order_has_moved_on(shop: Shop) -> None:
    """Two runs wait at one park. One is told to retry, the order is paid; what the other is told refunds nothing."""
    claimed = shop.hooks.hold("capture_payment")
    first = await shop.start(order_id=O)
    await claimed.reached.wait()
    await first.terminate()
    shop.hooks.fail(STEP, final_error())
    cancel = await shop.start_cancel(O)
    await eventually(lambda: is_stuck(cancel), "the cancel is parked")
    claimed.let_go()
    second = await shop.start(order_id=O)
    assert await until_stuck(second) == (STEP,)

    await shop.ship(O)
    await resolve(second, STEP, "retry")
    assert (await second.result()).success
    next_look = shop.hooks.hold("claim_cancellation", "before", cancel.id)
    with pytest.raises(WorkflowUpdateFailedError):
        await resolve(cancel, STEP, "skip")
    await next_look.reached.wait()
    paid, refunded = await shop.status(O) == "processing", shop.world.provider_records()["orders"][O]["refunded"]
    next_look.let_go()
    assert (paid, refunded) == (True, 0)


@pytest.mark.parametrize("step", ["cancel_fulfillment", "void_payment"])
async def test_a_shipment_or_payment_that_an_operator_has_settled(
    shop: Shop, late_bench: ActivityBench, step: str
) -> None:
    """A second driver that sees the goods leave after the operator's `skip` does not go forward.

    The undo goes on, or, if the payment alone is settled, parks: nothing else would end it.
    """
    order = order_of(O)
    await late_bench.bring(order, "fulfill")
    await late_bench.claim_undo(order)
    await late_bench.do(OrderState.park_order, Park(order_id=O, step=step, reason="scripted", workflow_id=O))
    resolution = Resolution(step=step, action="skip", reason="let it go", by="operator")
    record = ResolutionRecord(order_id=O, key="1", resolution=resolution)
    await late_bench.do(OrderState.record_resolution, record)
    await shop.ship(O)
    if step == "void_payment":
        with pytest.raises(Permanent, match="skip by operator"):
            await late_bench.do(Payments.resume_capture, O)
    else:
        await late_bench.do(Payments.resume_capture, O)
    assert await late_bench.status(O) == Status.UNDOING


def wake(late_bench: ActivityBench) -> None:
    assert late_bench.database.gate
    late_bench.database.gate.opened.set()


async def settles(run: Run) -> bool:
    """True: it waits for an operator; False: it has closed."""

    async def stuck_or_closed() -> bool:
        return not await is_running(run) or bool((await look(run)).parked)

    await eventually(stuck_or_closed, "the run is stuck or has closed")
    return await is_running(run)


async def is_stuck(cancel: Run) -> bool:
    return bool((await cancel.query("status"))["parked"])
