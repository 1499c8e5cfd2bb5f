"""The warehouse is asked once per order, and what was asked for can be called off."""

from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.fulfillment import Fulfillment
from activities.order_state import OrderState, ResolutionRecord
from config.settings import Settings
from gateways.http import open_http
from gateways.warehouse import Warehouse
from orders.errors import Permanent, Unavailable
from orders.models import Order, Park, UndoResult
from saga import Resolution
from tests.support.activity_bench import Bench, order_of
from tests.support.shop import an_order

CREATE, CANCEL = "POST /orders", "POST /orders/*/cancel"
CANARY = "customer@example.com"


async def test_fulfill_twice_is_one_shipment(bench: Bench) -> None:
    """Same key, same answer, and its id on the row."""
    order = order_of(priority="express")
    await bench.bring(order, "authorize")
    first = await bench.fulfill(order)

    assert first == await bench.fulfill(order)
    assert first.state == "accepted"
    assert (await bench.row(order.id))["fulfillment_id"] == first.fulfillment_id
    assert [shipment["id"] for shipment in bench.world.provider_records()["fulfillment"]] == [first.fulfillment_id]


async def test_what_the_warehouse_is_told(bench: Bench) -> None:
    """The lines as they were reserved, the address, the priority, under the order's key."""
    order = order_of(priority="express")
    await bench.bring(order, "fulfill")
    (call,) = bench.calls("fulfillment")

    assert call["headers"]["idempotency-key"] == "o1:fulfill"
    assert call["body"] == {
        "orderId": "o1",
        "items": [{"productId": "1", "quantity": 2, "price": 29.99}],
        "shippingAddress": an_order()["shippingAddress"] | {"country": "US"},
        "priority": "express",
    }


async def test_the_mark_is_written_before_the_warehouse_is_asked(bench: Bench) -> None:
    """A request that got no answer is one that may have to be called off."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)

    assert (await bench.row(order.id))["fulfillment_requested_at"]


async def test_an_undone_order_is_not_requested(bench: Bench) -> None:
    """Marked only WHERE pending, and not asked without a mark."""
    order = order_of()
    await bench.bring(order, "authorize")
    await bench.claim_undo(order)

    assert (await bench.fulfill(order)).state == "order_closed"
    assert bench.calls("fulfillment") == []
    assert (await bench.row(order.id))["fulfillment_requested_at"] is None


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refusal_is_a_business_no(bench: Bench, status: int) -> None:
    """It names the warehouse's code, and none of its words."""
    order = order_of()
    await bench.bring(order, "authorize")
    body = {"error": {"code": "too_heavy", "message": CANARY}}
    bench.fault("fulfillment", "status", CREATE, status=status, body=body)
    answer = await bench.fulfill(order)

    assert (answer.state, answer.error) == ("refused", "the warehouse refused the order (too_heavy)")


@pytest.mark.parametrize(
    "body", [None, CANARY, {"error": CANARY}, {"error": {"code": CANARY}}, {"error": {"code": 7}}, [1]]
)
async def test_only_a_short_word_of_a_refusal_is_believed(bench: Bench, body: Any) -> None:
    """Whatever the warehouse sends instead of a code stays outside."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=422, body=body)
    answer = await bench.fulfill(order)

    assert answer.state == "refused"
    assert CANARY not in (answer.error or "")


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503])
async def test_no_answer_to_the_order_is_an_outage(bench: Bench, status: int) -> None:
    """Neither a yes nor a no; a wrong key or address of ours is no order's fault."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=status, headers={"Retry-After": "9"})
    with pytest.raises(Unavailable) as outage:
        await bench.fulfill(order)

    assert outage.value.type == "fulfillment_unavailable"
    assert (await bench.fulfill(order)).state == "accepted"


async def test_a_pause_that_the_warehouse_asks_for_is_kept(bench: Bench) -> None:
    """Retry-After becomes the time to the next attempt."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=429, headers={"Retry-After": "9"})
    with pytest.raises(Unavailable) as outage:
        await bench.fulfill(order)

    assert outage.value.next_retry_delay
    assert outage.value.next_retry_delay.total_seconds() == 9


@pytest.mark.parametrize("kind", ["reset_after", "hang_after"])
async def test_a_lost_answer_makes_no_second_shipment(bench: Bench, kind: str) -> None:
    """The next attempt gets the first one's id."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", kind, CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)

    await bench.fulfill(order)
    assert len(bench.world.provider_records()["fulfillment"]) == 1


async def test_cancel_twice_calls_it_off_once(bench: Bench) -> None:
    """An undo with its step."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.claim_undo(order)

    for _ in range(2):
        assert await call_off(bench, order) == UndoResult(note="the warehouse cancelled the shipment")
    assert shipments(bench) == ["cancelled"]


async def test_cancel_without_the_mark_makes_no_call(bench: Bench) -> None:
    """An undo without its step: no attempt has asked, and none ever will."""
    order = order_of()
    await bench.bring(order, "authorize")
    await bench.claim_undo(order)

    assert await call_off(bench, order) == UndoResult(note="the warehouse was never asked")
    assert bench.calls("fulfillment") == []


async def test_cancel_before_the_request_arrives(bench: Bench) -> None:
    """An undo before its step: the warehouse remembers, and refuses the late request."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)

    assert await call_off(bench, order) == UndoResult(note="the warehouse does not know the order")
    assert (await bench.fulfill(order)).state == "order_closed"
    assert shipments(bench) == []


async def test_a_forgetful_warehouse_is_believed_late(bench: Bench) -> None:
    """It would ship an order whose request arrives after the cancel: "unknown" counts once none can be on its way."""
    bench.world.fulfillment.forgets_cancels = True
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)
    key = Settings().fulfillment_key.get_secret_value()
    async with open_http(3) as http:
        warehouse = Warehouse(http, f"{bench.sandbox.url}/fulfillment", key)
        forgetful = Fulfillment(bench.database, warehouse, remembers_cancels=False).cancel_fulfillment

        with pytest.raises(Unavailable, match="may still arrive") as too_early:
            await ActivityEnvironment().run(forgetful, order.id)
        assert too_early.value.next_retry_delay is not None
        await bench.pool.execute("UPDATE orders SET fulfillment_requested_at = now() - interval '2 minutes'")

        assert await ActivityEnvironment().run(forgetful, order.id) == UndoResult(
            note="the warehouse does not know the order"
        )


async def test_cancel_after_shipping(bench: Bench) -> None:
    """Not an error: the undo has to go forward."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.world.fulfillment.shipments[order.id] = bench.world.fulfillment.shipments[order.id].model_copy(
        update={"status": "shipped"}
    )

    assert (await call_off(bench, order)).shipped


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"error": {"code": "route_unknown"}}),
        (404, "<html>not found</html>"),
        (409, {"error": {"code": "busy"}}),
        (500, None),
        (429, None),
        (401, None),
    ],
)
async def test_a_cancel_is_believed_only_in_the_warehouses_own_words(bench: Bench, status: int, body: Any) -> None:
    """A 404 of some proxy does not mean that nothing ships."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("fulfillment", "status", CANCEL, status=status, body=body)
    with pytest.raises(Unavailable):
        await call_off(bench, order)

    await call_off(bench, order)
    assert shipments(bench) == ["cancelled"]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_cancel_that_the_warehouse_refuses_is_a_persons(bench: Bench, status: int) -> None:
    """Asking again will not help, and only what failed for good can be settled by an operator."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("fulfillment", "status", CANCEL, status=status, body={"error": {"code": "in_customs"}})
    with pytest.raises(Permanent, match="in_customs"):
        await call_off(bench, order)


async def test_an_operators_word_counts_as_called_off(bench: Bench) -> None:
    """No call is made; the word is the note."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.claim_undo(order)
    step = "cancel_fulfillment"
    await bench.do(OrderState.park_order, Park(order_id=order.id, step=step, reason="stuck", workflow_id="w"))
    resolution = Resolution(step=step, action="resolved", reason="rang them up", by="ann")
    record = ResolutionRecord(order_id=order.id, key="1", resolution=resolution)
    await bench.do(OrderState.record_resolution, record)

    assert await call_off(bench, order) == UndoResult(note="resolved by ann: rang them up")
    assert shipments(bench) == ["accepted"]


async def call_off(bench: Bench, order: Order) -> UndoResult:
    return await bench.do(Fulfillment.cancel_fulfillment, order.id)


def shipments(bench: Bench) -> list[str]:
    return [shipment["status"] for shipment in bench.world.provider_records()["fulfillment"]]
