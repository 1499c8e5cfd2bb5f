"""Parcels whose events were lost, customers that nobody told, and refunds that nobody started."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.order_state import OrderState
from activities.parcels import Parcels
from activities.payments import Payments
from activities.reconciliation import Reconciliation
from activities.refunds import Refunds
from activities.shipments import Shipments
from gateways.order_refunds import amount_of
from gateways.order_store import lock_row
from gateways.parcel_store import follow_shipment
from gateways.shortage_store import find_unrefunded, settle_shortages
from orders.errors import Unavailable
from orders.models import Order, RefundCharge, RefundLine
from orders.parcels import Parcel, Shipment, Shortage
from orders.reconciliation import Problem, StrayShipments
from sandbox.fulfillment import Departure, Item, Lack
from tests.integration.activities.test_refunds import by_hand, refund_of
from tests.proof.second_opinion import count_units, stock_findings
from tests.support.activity_bench import ActivityBench, order_of

TWO = [{"productId": "1", "quantity": 2}, {"productId": "2", "quantity": 1}]
AGE = timedelta(hours=2)
ADD_REFUND = """
    INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status) VALUES ('o1', 'r1', '', $1, 'made')
"""


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


async def test_problems_that_are_reported_leave_room(bench: ActivityBench, order: Order) -> None:
    """The one that was reported today does not take the place of another; a week counts from when it was found."""
    send(bench, order, "par_1", {"1": 1})
    await check(bench)
    await bench.pool.execute("UPDATE shipments SET at = at - interval '8 days'")
    send(bench, order, "par_1", {"1": 2})
    await check(bench)
    (problem,) = await bench.do(Parcels.find_parcel_problems, 1)
    assert problem.text.endswith("the warehouse says later that the parcel has 2 of product 1")
    since = await bench.pool.fetchval("SELECT problem_at FROM shipments")
    await check(bench)
    assert await bench.pool.fetchval("SELECT problem_at FROM shipments") == since

    send(bench, order, "par_2", {"2": 2})
    await check(bench)
    await remind(bench, problem.key)
    (another,) = await bench.do(Parcels.find_parcel_problems, 1)
    assert another.key == "parcel:o1:par_2"


@pytest.mark.parametrize(
    ("short_of", "refunded", "found"),
    [
        ({"2": 1}, {}, ["started", "reported"]),
        ({"2": 1}, {"2": 1}, []),  # support was faster
        ({"1": 2}, {"1": 1}, ["reported"]),  # refund-order would refuse the two, and one is owed
        ({"1": 1}, {"1": 1}, ["started", "reported"]),  # the unit may be another one
    ],
)
async def test_a_shortage_whose_units_are_refunded(
    bench: ActivityBench, order: Order, short_of: dict[str, int], refunded: dict[str, int], found: list[str]
) -> None:
    """It is not asked for again, and operators are not told of what is not owed."""
    await fall_short(bench, order, short_of)
    await bench.pool.execute(ADD_REFUND, 1)
    for product, units in refunded.items():
        await bench.pool.execute("INSERT INTO order_refund_lines VALUES ('o1', 'r1', $1, $2, 0)", product, units)
    assert ["reported" for _ in await bench.do(Parcels.find_parcel_problems, 10)] == found[-1:]
    assert ["started" for _ in await unrefunded(bench)] == found[:-1]


async def test_a_shortage_of_an_order_whose_money_is_back(bench: ActivityBench, order: Order) -> None:
    """Somebody refunded all of it at Stripe: refund-order would refuse, and nothing is owed."""
    await fall_short(bench, order, {"2": 1})
    await bench.pool.execute(
        "INSERT INTO refunds (id, order_id, payment_intent_id, amount, status, attempt)"
        " SELECT 're_1', id, payment_intent_id, total, 'succeeded', 1 FROM orders"
    )
    assert await bench.do(Parcels.find_parcel_problems, 10) == []
    assert await bench.do(Parcels.refund_shortages, 10) == []


@pytest.mark.parametrize(
    ("refunded_at", "found"),
    [
        ("now()", ["shortage:o1:1"]),  # that is how the operator paid: the rest is left
        ("now() - interval '1 day'", []),  # it had another reason: both are gone, and with them the money
    ],
    ids=["after the claim", "before the claim"],
)
async def test_a_shortage_after_an_operator_paid_a_part(
    bench: ActivityBench, order: Order, refunded_at: str, found: list[str]
) -> None:
    """A refund in the dashboard may be how the part was paid: then the money is spent once."""
    await fall_short(bench, order, {"2": 1})
    most = await bench.pool.fetchval("SELECT total * 2 / 3 FROM orders")
    await bench.pool.execute(ADD_REFUND, most)
    await decide(bench, "resolved", "refund:r1")
    await bench.pool.execute(
        "INSERT INTO refunds (id, order_id, payment_intent_id, amount, status, attempt, made_at)"  # noqa: S608 (ours)
        f" SELECT 're_1', id, payment_intent_id, $1, 'succeeded', 1, {refunded_at} FROM orders",
        most,
    )
    assert [problem.key for problem in await bench.do(Parcels.find_parcel_problems, 10)] == found
    assert len(await unrefunded(bench)) == len(found)


async def test_a_shortage_of_a_cancelled_order(bench: ActivityBench, order: Order) -> None:
    """The cancel refunds it; it takes the place of no other one."""
    await fall_short(bench, order, {"2": 1})
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    assert await bench.do(Parcels.find_parcel_problems, 10) == []
    assert await bench.do(Parcels.refund_shortages, 10) == []


async def test_a_shortage_is_reported_once_a_day(bench: ActivityBench, order: Order) -> None:
    """It does not take the place of others."""
    await fall_short(bench, order, {"2": 1})
    (problem,) = await bench.do(Parcels.find_parcel_problems, 10)
    await remind(bench, problem.key)
    assert await bench.do(Parcels.find_parcel_problems, 10) == []


@pytest.mark.parametrize(("restock", "lost"), [(False, 1), (True, 0)], ids=["write off", "restock"])
async def test_a_cancel_before_a_shortage_is_refunded(
    bench: ActivityBench, order: Order, *, restock: bool, lost: int
) -> None:
    """The unit is lost or back in stock, as it was when the shortage was kept, whatever becomes of its refund."""
    units = await count_units(bench.pool)
    short(bench, order, {"2": 1})
    await check(bench)
    await bench.pool.execute("UPDATE shortages SET restock = $1", restock)
    await cancel(bench, order)
    assert await bench.stock("2") == (40 - lost, 0)
    refund = Shortage(order.id, 1, {"2": 1}, restock).refund(None)
    assert (await bench.do(Refunds.claim_refund, refund)).refusal == "order_cancelled"
    assert await stock_findings(bench.pool, units) == []


@pytest.mark.parametrize("last", ["fulfill", "finalize"], ids=["undo", "cancel"])
async def test_a_cancel_asks_what_the_warehouse_is_short_of(bench: ActivityBench, last: str) -> None:
    """The event was lost: the missing unit is not for sale, and is kept once, however often the cancel is tried."""
    units = await count_units(bench.pool)
    order = order_of(items=TWO)
    await bench.bring(order, last)
    short(bench, order, {"2": 1})
    bench.fault("fulfillment", "reset_before", "GET *")
    with pytest.raises(Unavailable):
        await cancel(bench, order)
    bench.world.faults.clear()
    await cancel(bench, order)
    await bench.do(Fulfillment.cancel_fulfillment, order.id)
    assert await bench.stock("1") == (100, 0)
    assert await bench.stock("2") == (39, 0)
    assert await bench.pool.fetchval("SELECT count(*) FROM shortages") == 1
    assert await stock_findings(bench.pool, units) == []


async def test_a_cancelled_shipment_that_is_short_of_more_than_was_ordered(bench: ActivityBench, order: Order) -> None:
    """Nothing of that is believed, and the order's events say so, once."""
    short(bench, order, {"2": 2})
    for _ in range(2):
        await bench.do(OrderState.claim_cancellation, order.id)
        await bench.do(Fulfillment.cancel_fulfillment, order.id)
    await cancel(bench, order)
    assert await bench.stock("2") == (40, 0)
    text = "the warehouse says 2 of product 2, but the rest of the order is 1 of product 2"
    assert await bench.pool.fetchval("SELECT count(*) FROM order_events WHERE why = $1", text) == 1


async def test_the_refund_of_a_shortage_is_withdrawn_after_a_cancel(bench: ActivityBench, order: Order) -> None:
    """The cancel was faster at Stripe; the unit is missing all the same."""
    short(bench, order, {"2": 1})
    await check(bench)
    refund = Shortage(order.id, 1, {"2": 1}).refund(None)
    assert (await bench.do(Refunds.claim_refund, refund)).status == "claimed"
    await cancel(bench, order)
    assert (await bench.do(Refunds.make_refund, refund.key)).refusal == "nothing_left"
    assert await bench.stock("2") == (39, 0)


@pytest.mark.parametrize("has_a_problem", [False, True])
@pytest.mark.parametrize("days", [0, 40])
async def test_nothing_can_ever_leave_of_an_order_that_cannot_be_cancelled(
    bench: ActivityBench, order: Order, *, days: int, has_a_problem: bool
) -> None:
    """The warehouse said that goods have left: the order ends, and operators are told until it is refunded."""
    if has_a_problem:
        send(bench, order, "par_1", {"1": 3})
    else:
        await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
        await bench.do(Shipments.mark_shipped, order.id)
    short(bench, order, {"1": 2, "2": 1})
    assert (await check(bench)).found == ()
    assert await bench.status(order.id) == "shipped"
    await bench.pool.execute("UPDATE shortages SET at = at - $1::interval", AGE + timedelta(days=days))
    text = "the warehouse can never ship any of order o1, which cannot be cancelled: refund it"
    assert Problem(key="empty:o1", order_id="o1", text=text) in await bench.do(Parcels.find_parcel_problems, 10)
    await bench.pool.execute(ADD_REFUND, await bench.pool.fetchval("SELECT total FROM orders"))
    assert all(each.key != "empty:o1" for each in await bench.do(Parcels.find_parcel_problems, 10))


@pytest.mark.parametrize(("days", "found"), [(0, ["empty:o1"]), (8, [])])
async def test_what_is_left_of_an_order_whose_lines_are_refunded(
    bench: ActivityBench, order: Order, days: int, found: list[str]
) -> None:
    """Operators are told for a week from when it was refunded and could not be cancelled, however old the shortage."""
    await fall_short(bench, order, {"1": 2, "2": 1})
    await bench.pool.execute("UPDATE shortages SET at = at - interval '40 days'")
    refund = Shortage(order.id, 1, {"1": 2, "2": 1}).refund(None, Decimal(100))
    await bench.do(Refunds.claim_refund, refund)
    await bench.do(Refunds.make_refund, refund.key)
    await bench.do(Inventory.return_stock, refund.key)
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    assert await unrefunded(bench) == []
    await bench.do(Shipments.mark_shipped, order.id)
    assert await unrefunded(bench) == []
    await bench.pool.execute("UPDATE shortages SET settled_at = settled_at - make_interval(days => $1)", days)
    assert [problem.key for problem in await bench.do(Parcels.find_parcel_problems, 10)] == found


async def test_a_part_that_can_still_leave_of_an_order_that_cannot_be_cancelled(
    bench: ActivityBench, order: Order
) -> None:
    """The warehouse will ship it: the order waits, and nobody is told to refund it."""
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    await bench.do(Shipments.mark_shipped, order.id)
    short(bench, order, {"1": 2})
    assert (await check(bench)).found == ()
    assert await bench.status(order.id) == "shipping"
    await bench.pool.execute("UPDATE shortages SET at = at - $1::interval", AGE)
    assert [each.key for each in await bench.do(Parcels.find_parcel_problems, 10)] == ["shortage:o1:1"]


@pytest.mark.parametrize(
    ("decided", "found"),
    [
        (None, ["shortage:o1:1"]),
        ("retry", ["shortage:o1:1"]),  # it was tried again, and less was left
        ("skip", []),
        ("resolved", []),
    ],
)
async def test_a_shortage_whose_refund_is_withdrawn(
    bench: ActivityBench, order: Order, decided: str | None, found: list[str]
) -> None:
    """Somebody refunded in the dashboard meanwhile, and less is left: operators are told until one decides."""
    await fall_short(bench, order, {"2": 1})
    refund = Shortage(order.id, 1, {"2": 1}).refund(None)
    await bench.do(Refunds.claim_refund, refund)
    await by_hand(bench, await bench.pool.fetchval("SELECT total - 8899 FROM orders"))
    assert (await bench.do(Refunds.make_refund, refund.key)).refusal == "more_than_left"
    if decided:
        await decide(bench, decided)

    assert await bench.do(Parcels.refund_shortages, 10) == []
    assert [problem.key for problem in await bench.do(Parcels.find_parcel_problems, 10)] == found
    await bench.pool.execute("UPDATE orders SET status = 'cancelled', cancelled_at = now()")
    assert await bench.do(Parcels.find_parcel_problems, 10) == []


async def test_a_refund_of_a_shortage_that_fails_after_it_was_made(bench: ActivityBench, order: Order) -> None:
    """The units are back in stock and the money is not: it was settled, and is owed again."""
    send(bench, order, "par_1", {"1": 2})
    await fall_short(bench, order, {"2": 1})
    refund = Shortage(order.id, 1, {"2": 1}, restock=True).refund(None)
    await bench.do(Refunds.claim_refund, refund)
    await bench.do(Refunds.make_refund, refund.key)
    await bench.do(Inventory.return_stock, refund.key)
    await bench.do(Parcels.refund_shortages, 10)
    assert await is_settled(bench)
    (made,) = bench.world.stripe.account.refunds.values()
    made.fail()
    await bench.do(Reconciliation.follow_refunds, order.id)
    await by_hand(bench, await bench.pool.fetchval("SELECT total - 8899 FROM orders"))
    assert (await bench.do(Refunds.make_refund, refund.key)).status == "withdrawn"
    (problem,) = await bench.do(Parcels.find_parcel_problems, 10)
    assert problem.key == "shortage:o1:1"


@pytest.mark.parametrize("status", ["processing", "shipped"])
async def test_a_shortage_that_could_not_be_refunded_for_weeks(bench: ActivityBench, order: Order, status: str) -> None:
    """A cancel was parked, or nobody looked: neither the refund nor the alert is lost."""
    await fall_short(bench, order, {"2": 1})
    await bench.pool.execute("UPDATE orders SET status = 'cancelling'")
    await bench.pool.execute("UPDATE shortages SET at = at - interval '40 days'")
    assert await unrefunded(bench) == []
    await bench.pool.execute("UPDATE orders SET status = $1", status)
    assert [each.refund_id for each in await unrefunded(bench)] == ["shorted-1"]
    (problem,) = await bench.do(Parcels.find_parcel_problems, 10)
    assert problem.key == "shortage:o1:1"
    await decide(bench, "resolved")
    assert await unrefunded(bench) == []
    assert await bench.do(Parcels.find_parcel_problems, 10) == []


@pytest.mark.parametrize(
    ("status", "refund", "settled"),
    [
        ("cancelled", "none", True),
        ("cancelling", "made", False),  # if it is refused, the order goes on
        ("processing", "made", False),  # it may still be cancelled
        ("shipping", "made", True),
        ("shipped", "claimed", False),
        ("shipped", "withdrawn", False),
        ("shipped", "none", False),
        ("shipped", "another, of all", True),
        ("shipped", "another, of all, today", False),  # it may fail
    ],
)
async def test_nothing_is_left_to_do_about_a_shortage(
    bench: ActivityBench, order: Order, status: str, refund: str, *, settled: bool
) -> None:
    """Only then is it looked at no more."""
    await fall_short(bench, order, {"2": 1})
    if "today" not in refund:
        await bench.pool.execute("UPDATE shortages SET at = at - interval '40 days'")
    await bench.pool.execute(
        "UPDATE orders SET status = $1, cancelled_at = CASE $1 WHEN 'cancelled' THEN now() END", status
    )
    if "another" in refund:
        await bench.pool.execute(ADD_REFUND, await bench.pool.fetchval("SELECT total FROM orders"))
    elif refund != "none":
        await bench.pool.execute(
            "INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status, refusal)"
            " VALUES ('o1', 'shorted-1', '', 1, $1, CASE $1 WHEN 'withdrawn' THEN 'more_than_left' END)",
            refund,
        )
    await unrefunded(bench)
    assert await is_settled(bench) is settled


@pytest.mark.parametrize(
    ("refunded", "amount"),
    [
        ({}, "32.99"),
        ({"charges": [("tax", 6)]}, "29.99"),
        ({"charges": [("tax", 3)], "lines": [("1", 1)]}, "32.99"),  # the tax of the other unit
        ({"charges": [("tax", 4)]}, "31.99"),
        ({"charges": [("shipping", 5)]}, "32.99"),
    ],
)
async def test_tax_is_refunded_once(bench: ActivityBench, refunded: dict[str, Any], amount: str) -> None:
    """What refund-order has returned of the tax is not returned again with the units of a shortage."""
    charges = [{"type": "tax", "amount": 6}, {"type": "shipping", "amount": 5}]
    order = order_of(items=[{"productId": "1", "quantity": 2}], charges=charges)
    await bench.bring(order, "finalize")
    if refunded:
        refund = refund_of(
            lines=tuple(RefundLine(product_id=product, quantity=units) for product, units in refunded.get("lines", ())),
            charges=tuple(RefundCharge(type=type_, amount=Decimal(most)) for type_, most in refunded["charges"]),
        )
        assert (await bench.do(Refunds.claim_refund, refund)).status == "claimed"
    async with bench.database.transaction() as connection:
        row = await lock_row(connection, order.id)
        assert await amount_of(connection, row, Shortage(order.id, 1, {"1": 1})) == Decimal(amount)


async def test_an_erased_order_gets_no_tracking(bench: ActivityBench, order: Order) -> None:
    """What was erased does not come back with the next answer of the warehouse."""
    send(bench, order, "par_1", {"1": 2, "2": 1}, tracking="1Z999")
    await check(bench)
    await bench.pool.execute("SELECT forget_orders(customer_id, ARRAY[id], 'ann') FROM orders")
    shipment = Shipment(id="ful_1", status="shipped", parcels=(Parcel(shipment_id="par_1", tracking="1Z999"),))
    async with bench.database.transaction() as connection:
        await follow_shipment(connection, await lock_row(connection, order.id), shipment, restock=False)
    assert await bench.pool.fetchval("SELECT tracking FROM shipments") is None


async def cancel(bench: ActivityBench, order: Order) -> None:
    """Cancel a paid order, or undo one that is not paid yet."""
    await bench.do(OrderState.claim_cancellation, order.id)
    await bench.do(Fulfillment.cancel_fulfillment, order.id)
    await bench.do(Payments.void_payment, order.id)
    assert (await bench.do(Inventory.release_stock, order.id)).status == "cancelled"


def send(
    bench: ActivityBench, order: Order, shipment_id: str, units: dict[str, int], tracking: str | None = None
) -> None:
    shipments = bench.world.fulfillment.shipments
    said = Departure(shipment_id=shipment_id, lines=items(units), tracking=tracking)
    shipments[order.id] = shipments[order.id].sends(said)


def short(bench: ActivityBench, order: Order, units: dict[str, int]) -> None:
    shipments = bench.world.fulfillment.shipments
    shipments[order.id] = shipments[order.id].lacks(Lack(lines=items(units)))


def set_status(bench: ActivityBench, order: Order, status: Any) -> None:
    shipments = bench.world.fulfillment.shipments
    shipments[order.id] = shipments[order.id].model_copy(update={"status": status})


def items(units: dict[str, int]) -> tuple[Item, ...]:
    return tuple(Item(product_id=product, quantity=quantity) for product, quantity in units.items())


async def fall_short(bench: ActivityBench, order: Order, units: dict[str, int]) -> None:
    """The warehouse said two hours ago that these units can never leave."""
    short(bench, order, units)
    await check(bench)
    await bench.pool.execute("UPDATE shortages SET at = at - $1::interval", AGE)


async def unrefunded(bench: ActivityBench) -> list[Shortage]:
    """Those whose refund is to be started, which takes Temporal; the bench has none."""
    async with bench.database.transaction() as connection:
        await settle_shortages(connection)
        return await find_unrefunded(connection, timedelta(0), 10)


async def is_settled(bench: ActivityBench) -> bool:
    return bool(await bench.pool.fetchval("SELECT settled_at < now() FROM shortages"))


async def decide(bench: ActivityBench, action: str, step: str = "refund:shorted-1") -> None:
    """As docs/operating.md tells operators to, where no run is open."""
    await bench.pool.execute(
        "INSERT INTO resolutions (order_id, step, action, reason, actor, key)"
        " VALUES ('o1', $1, $2, 'paid by bank transfer', 'ann', gen_random_uuid())",
        step,
        action,
    )


async def remind(bench: ActivityBench, key: str) -> None:
    """Operators were alerted."""
    await bench.pool.execute("INSERT INTO reminders (key) VALUES ($1)", key)


async def check(bench: ActivityBench) -> StrayShipments:
    """What a look an hour later finds."""
    await bench.pool.execute(
        "UPDATE orders SET fulfillment_requested_at = fulfillment_requested_at - $1::interval,"
        " shipment_checked_at = shipment_checked_at - $1::interval",
        AGE,
    )
    return await bench.do(Shipments.check_shipments, "")
