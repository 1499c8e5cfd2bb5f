"""An order that leaves the warehouse in parcels: each is kept once, and the order follows them."""

import asyncio
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import httpx
import pytest

from app.web import events
from orders.errors import NoAnswer
from sandbox.faults import Fault
from sandbox.fulfillment import Item
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in
from tests.support.shop import CHARGES, an_order, eventually
from tests.support.web import Web, an_event

O = "o1"  # noqa: E741 (the one order of each test)

TWO_LINES = an_order(items=[{"productId": "1", "quantity": 2}, {"productId": "2", "quantity": 1}])
FIRST = {"shipmentId": "par_1", "lines": [{"productId": "1", "quantity": 2}], "carrier": "UPS", "tracking": "1Z999"}
SECOND = {
    "shipmentId": "par_2",
    "lines": [{"productId": "2", "quantity": 1}],
    "trackingUrl": "https://carrier.example/track/7",
}


async def tell(web: Web, kind: str, parcel: dict[str, Any], event_id: str | None = None) -> httpx.Response:
    return await web.post("fulfillment", an_event("fulfillment", f"order.{kind}", O, event_id, **parcel))


async def until(web: Web, status: str) -> None:
    async def reached() -> bool:
        return await web.shop.status(O) == status

    await eventually(reached, f"the order is {status}")


async def e_mails(web: Web, count: int, template: str = "order_shipped") -> Sequence[dict[str, Any]]:
    """What customers read, once there are so many messages of that kind."""

    def found() -> list[dict[str, Any]]:
        mails = web.shop.world.provider_records()["emails"]
        return [mail["data"] for mail in mails if mail["template"] == template]

    async def arrived() -> bool:
        return len(found()) >= count

    await eventually(arrived, f"{count} messages")
    return found()


async def kept(web: Web) -> list[tuple[Any, ...]]:
    rows = await web.shop.pool.fetch(
        "SELECT s.id, s.shipped_at IS NOT NULL, s.delivered_at IS NOT NULL, l.product_id, l.quantity"
        " FROM shipments s LEFT JOIN shipment_lines l ON (l.order_id, l.shipment_id) = (s.order_id, s.id)"
        " ORDER BY s.id, l.product_id"
    )
    return [tuple(row) for row in rows]


async def problems(web: Web) -> list[str]:
    return [row["problem"] for row in await web.shop.pool.fetch("SELECT problem FROM shipments WHERE problem <> ''")]


@pytest.mark.prove
async def test_an_order_leaves_in_two_parcels(subscribed: Web) -> None:
    """The first one ends what can be cancelled, the last one makes it shipped; the customer is told of each."""
    assert (await subscribed.shop.place(TWO_LINES, order_id=O)).success
    await subscribed.shop.ship(O, FIRST)
    await until(subscribed, "shipping")
    answer = await subscribed.shop.cancel(O)
    assert (answer.cancelled, answer.reason) == (False, "already_shipped")
    await e_mails(subscribed, 1)

    await subscribed.shop.ship(O, SECOND)
    await until(subscribed, "shipped")
    await subscribed.shop.deliver(O, {"shipmentId": "par_2"})
    await subscribed.shop.world.webhook_sender.idle()
    assert await subscribed.shop.status(O) == "shipped"
    await subscribed.shop.deliver(O, {"shipmentId": "par_1"})
    await until(subscribed, "delivered")

    assert await kept(subscribed) == [("par_1", True, True, "1", 2), ("par_2", True, True, "2", 1)]
    told = await e_mails(subscribed, 2)
    assert told == [
        {
            "orderNumber": O,
            "shipmentId": "par_1",
            "items": [{"productId": "1", "quantity": 2}],
            "carrier": "UPS",
            "tracking": "1Z999",
            "trackingUrl": None,
            "complete": False,
        },
        {
            "orderNumber": O,
            "shipmentId": "par_2",
            "items": [{"productId": "2", "quantity": 1}],
            "carrier": None,
            "tracking": None,
            "trackingUrl": "https://carrier.example/track/7",
            "complete": True,
        },
    ]
    await assert_invariants(subscribed.shop, O)


async def test_a_whole_order_is_one_parcel(subscribed: Web) -> None:
    """A warehouse that knows no parcels: its shipment is the parcel, and the customer is told once."""
    outcome = await subscribed.shop.place(TWO_LINES, order_id=O)
    await subscribed.shop.ship(O)
    await until(subscribed, "shipped")
    (told,) = await e_mails(subscribed, 1)
    assert (told["shipmentId"], told["complete"]) == (outcome.fulfillment_id, True)
    assert told["items"] == [{"productId": "1", "quantity": 2}, {"productId": "2", "quantity": 1}]
    await assert_invariants(subscribed.shop, O)


@pytest.mark.parametrize("order", one_in(8, ((each,) for each in permutations(range(4)))), ids=str)
async def test_events_in_any_order(web: Web, order: tuple[int, ...]) -> None:
    """Repeated and reordered events of a warehouse that tells of parcels by events only."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    await web.shop.ship(O, SECOND)
    events = [("shipped", FIRST), ("shipped", SECOND), ("delivered", FIRST), ("delivered", SECOND)]
    for number in order:
        kind, parcel = events[number]
        said = parcel if kind == "shipped" else {"shipmentId": parcel["shipmentId"]}
        for outcome in ("applied", "duplicate"):
            assert (await tell(web, kind, said, f"whe_{number}")).json()["outcome"] == outcome
        assert (await tell(web, kind, said)).json()["outcome"] == "applied"
    assert await web.shop.status(O) == "delivered"
    assert await kept(web) == [("par_1", True, True, "1", 2), ("par_2", True, True, "2", 1)]
    assert len(await e_mails(web, 2)) == 2
    await assert_invariants(web.shop, O)


@pytest.mark.prove
async def test_more_than_was_ordered(web: Web) -> None:
    """The parcel does not count and the event is refused, naming what is wrong; the order has left all the same."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    await tell(web, "shipped", FIRST)
    too_much = {"shipmentId": "par_9", "lines": [{"productId": "1", "quantity": 1}, {"productId": "2", "quantity": 1}]}
    for _ in range(2):
        answer = await tell(web, "shipped", too_much, "whe_9")
        assert answer.status_code == 422
    text = "the warehouse says 1 of product 1, but the rest of the order is 0 of product 1"
    assert await problems(web) == [text]
    assert await web.shop.status(O) == "shipping"

    async def alerted() -> bool:
        return any(text in alert["text"] for alert in web.shop.world.provider_records()["alerts"])

    await eventually(alerted, "operators are alerted")
    assert (
        await tell(web, "shipped", SECOND | {"shipmentId": "par_9"})
    ).status_code == 200  # the warehouse corrects it
    assert await problems(web) == []
    assert await web.shop.status(O) == "shipped"
    await assert_invariants(web.shop, O)


async def test_the_same_parcel_with_other_lines(web: Web) -> None:
    """The first report counts; the event is refused, and operators are alerted."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    assert (await tell(web, "shipped", FIRST)).status_code == 200
    assert (await tell(web, "shipped", SECOND | {"shipmentId": "par_1"})).status_code == 422
    assert await problems(web) == ["the warehouse says later that the parcel has 1 of product 2"]
    assert await kept(web) == [("par_1", True, False, "1", 2)]
    assert await web.shop.status(O) == "shipping"


async def test_the_warehouse_itself_lists_other_parcels(web: Web) -> None:
    """A parcel that an event claims is not believed if the warehouse's own answer does not have it."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    assert (await tell(web, "shipped", SECOND)).status_code == 200
    assert await kept(web) == [("par_1", True, False, "1", 2)]
    assert await web.shop.status(O) == "shipping"


@pytest.mark.parametrize("is_short", [False, True], ids=["all", "shorted"])
@pytest.mark.parametrize(
    ("kind", "claim", "status"),
    [
        ("shipped", FIRST, 503),
        ("shipped", {"tracking": "7"}, 503),
        ("delivered", {"shipmentId": "par_1"}, 503),
        ("shipped", {}, 200),
    ],
    ids=["parcel", "tracking", "delivery", "nothing"],
)
async def test_a_parcel_of_goods_that_are_still_there(
    web: Web, kind: str, claim: dict[str, Any], status: int, *, is_short: bool
) -> None:
    """The warehouse itself answers that nothing has left: what only the event says may be sent again."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    if is_short:
        await web.shop.at_warehouse(O, "short", {"lines": SECOND["lines"]})
    assert (await tell(web, kind, claim)).status_code == status
    assert (await web.shop.status(O), await kept(web)) == ("processing", [])


async def test_an_event_that_is_faster_than_the_answer(web: Web) -> None:
    """It is sent again until the warehouse says so too, and nothing of it is lost."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    assert (await tell(web, "shipped", FIRST, "whe_1")).status_code == 503
    await web.shop.ship(O, FIRST)
    assert (await tell(web, "shipped", FIRST, "whe_1")).json()["outcome"] == "applied"
    assert await kept(web) == [("par_1", True, False, "1", 2)]
    assert await web.shop.pool.fetchval("SELECT tracking FROM shipments") == "1Z999"


@pytest.mark.parametrize("has_arrived", [False, True])
async def test_what_has_left_as_a_whole(web: Web, *, has_arrived: bool) -> None:
    """Nothing of it can be short, and no parcel of it can leave: operators are told, and nothing is refunded."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O)
    assert (await tell(web, "shipped", {})).status_code == 200
    if has_arrived:
        await web.shop.deliver(O)
        assert (await tell(web, "delivered", {})).status_code == 200
    status = await web.shop.status(O)
    assert status == ("delivered" if has_arrived else "shipped")
    shipments = web.shop.world.fulfillment.shipments
    shipments[O] = shipments[O].model_copy(update={"shorted": (Item(product_id="2", quantity=1),)})

    answer = await tell(web, "shorted", {})
    text = "the warehouse says 1 of product 2, but the rest of the order is 0 of product 2"
    assert (answer.status_code, answer.json()["why"]) == (422, f"lines: {text}")
    assert await problems(web) == [text]
    assert (await tell(web, "shipped", FIRST)).status_code == 422
    assert (await tell(web, "delivered", {})).status_code == 200  # it says nothing that is wrong
    assert await web.shop.pool.fetchval("SELECT count(*) FROM shortages") == 0
    assert await web.shop.status(O) == status
    await assert_invariants(web.shop, O)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"lines": []}, "lines"),
        ({"lines": [{"productId": "1", "quantity": 0}]}, "lines[0].quantity"),
        ({"lines": [{"productId": "1", "quantity": 1.5}]}, "lines[0].quantity"),
        ({"lines": [{"productId": "1' --", "quantity": 1}]}, "lines[0].productId"),
        ({"lines": [{"productId": "1", "quantity": 1}] * 101}, "lines"),
        ({"lines": "all"}, "lines"),
        ({"shipmentId": ""}, "shipmentId"),
        ({"shipmentId": "par 1"}, "shipmentId"),
        ({"shipmentId": 1}, "shipmentId"),
        ({"shipmentId": None, "lines": FIRST["lines"]}, "shipmentId"),
    ],
)
async def test_bad_input(web: Web, wrong: dict[str, Any], field: str) -> None:
    """The answer names the field; nothing is kept."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    web.shop.world.fulfillment.hides_parcels = True
    await web.shop.ship(O, FIRST)
    answer = await tell(web, "shipped", FIRST | wrong)
    assert answer.status_code == 400
    assert field in answer.json()["why"]
    assert (await kept(web), await web.kept()) == ([], [])


@pytest.mark.parametrize(
    "odd",
    [
        {"carrier": "<b>UPS</b>"},
        {"tracking": "1\u202e2"},
        {"carrier": "x" * 101},
        {"tracking": 7},
        {"trackingUrl": "javascript:alert(1)"},
    ],
    ids=str,
)
async def test_an_odd_text(web: Web, odd: dict[str, Any]) -> None:
    """It is left out; the parcel counts."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    assert (await tell(web, "shipped", FIRST | {"trackingUrl": "https://carrier.example"} | odd)).status_code == 200
    assert await kept(web) == [("par_1", True, False, "1", 2)]
    found = await web.shop.pool.fetchrow("SELECT carrier, tracking, tracking_url FROM shipments")
    assert found is not None
    assert sum(each is None for each in found) == 1


async def test_an_answer_with_odd_parcels(web: Web) -> None:
    """What can be read counts, operators are told of the rest, and a cancel is refused at once."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    odd: dict[str, Any] = {
        "id": "ful_1",
        "status": "shipping",
        "parcels": [FIRST | {"carrier": "x" * 101}, {"shipmentId": "par_2", "lines": []}, {"lines": "no id"}],
        "shorted": [{"productId": "SKU 7", "quantity": 1}],
    }
    fault = Fault(service="fulfillment", route="GET *", kind="status", status=200, body=odd, times=None)
    web.shop.world.faults.add(fault)
    answer = await web.shop.cancel(O)
    assert (answer.cancelled, answer.reason) == (False, "already_shipped")
    assert await web.shop.status(O) == "shipping"
    assert (await tell(web, "delivered", {})).status_code == 200
    assert (await tell(web, "shorted", {})).status_code == 422
    assert await kept(web) == [("par_1", True, False, "1", 2), ("par_2", False, False, None, None)]
    (problem,) = await problems(web)
    assert problem.startswith("the warehouse's answer cannot be read: lines: ")


async def test_a_part_without_lines(web: Web) -> None:
    """While the warehouse says that only a part has left, a parcel without lines could be any."""
    web.shop.world.fulfillment.hides_parcels = True
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    answer = await tell(web, "shipped", {"shipmentId": "par_1"})
    assert (answer.status_code, answer.json()["why"].partition(":")[0]) == (422, "lines")
    assert await web.shop.status(O) == "shipping"


async def test_a_tracking_number_that_comes_later(web: Web) -> None:
    """It is kept; the customer is not told again."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST | {"tracking": None})
    await tell(web, "shipped", FIRST)
    await e_mails(web, 1)
    await web.shop.ship(O, FIRST)
    await tell(web, "shipped", FIRST)
    assert await web.shop.pool.fetchval("SELECT tracking FROM shipments") == "1Z999"
    assert len(await e_mails(web, 1)) == 1


async def test_a_part_that_leaves_while_the_order_is_cancelled(web: Web) -> None:
    """cancel-order finds out at the warehouse, and the order goes on with what has left."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    held = web.shop.hooks.hold("cancel_fulfillment")
    cancel = await web.shop.start_cancel(O)
    await held.reached.wait()
    await web.shop.ship(O, FIRST)
    assert (await tell(web, "shipped", FIRST)).status_code == 503
    held.let_go()
    assert (await cancel.result()).reason == "already_shipped"
    assert await web.shop.events(O) == ["pending", "capturing", "processing", "cancelling", "shipping"]
    assert await kept(web) == [("par_1", True, False, "1", 2)]
    await web.shop.ship(O, SECOND)
    assert (await tell(web, "shipped", SECOND)).status_code == 200
    assert await web.shop.status(O) == "shipped"
    await assert_invariants(web.shop, O)


async def test_temporal_out_of_reach(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parcel is kept, and nobody waits for its row; reconcile-orders tells the customer."""
    locked: list[bool] = []

    async def refuse(*_: Any) -> None:
        free = await web.shop.pool.fetch("SELECT id FROM orders WHERE id = $1 FOR UPDATE SKIP LOCKED", O)
        locked.append(not free)
        raise NoAnswer("Temporal does not answer")

    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    monkeypatch.setattr(events, "start_notify_shipment", refuse)
    await web.shop.ship(O, FIRST)
    assert (await tell(web, "shipped", FIRST)).json()["outcome"] == "applied"
    assert locked == [False]
    assert await web.shop.status(O) == "shipping"
    assert await kept(web) == [("par_1", True, False, "1", 2)]


async def test_events_that_arrive_twice_and_out_of_order(subscribed: Web) -> None:
    """As the sandbox can deliver them."""
    for kind in ("duplicate", "reorder", "delay"):
        subscribed.shop.world.faults.add(Fault(service="webhooks", route="order.shipped", kind=kind, seconds=0.2))
    assert (await subscribed.shop.place(TWO_LINES, order_id=O)).success
    await subscribed.shop.ship(O, {"lines": [{"productId": "1", "quantity": 1}]})
    await subscribed.shop.ship(O, {"lines": [{"productId": "1", "quantity": 1}]})
    await subscribed.shop.ship(O)
    await until(subscribed, "shipped")
    assert len(await e_mails(subscribed, 3)) == 3
    await assert_invariants(subscribed.shop, O)


async def test_a_line_that_can_never_leave(subscribed: Web) -> None:
    """It is refunded and written off, the order is shipped with the rest, and the customer is told of both."""
    assert (await subscribed.shop.place(TWO_LINES, order_id=O)).success
    await subscribed.shop.ship(O, FIRST)
    await until(subscribed, "shipping")
    await subscribed.shop.at_warehouse(O, "short")
    await until(subscribed, "shipped")
    (refund,) = await e_mails(subscribed, 1, "order_refunded")
    assert refund["refundAmount"] == 89.0
    assert refund["lines"] == [{"productId": "2", "quantity": 1}]
    (told,) = await e_mails(subscribed, 1)
    assert told["shipmentId"] == "par_1"
    stock = await subscribed.shop.pool.fetchrow("SELECT quantity, sold FROM inventory WHERE product_id = '2'")
    assert stock is not None
    assert tuple(stock) == (39, 1)
    await assert_invariants(subscribed.shop, O)


@pytest.mark.prove
async def test_a_shortage_is_refunded_once(web: Web) -> None:
    """However often the warehouse says so; more of it is one more refund."""
    order = an_order(items=[{"productId": "1", "quantity": 3}])
    assert (await web.shop.place(order, order_id=O)).success
    one = [{"productId": "1", "quantity": 1}]
    await web.shop.at_warehouse(O, "short", {"lines": one})
    for _ in range(3):
        assert (await tell(web, "shorted", {"lines": one})).status_code == 200
    await web.shop.at_warehouse(O, "short", {"lines": one})
    assert (await tell(web, "shorted", {"lines": one})).status_code == 200
    await e_mails(web, 2, "order_refunded")
    found = await web.shop.pool.fetch("SELECT refund_id, amount FROM order_refunds ORDER BY refund_id")
    assert [tuple(each) for each in found] == [
        ("shorted-1", 2999),
        ("shorted-2", 2999),
    ]
    assert await web.shop.status(O) == "processing"
    await web.shop.ship(O)
    assert (await tell(web, "shipped", {})).status_code == 200
    assert await web.shop.status(O) == "shipped"
    (told,) = await e_mails(web, 1)
    assert told["items"] == one
    await assert_invariants(web.shop, O)


async def test_a_shortage_of_an_order_with_a_discount(web: Web) -> None:
    """Each line is refunded its share of what was paid for the products, and a cancel the rest, with the shipping."""
    assert (await web.shop.place(TWO_LINES | {"charges": CHARGES}, order_id=O)).success
    for number, lines in enumerate((SECOND["lines"], FIRST["lines"]), start=1):
        await web.shop.at_warehouse(O, "short", {"lines": lines})
        assert (await tell(web, "shorted", {})).status_code == 200
        await e_mails(web, number, "order_refunded")
    found = await web.shop.pool.fetch("SELECT refund_id, amount FROM order_refunds ORDER BY refund_id")
    paid = 2 * 2999 + 8900 - 1000 + 512
    assert [tuple(each) for each in found] == [
        ("shorted-1", 8900 * paid // 14898),
        ("shorted-2", 5998 * paid // 14898),
    ]
    assert (await web.shop.cancel(O)).cancelled
    stock = await web.shop.pool.fetch("SELECT quantity, sold FROM inventory WHERE product_id IN ('1', '2') ORDER BY 1")
    assert [tuple(each) for each in stock] == [(39, 1), (98, 2)]
    await assert_invariants(web.shop, O)


@pytest.mark.parametrize(("charges", "total"), [(CHARGES, 15884), ([], 14898)], ids=["discount", "prices"])
async def test_a_shortage_when_most_is_refunded_already(web: Web, charges: list[Any], total: int) -> None:
    """No more than is left."""
    assert (await web.shop.place(TWO_LINES | {"charges": charges}, order_id=O)).success
    assert (await web.shop.refund(O, "r1", amount=148)).refunded
    await web.shop.at_warehouse(O, "short", {"lines": SECOND["lines"]})
    assert (await tell(web, "shorted", {})).status_code == 200
    await e_mails(web, 2, "order_refunded")
    amount = await web.shop.pool.fetchval("SELECT amount FROM order_refunds WHERE refund_id = 'shorted-1'")
    assert amount == total - 14800


async def test_a_shortage_that_the_warehouse_does_not_confirm(web: Web) -> None:
    """An event alone refunds nothing."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    assert (await tell(web, "shorted", {"lines": FIRST["lines"]})).status_code == 200
    assert await web.shop.pool.fetchval("SELECT count(*) FROM shortages") == 0


async def test_more_is_short_than_was_ordered(web: Web) -> None:
    """It is refused, and nothing is refunded."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.at_warehouse(O, "short", {"lines": [{"productId": "2", "quantity": 2}]})
    answer = await tell(web, "shorted", {})
    assert answer.status_code == 422
    assert (
        answer.json()["why"] == "lines: the warehouse says 2 of product 2, but the rest of the order is 1 of product 2"
    )
    assert await web.shop.pool.fetchval("SELECT count(*) FROM shortages") == 0


async def test_a_second_delivery_that_finds_more(web: Web) -> None:
    """Two deliveries of one event at the same time: what only the slower one has read is told of too."""
    assert (await web.shop.place(TWO_LINES, order_id=O)).success
    await web.shop.ship(O, FIRST)
    web.shop.world.faults.add(Fault(service="fulfillment", route="GET *", kind="delay", seconds=2))
    slow = asyncio.create_task(tell(web, "shipped", FIRST, "whe_1"))

    async def is_delayed() -> bool:
        return not web.shop.world.faults.pending()

    await eventually(is_delayed, "the first delivery asks the warehouse")
    assert (await tell(web, "shipped", FIRST, "whe_1")).json()["outcome"] == "applied"
    await web.shop.ship(O, SECOND)
    web.shop.world.faults.clear()
    assert (await slow).json()["outcome"] == "duplicate"
    assert await web.shop.status(O) == "shipped"
    assert len(await e_mails(web, 2)) == 2
