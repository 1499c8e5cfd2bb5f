"""Events from the warehouse: an order whose goods have left can no longer be cancelled."""

import json
from typing import Any

import pytest

from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.shop import Shop, eventually
from tests.support.web import Web

O = "o1"  # noqa: E741 (the one order of each test)


async def shipment(web: Web, status: str) -> None:
    """Change the shipment at the warehouse, without an event."""
    shipments = web.shop.world.fulfillment.shipments
    shipments[O] = shipments[O].model_copy(update={"status": status})


async def until(shop: Shop, status: str) -> None:
    async def reached() -> bool:
        return await shop.status(O) == status

    await eventually(reached, f"the order is {status}")


async def test_shipped_then_delivered(subscribed: Web) -> None:
    """The order follows its goods, and cancel-order sees it at once."""
    assert (await subscribed.shop.place(order_id=O)).success
    for verb, status in (("ship", "shipped"), ("deliver", "delivered")):
        await subscribed.warehouse(f"orders/{O}/{verb}")
        await until(subscribed.shop, status)
        answer = await subscribed.shop.cancel(O)
        assert (answer.cancelled, answer.reason) == (False, "already_shipped")
    assert await subscribed.shop.events(O) == ["pending", "capturing", "processing", "shipped", "delivered"]
    assert await subscribed.notes(O) == ["the warehouse says shipped", "the warehouse says delivered"]
    await assert_invariants(subscribed.shop, O)


async def test_delivered_overtakes_shipped(subscribed: Web) -> None:
    """The first event makes both moves; the late one has nothing to do."""
    assert (await subscribed.shop.place(order_id=O)).success
    subscribed.shop.world.faults.add(Fault(service="webhooks", route="order.shipped", kind="reorder"))
    await subscribed.warehouse(f"orders/{O}/ship")
    await subscribed.warehouse(f"orders/{O}/deliver")
    await subscribed.shop.world.webhook_sender.idle()

    assert [kind for kind, _ in await subscribed.kept() if kind.startswith("order.")] == [
        "order.delivered",
        "order.shipped",
    ]
    assert await subscribed.shop.events(O) == ["pending", "capturing", "processing", "shipped", "delivered"]


@pytest.mark.parametrize(
    ("step", "status"), [("capture_payment", "pending"), ("finalize_order", "capturing")], ids=["pending", "capturing"]
)
async def test_shipped_before_it_is_paid(web: Web, step: str, status: str) -> None:
    """The event is refused for now, and not kept, until the order is settled."""
    held = web.shop.hooks.hold(step)
    run = await web.shop.start(order_id=O)
    await held.reached.wait()
    await shipment(web, "shipped")
    answer = await web.fulfillment("shipped", O, "whe_1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "15")
    assert (await web.shop.status(O), await web.kept()) == (status, [])

    held.let_go()
    assert (await run.result()).success
    assert (await web.fulfillment("shipped", O, "whe_1")).json()["outcome"] == "applied"
    assert await web.shop.status(O) == "shipped"


async def test_a_warehouse_faster_than_the_payment(subscribed: Web) -> None:
    """It delivers the event again until it takes effect."""
    held = subscribed.shop.hooks.hold("capture_payment")
    run = await subscribed.shop.start(order_id=O)
    await held.reached.wait()
    await subscribed.warehouse(f"orders/{O}/ship")

    async def refused() -> bool:
        return any(attempt.status == 503 for attempt in subscribed.shop.world.webhook_sender.attempts)

    await eventually(refused, "the first delivery is put off")
    held.let_go()
    assert (await run.result()).success
    await until(subscribed.shop, "shipped")


async def test_shipped_while_it_is_being_cancelled(web: Web) -> None:
    """cancel-order finds that out at the warehouse; the event waits for it."""
    assert (await web.shop.place(order_id=O)).success
    held = web.shop.hooks.hold("cancel_fulfillment")
    cancel = await web.shop.start_cancel(O)
    await held.reached.wait()
    await shipment(web, "shipped")
    assert (await web.fulfillment("shipped", O, "whe_1")).status_code == 503
    assert (await web.shop.status(O), await web.kept()) == ("cancelling", [])

    held.let_go()
    assert (await cancel.result()).reason == "already_shipped"
    assert (await web.fulfillment("shipped", O, "whe_1")).json()["outcome"] == "applied"
    assert await web.shop.events(O) == ["pending", "capturing", "processing", "cancelling", "shipped"]


async def test_shipped_after_it_was_cancelled(web: Web) -> None:
    """The order stays closed; an event of the order records what the warehouse says."""
    assert (await web.shop.place(order_id=O)).success
    assert (await web.shop.cancel(O)).cancelled
    await shipment(web, "shipped")
    assert (await web.fulfillment("shipped", O)).json()["outcome"] == "applied"
    assert await web.shop.status(O) == "cancelled"
    assert await web.notes(O) == ["the warehouse says shipped, but the order is cancelled"]


@pytest.mark.parametrize("kind", ["shipped", "delivered"])
async def test_a_claim_is_not_believed(web: Web, kind: str) -> None:
    """The warehouse itself answers that the goods are still there."""
    assert (await web.shop.place(order_id=O)).success
    assert (await web.fulfillment(kind, O)).status_code == 200
    assert await web.shop.status(O) == "processing"


async def test_delivered_is_not_believed_of_goods_that_are_on_their_way(web: Web) -> None:
    """The order moves only as far as the warehouse's own answer."""
    assert (await web.shop.place(order_id=O)).success
    await shipment(web, "shipped")
    assert (await web.fulfillment("delivered", O)).status_code == 200
    assert await web.shop.status(O) == "shipped"


async def test_a_duplicate_takes_effect_once(web: Web) -> None:
    """The first delivery counts, even if it had nothing to do: a new event follows a new state."""
    assert (await web.shop.place(order_id=O)).success
    assert (await web.fulfillment("shipped", O, "whe_1")).json()["outcome"] == "applied"
    await shipment(web, "shipped")
    assert (await web.fulfillment("shipped", O, "whe_1")).json()["outcome"] == "duplicate"
    assert (await web.fulfillment("shipped", O, "whe_2")).json()["outcome"] == "applied"
    assert await web.shop.status(O) == "shipped"


@pytest.mark.parametrize("order_id", ["unknown", "../../_sandbox", "x" * 255])
async def test_an_order_that_is_not_ours(web: Web, order_id: str) -> None:
    """It is kept, and the warehouse is not asked about it."""
    answer = await web.fulfillment("shipped", order_id)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "not ours")
    assert list(web.shop.world.journal.about()) == []


async def test_an_unknown_type_is_none_of_our_business(web: Web) -> None:
    """The answer is 200, and nothing is kept."""
    odd: list[dict[str, Any]] = [{}, {"lines": [{"sku": "A 1", "count": "two"}], "carrier": 7}, {"orderId": 7}]
    for details in odd:
        body = {"id": "whe_1", "type": "order.returned", "orderId": O} | details
        assert (await web.post("fulfillment", json.dumps(body).encode())).json()["outcome"] == "unknown type"
    assert await web.kept() == []


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_the_warehouse_out(web: Web, status: int) -> None:
    """Nothing is kept, and the next delivery has the whole effect."""
    assert (await web.shop.place(order_id=O)).success
    await shipment(web, "shipped")
    web.shop.world.faults.add(Fault(service="fulfillment", route="GET *", kind="status", status=status))
    assert (await web.fulfillment("shipped", O, "whe_1")).status_code == 503
    assert await web.kept() == []

    assert (await web.fulfillment("shipped", O, "whe_1")).json()["outcome"] == "applied"
    assert await web.shop.status(O) == "shipped"
