"""Parcels whose events were lost, customers that nobody told, and refunds that nobody started."""

from datetime import timedelta
from typing import Any

import pytest

from activities.parcels import Parcels
from activities.shipments import Shipments
from orders.models import Order
from orders.reconciliation import Problem, StrayShipments
from sandbox.fulfillment import Departure, Item, Lack
from tests.support.activity_bench import ActivityBench, order_of

TWO = [{"productId": "1", "quantity": 2}, {"productId": "2", "quantity": 1}]
AGE = timedelta(hours=2)


@pytest.fixture
async def order(bench: ActivityBench) -> Order:
    order = order_of(items=TWO)
    await bench.bring(order, "finalize")
    return order


async def test_lost_events_of_parcels_are_made_up_for(bench: ActivityBench, order: Order) -> None:
    """The warehouse lists its parcels: the order follows them, one look after the other."""
    send(bench, order, "par_1", {"1": 2})
    assert (await check(bench)).followed == ("order o1: the warehouse says shipping",)
    assert await bench.status(order.id) == "shipping"
    send(bench, order, "par_2", {"2": 1})
    assert (await check(bench)).followed == ("order o1: the warehouse says shipped",)
    assert await bench.status(order.id) == "shipped"
    assert [
        tuple(row) for row in await bench.pool.fetch("SELECT shipment_id, product_id, quantity FROM shipment_lines")
    ] == [
        ("par_1", "1", 2),
        ("par_2", "2", 1),
    ]
    assert await check(bench) == StrayShipments(found=())


async def test_one_more_parcel_while_nothing_else_changes(bench: ActivityBench, order: Order) -> None:
    """An order that stays `shipping` still gets its parcels."""
    send(bench, order, "par_1", {"1": 1})
    await check(bench)
    send(bench, order, "par_2", {"1": 1})
    assert (await check(bench)).followed == ("order o1: the warehouse says shipping",)
    assert await bench.pool.fetchval("SELECT count(*) FROM shipments") == 2


async def test_a_warehouse_that_contradicts_its_list(bench: ActivityBench, order: Order) -> None:
    """It says that all has left, and its parcels have less: operators are told, and the order waits."""
    send(bench, order, "par_1", {"1": 2})
    set_status(bench, order, "shipped")
    await check(bench)  # it has moved meanwhile, so the next look tells
    (stray,) = (await check(bench)).found
    assert stray.description == (
        "the warehouse says that order o1 is shipped, but 1 of product 2 are in none of its parcels"
    )
    assert await bench.status(order.id) == "shipping"


async def test_more_than_was_ordered(bench: ActivityBench, order: Order) -> None:
    """The parcel does not count, and operators are told once a look until the warehouse corrects it."""
    send(bench, order, "par_1", {"1": 3})
    await check(bench)
    text = (
        "the parcel par_1 of order o1: the warehouse says 3 of product 1, but the rest of the order is 2 of product 1"
    )
    assert await bench.do(Parcels.find_parcel_problems, 10) == [
        Problem(key="parcel:o1:par_1", order_id="o1", text=text)
    ]
    send(bench, order, "par_1", {"1": 2})
    await check(bench)
    assert await bench.do(Parcels.find_parcel_problems, 10) == []


async def test_a_refused_cancel_asks_what_has_left(bench: ActivityBench, order: Order) -> None:
    """A part: the order is shipping, and its parcel is kept."""
    send(bench, order, "par_1", {"1": 2})
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    assert (await bench.do(Shipments.mark_shipped, order.id)).status == "shipping"
    assert await bench.pool.fetchval("SELECT id FROM shipments") == "par_1"


async def test_a_refused_cancel_of_goods_that_are_still_there(bench: ActivityBench, order: Order) -> None:
    """The warehouse contradicts itself: the order is not taken for shipped, and is asked about again."""
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    assert (await bench.do(Shipments.mark_shipped, order.id)).status == "shipping"
    assert await bench.pool.fetchval("SELECT count(*) FROM shipments") == 0


async def test_a_shortage_is_found(bench: ActivityBench, order: Order) -> None:
    """The event that told it was lost: it is kept once."""
    short(bench, order, {"2": 1})
    for _ in range(2):
        await check(bench)
    assert [
        tuple(row) for row in await bench.pool.fetch("SELECT number, product_id, quantity FROM shortage_lines")
    ] == [(1, "2", 1)]
    assert await bench.status(order.id) == "processing"


async def test_nothing_can_ever_leave(bench: ActivityBench, order: Order) -> None:
    """An operator must decide: the order is paid, and nothing will be sent."""
    short(bench, order, {"1": 2, "2": 1})
    (stray,) = (await check(bench)).found
    assert stray.description.startswith("the warehouse can never ship any of order o1: `")
    assert "cancel-order o1" in stray.description
    assert await bench.status(order.id) == "processing"


async def test_a_shortage_that_is_not_refunded(bench: ActivityBench, order: Order) -> None:
    """Operators are told, an hour later."""
    short(bench, order, {"2": 1})
    await check(bench)
    assert await bench.do(Parcels.find_parcel_problems, 10) == []
    await bench.pool.execute("UPDATE shortages SET at = at - $1::interval", AGE)
    (problem,) = await bench.do(Parcels.find_parcel_problems, 10)
    assert problem.text == "order o1: the warehouse can never ship 1 of product 2, and it is not refunded"


def send(bench: ActivityBench, order: Order, shipment_id: str, units: dict[str, int]) -> None:
    shipments = bench.world.fulfillment.shipments
    shipments[order.id] = shipments[order.id].sends(Departure(shipment_id=shipment_id, lines=items(units)))


def short(bench: ActivityBench, order: Order, units: dict[str, int]) -> None:
    shipments = bench.world.fulfillment.shipments
    shipments[order.id] = shipments[order.id].lacks(Lack(lines=items(units)))


def set_status(bench: ActivityBench, order: Order, status: Any) -> None:
    shipments = bench.world.fulfillment.shipments
    shipments[order.id] = shipments[order.id].model_copy(update={"status": status})


def items(units: dict[str, int]) -> tuple[Item, ...]:
    return tuple(Item(product_id=product, quantity=quantity) for product, quantity in units.items())


async def check(bench: ActivityBench) -> StrayShipments:
    """What a look an hour later finds."""
    await bench.pool.execute(
        "UPDATE orders SET fulfillment_requested_at = fulfillment_requested_at - $1::interval,"
        " shipment_checked_at = shipment_checked_at - $1::interval",
        AGE,
    )
    return await bench.do(Shipments.check_shipments, "")
