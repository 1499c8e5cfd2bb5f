"""Late attempts: the undo has claimed the row first, so an attempt that wakes up after it changes nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.payments import Payments
from orders.errors import Permanent
from orders.models import Order
from tests.support.activity_bench import (
    ActivityBench,
    Gate,
    fulfillment,
    open_activity_bench,
    open_clients,
    order_of,
    payment,
)
from tests.support.invariants import assert_invariants
from tests.support.shop import Shop, eventually

LOST = Permanent("the attempt was given up", type="given_up")


@dataclass(frozen=True)
class LateAttempt:
    """An attempt of an activity: where it falls asleep, counted in transactions, or at a call that is on its way."""

    activity: Callable[[Any, Any], Awaitable[Any]]
    arg: Callable[[Order], Any]
    transaction: int = 0
    route: str = ""


LATE_ATTEMPTS = {
    "before the reservation": LateAttempt(Inventory.reserve_stock, lambda order: order.reservation, transaction=1),
    "before the order is read": LateAttempt(Payments.authorize_payment, payment, transaction=1),
    "while the PaymentIntent is created": LateAttempt(
        Payments.authorize_payment, payment, route="POST /v1/payment_intents"
    ),
    "before the PaymentIntent's id is written": LateAttempt(Payments.authorize_payment, payment, transaction=2),
    "before the confirm arrives": LateAttempt(Payments.authorize_payment, payment, route="POST */confirm"),
    "before the mark of the warehouse": LateAttempt(Fulfillment.request_fulfillment, fulfillment, transaction=1),
    "before the warehouse is reached": LateAttempt(Fulfillment.request_fulfillment, fulfillment, route="POST /orders"),
    "before the shipment's id is written": LateAttempt(Fulfillment.request_fulfillment, fulfillment, transaction=2),
}


@pytest.fixture
async def late_bench(shop: Shop) -> AsyncIterator[ActivityBench]:
    """Where attempts are executed of which the worker knows nothing any more."""
    patient = shop.settings.model_copy(update={"http_timeout_seconds": 6})
    async with open_clients(patient) as clients, open_activity_bench(patient, shop.sandbox, clients) as bench:
        yield bench


@pytest.mark.parametrize("late", LATE_ATTEMPTS.values(), ids=LATE_ATTEMPTS)
async def test_before_the_pivot(shop: Shop, late_bench: ActivityBench, late: LateAttempt) -> None:
    """The step fails, the order is undone, and then its first attempt wakes up: nothing is kept, held or shipped."""
    order = order_of()
    attempts: list[asyncio.Task[Any]] = []

    async def fall_asleep() -> None:
        attempts.append(await asleep(late_bench, late, order))
        raise LOST

    shop.hooks.when(late.activity.__name__, fall_asleep)
    with pytest.raises(WorkflowFailureError):
        await shop.place(order_id=order.id)
    await wake_up(late_bench, attempts[0])

    assert await shop.status(order.id) == "failed"
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, order.id)


async def test_before_the_capture_is_claimed(shop: Shop, late_bench: ActivityBench) -> None:
    """The customer's cancel has claimed the row: the late capture takes nothing."""
    order = order_of()
    held = shop.hooks.hold("capture_payment", "before", order.id)
    run = await shop.start(order_id=order.id)
    await held.reached.wait()
    attempt = await asleep(late_bench, LateAttempt(Payments.capture_payment, order_id, transaction=1), order)
    cancel = await shop.start_cancel(order.id)
    await eventually(lambda: has_status(shop, "undoing"), "the cancel claims the row")
    held.let_go()
    assert (await cancel.result()).cancelled
    assert not (await run.result()).success

    await wake_up(late_bench, attempt)
    assert attempt.result() is False
    assert shop.world.provider_records()["orders"][order.id]["captured"] == 0
    await assert_invariants(shop, order.id)


@pytest.mark.parametrize("end", ["placed", "cancelled", "expired"])
async def test_between_the_claim_of_the_capture_and_its_call(shop: Shop, late_bench: ActivityBench, end: str) -> None:
    """The retry has settled the order, whichever way it went: the late call takes no money a second time."""
    order = order_of()
    attempts: list[asyncio.Task[Any]] = []

    async def fall_asleep() -> None:
        attempts.append(
            await asleep(late_bench, LateAttempt(Payments.capture_payment, order_id, route="POST */capture"), order)
        )
        late_bench.world.stripe.keys.clear()  # or the retry would be told that the first request still runs
        if end == "expired":
            late_bench.world.stripe.account.expire((await shop.row(order.id))["payment_intent_id"])

    shop.hooks.when("capture_payment", fall_asleep)
    if end == "expired":
        with pytest.raises(WorkflowFailureError):
            await shop.place(order_id=order.id)
    else:
        assert (await shop.place(order_id=order.id)).success
    if end == "cancelled":
        assert (await shop.cancel(order.id)).refunded
    before = shop.world.provider_records()["orders"][order.id]
    await wake_up(late_bench, attempts[0])

    assert shop.world.provider_records()["orders"][order.id] == before
    await assert_invariants(shop, order.id)


async def test_an_undo_of_another_time(shop: Shop, late_bench: ActivityBench) -> None:
    """A late release of a cancelled order puts its stock back once."""
    order = order_of()
    held = shop.hooks.hold("release_stock", "before", "cancel-order:o1")
    await shop.place(order_id=order.id)
    cancel = await shop.start_cancel(order.id)
    await held.reached.wait()
    attempt = await asleep(late_bench, LateAttempt(Inventory.release_stock, order_id, transaction=2), order)
    held.let_go()
    await cancel.result()
    await wake_up(late_bench, attempt)

    await assert_invariants(shop, order.id)


async def asleep(late_bench: ActivityBench, late: LateAttempt, order: Order) -> "asyncio.Task[Any]":
    """An attempt that has got as far as to where it sleeps."""
    if late.transaction:
        return await late_bench.stop_at(Gate(late.transaction), late.activity, late.arg(order))
    late_bench.fault("fulfillment" if "orders" in late.route else "stripe", "delay", late.route, seconds=60)
    attempt = asyncio.create_task(late_bench.do(late.activity, late.arg(order)))

    async def is_under_way() -> bool:
        return any(entry["fault"] == "delay" for entry in late_bench.world.journal.about())

    await eventually(is_under_way, f"{late.route} is under way")
    return attempt


async def wake_up(late_bench: ActivityBench, attempt: "asyncio.Task[Any]") -> None:
    """Let go of it, and of the call that it may have on its way; it may end as it likes."""
    if late_bench.database.gate:
        late_bench.database.gate.opened.set()
    late_bench.world.faults.clear()
    await asyncio.gather(attempt, return_exceptions=True)


def order_id(order: Order) -> str:
    return order.id


async def has_status(shop: Shop, status: str) -> bool:
    return await shop.status("o1") == status
