"""Each claim on an order row is won once, and a caller that loses it gets the row."""

import asyncio
from typing import Any

import asyncpg
import pytest

from activities.inventory import Inventory
from activities.order_state import OrderState, ResolutionRecord
from activities.shipments import Shipments
from orders.models import Park, Status
from saga import Resolution
from tests.support.activity_bench import ActivityBench, order_of

PARK = Park(order_id="o1", step="void_payment", reason="the refund failed", workflow_id="o1")


async def test_claim_undo_twice_is_one_claim(bench: ActivityBench) -> None:
    """The reason of the first claim stays."""
    order = order_of()
    await bench.bring(order, "authorize")
    first = await bench.claim_undo(order, Status.FAILED)

    assert first == await bench.claim_undo(order, Status.REJECTED)
    assert (first.status, first.closing, first.error) == ("undoing", "failed", "it failed")
    assert first.payment_intent_id == (await bench.row(order.id))["payment_intent_id"]
    assert await bench.events(order.id) == ["pending", "undoing"]


@pytest.mark.parametrize("closing", [Status.FAILED, Status.REJECTED, Status.CANCELLED])
async def test_an_order_without_a_row_gets_a_tombstone(bench: ActivityBench, closing: Status) -> None:
    """It is closed at once, so that a late reservation holds nothing."""
    order = order_of()
    for _ in range(2):
        row = await bench.claim_undo(order, closing)
        assert (row.status, row.total) == (closing, 0)

    assert (await bench.reserve(order)).status == closing
    assert await bench.stock() == (100, 0)


async def test_another_payload_cannot_undo_the_order(bench: ActivityBench) -> None:
    """Its claim gets the row, unchanged."""
    order = order_of()
    await bench.reserve(order)
    row = await bench.claim_undo(order_of(items=[{"productId": "2", "quantity": 1}]))

    assert (row.status, row.request_hash) == ("pending", order.request_hash)


@pytest.mark.parametrize(
    ("last", "after"),
    [("reserve", "undoing"), ("capture", "capturing"), ("finalize", "cancelling")],
)
async def test_a_customers_cancel_by_what_the_row_says(bench: ActivityBench, last: str, after: str) -> None:
    """A second claim changes nothing, nor does one while the capture is claimed."""
    await bench.bring(order_of(), last)
    for _ in range(2):
        row = await bench.do(OrderState.claim_cancellation, "o1")
        assert row is not None
        assert row.status == after


async def test_a_cancel_of_an_absent_order_writes_nothing(bench: ActivityBench) -> None:
    """Only the order's own undo writes a tombstone."""
    assert await bench.do(OrderState.claim_cancellation, "o1") is None
    assert await bench.do(OrderState.read_order, "o1") is None
    assert await bench.pool.fetchval("SELECT count(*) FROM orders") == 0


async def test_undo_and_capture_at_once(bench: ActivityBench) -> None:
    """Exactly one of the two claims wins, and both callers get the same answer."""
    for n in range(10):
        order = order_of(f"o{n}")
        await bench.bring(order, "fulfill")
        undone, captured = await asyncio.gather(bench.claim_undo(order), bench.capture(order))
        assert (undone.status, captured) in {("undoing", False), ("capturing", True)}
        assert len(await bench.events(order.id)) == 2


async def test_a_parked_row_does_not_move(bench: ActivityBench) -> None:
    """No late attempt of any activity gets past the mark."""
    order = order_of()
    await bench.bring(order, "finalize")
    await bench.do(OrderState.claim_cancellation, order.id)
    await bench.do(OrderState.park_order, PARK)
    for late in (Shipments.mark_shipped, OrderState.claim_cancellation, Inventory.release_stock):
        await bench.do(late, order.id)

    assert await bench.status(order.id) == "cancelling"
    assert await bench.stock() == (98, 0)


async def test_park_twice_keeps_the_first(bench: ActivityBench) -> None:
    """The first mark stays, also if another run parks the order later."""
    order = order_of()
    await bench.reserve(order)
    await bench.claim_undo(order)
    first = await bench.do(OrderState.park_order, PARK)
    second = PARK.model_copy(update={"step": "cancel_fulfillment", "workflow_id": "cancel-order:o1"})

    assert (first.parked_step, first.parked_by) == ("void_payment", "o1")
    assert await bench.do(OrderState.park_order, second) == first


@pytest.mark.parametrize("last", ["reserve", "capture", "finalize"])
async def test_only_an_undo_can_be_parked(bench: ActivityBench, last: str) -> None:
    """A late attempt cannot park an order that goes forward."""
    await bench.bring(order_of(), last)

    assert (await bench.do(OrderState.park_order, PARK)).parked_step is None


@pytest.mark.parametrize("action", ["retry", "skip", "resolved"])
async def test_resolve_twice_is_one_resolution(bench: ActivityBench, action: Any) -> None:
    """The mark is removed, the resolution is kept once, and the event says so."""
    order = order_of()
    await bench.reserve(order)
    await bench.claim_undo(order)
    await bench.do(OrderState.park_order, PARK)
    resolution = Resolution(step="void_payment", action=action, reason="looked", by="ann")
    record = ResolutionRecord(order_id="o1", key="1", resolution=resolution)
    for _ in range(2):
        await bench.do(OrderState.record_resolution, record)

    assert (await bench.row("o1"))["parked_step"] is None
    assert [row["action"] for row in await bench.pool.fetch("SELECT action FROM resolutions")] == [action]
    why = await bench.pool.fetchval("SELECT why FROM order_events ORDER BY id DESC LIMIT 1")
    assert why == f"{action} of void_payment by ann: looked"


async def test_a_resolution_of_another_step_changes_nothing(bench: ActivityBench) -> None:
    """The operator must name the parked step."""
    order = order_of()
    await bench.reserve(order)
    await bench.claim_undo(order)
    await bench.do(OrderState.park_order, PARK)
    resolution = Resolution(step="release_stock", action="skip", reason="looked", by="ann")
    record = ResolutionRecord(order_id="o1", key="1", resolution=resolution)
    assert await bench.do(OrderState.record_resolution, record) is None

    assert (await bench.row("o1"))["parked_step"] == "void_payment"
    assert await bench.pool.fetchval("SELECT count(*) FROM resolutions") == 0


async def test_a_run_that_has_not_seen_a_resolution_cannot_park(bench: ActivityBench) -> None:
    """A late attempt does not park the row again; a run that has seen the resolution does."""
    order = order_of()
    await bench.reserve(order)
    await bench.claim_undo(order)
    await bench.do(OrderState.park_order, PARK)
    resolution = Resolution(step="void_payment", action="retry", reason="looked", by="ann")
    record = ResolutionRecord(order_id="o1", key="1", resolution=resolution)
    resolved = await bench.do(OrderState.record_resolution, record)

    assert resolved is not None
    assert resolved.resolution_count == 1
    assert (await bench.do(OrderState.park_order, PARK)).parked_step is None
    again = PARK.model_copy(update={"resolution_count": resolved.resolution_count})
    assert (await bench.do(OrderState.park_order, again)).parked_step == "void_payment"


@pytest.mark.parametrize("statement", ["DELETE FROM order_events", "UPDATE order_events SET why = 'nothing'"])
async def test_events_are_append_only(bench: ActivityBench, statement: str) -> None:
    """No statement changes or deletes an event."""
    await bench.reserve(order_of())
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await bench.pool.execute(statement)


async def test_events_name_who_acted(bench: ActivityBench) -> None:
    """The actor is the workflow id of the run that called the activity."""
    await bench.reserve(order_of())
    await bench.do(OrderState.claim_cancellation, "o1", run="cancel-order:o1")
    rows = await bench.pool.fetch("SELECT from_status, to_status, actor FROM order_events ORDER BY id")

    assert [tuple(row) for row in rows] == [
        ("absent", "pending", "bench"),
        ("pending", "undoing", "cancel-order:o1"),
    ]
