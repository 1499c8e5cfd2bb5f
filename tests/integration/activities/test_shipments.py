"""Shipments that contradict their orders, and goods whose departure nobody reported."""

from datetime import timedelta
from typing import Any

import pytest

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.order_checks import PAGE
from activities.payments import Payments
from activities.shipments import Shipments
from config.settings import Settings
from gateways.http import open_http
from gateways.warehouse import Warehouse
from orders.errors import Permanent, Unavailable
from orders.models import Order, Status
from orders.reconciliation import StrayShipments
from tests.support.activity_bench import ActivityBench, Gate, fulfillment, order_of

AGE = timedelta(hours=2)


async def test_a_request_that_slept_is_found(bench: ActivityBench) -> None:
    """It arrives after the undo, at a warehouse that forgets cancels: the shipment is cancelled, once."""
    bench.world.fulfillment.forgets_cancels = True
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", "POST /orders")
    with pytest.raises(Unavailable):  # the mark is written
        await bench.fulfill(order)
    await undo(bench, order)
    await ship(bench, order)
    assert statuses(bench) == ["accepted"]

    (stray,) = (await check(bench)).found
    assert stray.description.endswith("but its shipment " + (stray.shipment_id or "") + " is accepted")
    for _ in range(2):
        await bench.do(Shipments.cancel_stray_shipment, stray)
    assert statuses(bench) == ["cancelled"]
    assert (await check(bench)).found == ()


async def test_a_request_that_slept_and_shipped(bench: ActivityBench) -> None:
    """It cannot be cancelled any more: an operator must decide, also if it ships just before the cancel."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.pool.execute("UPDATE orders SET status = 'cancelled', cancelled_at = now()")
    (stray,) = (await check(bench)).found
    set_status(bench, order, "shipped")
    with pytest.raises(Permanent, match="already_shipped"):
        await bench.do(Shipments.cancel_stray_shipment, stray)

    (stray,) = (await check(bench)).found
    assert (stray.shipment_id, stray.key) == (None, "shipment:o1")


@pytest.mark.parametrize(("shipment", "status"), [("shipped", "shipped"), ("delivered", "delivered")])
async def test_a_lost_event_is_made_up_for(bench: ActivityBench, shipment: str, status: str) -> None:
    """The order does not stay `processing` for ever."""
    order = order_of()
    await bench.bring(order, "finalize")
    set_status(bench, order, shipment)

    assert (await check(bench)).followed == (f"order o1: the warehouse says {shipment}",)
    assert await bench.status(order.id) == status
    assert await check(bench) == StrayShipments(found=())


@pytest.mark.parametrize("gone", ["forgotten", "cancelled"])
async def test_a_paid_order_without_a_shipment(bench: ActivityBench, gone: str) -> None:
    """Its customer waits in vain: an operator must know, at every look."""
    order = order_of()
    await bench.bring(order, "finalize")
    if gone == "forgotten":
        bench.world.fulfillment.forget(order.id)
    else:
        set_status(bench, order, "cancelled")
    for _ in range(2):
        (stray,) = (await check(bench)).found
        assert stray.shipment_id is None
        assert "is paid, but its shipment ful_" in stray.description


async def test_what_an_operator_settled_is_not_reported(bench: ActivityBench) -> None:
    """The operator knows that the goods left."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.pool.execute("UPDATE orders SET status = 'failed'")
    await bench.pool.execute(
        "INSERT INTO resolutions (order_id, step, action, reason, actor, key)"
        " VALUES ($1, 'cancel_fulfillment', 'resolved', 'rang', 'ann', '1')",
        order.id,
    )
    assert (await check(bench)).found == ()


async def test_a_correct_order_is_asked_about_once_an_hour(bench: ActivityBench) -> None:
    """A second look right after the first makes no call; an order that nobody asked to ship is never looked at."""
    await bench.bring(order_of("o1"), "finalize")
    await bench.bring(order_of("o2"), "authorize")
    await bench.claim_undo(order_of("o2"))
    await bench.pool.execute("UPDATE orders SET status = closing WHERE id = 'o2'")
    for seconds, looks in [(0, 1), (0, 1), (3700, 2)]:
        await bench.pool.execute(
            "UPDATE orders SET shipment_checked_at = shipment_checked_at - make_interval(secs => $1)", seconds
        )
        await check(bench)
        assert len(gets(bench)) == looks


@pytest.mark.prove
async def test_pages(bench: ActivityBench) -> None:
    """The next page begins after the last order that was looked at."""
    for number in range(PAGE + 1):
        await bench.bring(order_of(f"o{number:02}", items=[{"productId": "1", "quantity": 1}]), "finalize")
    await age(bench)
    first = await bench.do(Shipments.check_shipments, "")
    second = await bench.do(Shipments.check_shipments, first.after or "")

    assert (first.after, second.after) == (f"o{PAGE - 1:02}", None)
    assert len(gets(bench)) == PAGE + 1


async def test_a_shipment_that_cannot_be_read_stops_no_other_one(bench: ActivityBench) -> None:
    """It is named; the orders after it are checked all the same."""
    for order_id in ("o1", "o2", "o3"):
        await bench.bring(order_of(order_id, items=[{"productId": "1", "quantity": 1}]), "finalize")
    set_status(bench, order_of("o3"), "shipped")
    bench.fault("fulfillment", "status", "GET *", status=200, body={"id": 7}, order="o1", times=None)
    await age(bench)
    for _ in range(2):
        with pytest.raises(Unavailable):  # it may be read by the next attempt
            await bench.do(Shipments.check_shipments, "")
    found = await bench.do(Shipments.check_shipments, "", attempt=3)

    assert [stray.description for stray in found.found] == [
        "the shipment of order o1 could not be read: fulfillment: malformed_answer"
    ]
    assert await bench.status("o3") == "shipped"


async def test_an_order_that_is_cancelled_meanwhile_is_not_reported(bench: ActivityBench) -> None:
    """The warehouse has cancelled the shipment by then, and the order was paid when it was listed."""
    order = order_of()
    await bench.bring(order, "finalize")
    set_status(bench, order, "cancelled")
    await age(bench)
    looking = await bench.stop_at(Gate(2), Shipments.check_shipments, "")
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    bench.database.gate.opened.set()  # type: ignore[union-attr]

    assert (await looking).found == ()


async def test_a_warehouse_that_is_out(bench: ActivityBench) -> None:
    """Nothing is decided."""
    await bench.bring(order_of(), "finalize")
    bench.fault("fulfillment", "status", "GET *", status=200, body="<html>")
    await age(bench)
    with pytest.raises(Unavailable):
        await bench.do(Shipments.check_shipments, "")
    assert (await bench.row("o1"))["shipment_checked_at"] is None


async def undo(bench: ActivityBench, order: Order) -> None:
    await bench.claim_undo(order, Status.CANCELLED)
    await bench.do(Fulfillment.cancel_fulfillment, order.id)
    await bench.do(Payments.void_payment, order.id)
    await bench.do(Inventory.release_stock, order.id)


async def ship(bench: ActivityBench, order: Order) -> None:
    """The request of a late attempt arrives."""
    key = Settings().fulfillment_key.get_secret_value()
    async with open_http(3) as http:
        warehouse = Warehouse(http, f"{bench.sandbox.url}/fulfillment", key, "shop")
        await warehouse.ship(fulfillment(order), [{"productId": "1", "quantity": 2}])


async def age(bench: ActivityBench) -> None:
    """Let time pass: an order that is young is left alone."""
    statement = "UPDATE orders SET fulfillment_requested_at = fulfillment_requested_at - $1::interval"
    await bench.pool.execute(statement, AGE)


async def check(bench: ActivityBench) -> StrayShipments:
    await age(bench)
    return await bench.do(Shipments.check_shipments, "")


def set_status(bench: ActivityBench, order: Order, status: Any) -> None:
    shipments = bench.world.fulfillment.shipments
    shipments[order.id] = shipments[order.id].model_copy(update={"status": status})


def statuses(bench: ActivityBench) -> list[str]:
    return [shipment["status"] for shipment in bench.world.provider_records()["fulfillment"]]


def gets(bench: ActivityBench) -> list[dict[str, Any]]:
    return [each for each in bench.world.journal.about() if (each["service"], each["method"]) == ("fulfillment", "GET")]
