"""Each order has one shipment, and the shipment can be cancelled until the goods leave."""

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
from tests.support.activity_bench import ActivityBench, fulfillment, order_of
from tests.support.shop import an_order

CREATE, CANCEL = "POST /orders", "POST /orders/*/cancel"
CANARY = "customer@example.com"


async def test_fulfill_twice_is_one_shipment(bench: ActivityBench) -> None:
    """The second request has the same key, so it gets the same answer; the row has the shipment's id."""
    order = order_of(priority="express")
    await bench.bring(order, "authorize")
    first = await bench.fulfill(order)

    assert first == await bench.fulfill(order)
    assert first.state == "accepted"
    assert (await bench.row(order.id))["fulfillment_id"] == first.fulfillment_id
    assert [shipment["id"] for shipment in bench.world.provider_records()["fulfillment"]] == [first.fulfillment_id]


async def test_what_the_warehouse_gets(bench: ActivityBench) -> None:
    """The lines with the reserved prices, the address and the priority, under the key of the order."""
    order = order_of(priority="express")
    await bench.bring(order, "fulfill")
    (call,) = bench.calls("fulfillment")

    shop_id = await bench.pool.fetchval("SELECT id FROM shop")
    assert call["headers"]["idempotency-key"] == f"{shop_id}:o1:fulfill"
    assert call["body"] == {
        "orderId": "o1",
        "items": [{"productId": "1", "quantity": 2, "price": 29.99, "currency": "usd"}],
        "shippingAddress": an_order()["shippingAddress"] | {"country": "US"},
        "priority": "express",
    }


async def test_the_mark_is_written_before_the_warehouse_is_asked(bench: ActivityBench) -> None:
    """A request without an answer may have to be cancelled."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)

    assert (await bench.row(order.id))["fulfillment_requested_at"]


async def test_an_undone_order_is_not_requested(bench: ActivityBench) -> None:
    """Only a pending row gets the mark, and without the mark the warehouse is not asked."""
    order = order_of()
    await bench.bring(order, "authorize")
    await bench.claim_undo(order)

    assert (await bench.fulfill(order)).state == "order_closed"
    assert bench.calls("fulfillment") == []
    assert (await bench.row(order.id))["fulfillment_requested_at"] is None


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refusal_is_a_business_refusal(bench: ActivityBench, status: int) -> None:
    """It quotes the warehouse's error code, but not its message."""
    order = order_of()
    await bench.bring(order, "authorize")
    body = {"error": {"code": "too_heavy", "message": CANARY}}
    bench.fault("fulfillment", "status", CREATE, status=status, body=body)
    answer = await bench.fulfill(order)

    assert (answer.state, answer.error) == ("refused", "the warehouse refused the order (too_heavy)")


@pytest.mark.parametrize(
    "body", [None, CANARY, {"error": CANARY}, {"error": {"code": CANARY}}, {"error": {"code": 7}}, [1]]
)
async def test_only_a_short_code_of_a_refusal_is_quoted(bench: ActivityBench, body: Any) -> None:
    """Anything but a short identifier is not quoted."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=422, body=body)
    answer = await bench.fulfill(order)

    assert answer.state == "refused"
    assert CANARY not in (answer.error or "")


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 408, 409, 425, 429, 500, 502, 503])
async def test_no_answer_to_the_order_is_an_outage(bench: ActivityBench, status: int) -> None:
    """A wrong key or address is our mistake, so the order is not rejected; the next attempt succeeds."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=status, headers={"Retry-After": "9"})
    with pytest.raises(Unavailable) as outage:
        await bench.fulfill(order)

    assert outage.value.type == "fulfillment_unavailable"
    assert (await bench.fulfill(order)).state == "accepted"


async def test_the_delay_that_the_warehouse_asks_for_is_kept(bench: ActivityBench) -> None:
    """Retry-After becomes the delay before the next attempt."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=429, headers={"Retry-After": "9"})
    with pytest.raises(Unavailable) as outage:
        await bench.fulfill(order)

    assert outage.value.next_retry_delay
    assert outage.value.next_retry_delay.total_seconds() == 9


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["reset_after", "hang_after"])
async def test_a_lost_answer_makes_no_second_shipment(bench: ActivityBench, kind: str) -> None:
    """The next attempt gets the id of the first shipment."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", kind, CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)

    await bench.fulfill(order)
    assert len(bench.world.provider_records()["fulfillment"]) == 1


async def test_cancel_twice_is_one_cancel(bench: ActivityBench) -> None:
    """The undo of a request that arrived."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.claim_undo(order)

    for _ in range(2):
        assert await cancel(bench, order) == UndoResult(note="the warehouse cancelled the shipment")
    assert shipments(bench) == ["cancelled"]


async def test_cancel_without_the_mark_makes_no_call(bench: ActivityBench) -> None:
    """The undo of a request that never happened: no attempt has asked, and none can ask any more."""
    order = order_of()
    await bench.bring(order, "authorize")
    await bench.claim_undo(order)

    assert await cancel(bench, order) == UndoResult(note="the warehouse was never asked")
    assert bench.calls("fulfillment") == []


async def test_cancel_before_the_request_arrives(bench: ActivityBench) -> None:
    """The undo of a request that is still to arrive: the warehouse remembers the cancel and refuses the request."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)

    assert await cancel(bench, order) == UndoResult(note="the warehouse does not know the order")
    assert (await bench.fulfill(order)).state == "order_closed"
    assert shipments(bench) == []


async def test_a_forgetful_warehouse_is_believed_late(bench: ActivityBench) -> None:
    """A warehouse that forgets cancels is believed only when no request to ship can arrive any more."""
    bench.world.fulfillment.forgets_cancels = True
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)
    key = Settings().fulfillment_key.get_secret_value()
    async with open_http(3) as http:
        warehouse = Warehouse(http, f"{bench.sandbox.url}/fulfillment", key, "shop")
        forgetful = Fulfillment(bench.database, warehouse, remembers_cancels=False, restock=False).cancel_fulfillment

        with pytest.raises(Unavailable, match="may still arrive") as too_early:
            await ActivityEnvironment().run(forgetful, order.id)
        assert too_early.value.next_retry_delay is not None
        await bench.pool.execute("UPDATE orders SET fulfillment_requested_at = now() - interval '2 minutes'")

        assert await ActivityEnvironment().run(forgetful, order.id) == UndoResult(
            note="the warehouse does not know the order"
        )


async def test_cancel_after_shipping(bench: ActivityBench) -> None:
    """This is no error: the undo has to go forward."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.world.fulfillment.shipments[order.id] = bench.world.fulfillment.shipments[order.id].model_copy(
        update={"status": "shipped"}
    )

    assert (await cancel(bench, order)).shipped


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
async def test_only_the_warehouses_own_codes_end_a_cancel(bench: ActivityBench, status: int, body: Any) -> None:
    """A 404 of a proxy does not mean that nothing is shipped."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("fulfillment", "status", CANCEL, status=status, body=body)
    with pytest.raises(Unavailable):
        await cancel(bench, order)

    await cancel(bench, order)
    assert shipments(bench) == ["cancelled"]


@pytest.mark.parametrize("status", [400, 422])
async def test_a_cancel_that_the_warehouse_refuses_is_a_final_error(bench: ActivityBench, status: int) -> None:
    """Another attempt cannot help, and an operator can only resolve a step that failed for good."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("fulfillment", "status", CANCEL, status=status, body={"error": {"code": "in_customs"}})
    with pytest.raises(Permanent, match="in_customs"):
        await cancel(bench, order)


async def test_a_warehouse_that_forgot_the_shipment_is_not_believed(bench: ActivityBench) -> None:
    """It accepted the order once: the goods may be gone, so an operator must decide."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.world.fulfillment.forget(order.id)
    await bench.claim_undo(order)

    with pytest.raises(Permanent, match="does not know the order, but it accepted the shipment ful_"):
        await cancel(bench, order)


async def test_a_warehouse_that_saves_its_no_is_asked_again_under_another_key(bench: ActivityBench) -> None:
    """The request arrives between two cancels: the second one must reach the warehouse, not what it saved."""
    bench.world.fulfillment.forgets_cancels = bench.world.fulfillment.saves_refusals = True
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await bench.fulfill(order)
    await bench.claim_undo(order)
    async with open_http(3) as http:
        key = Settings().fulfillment_key.get_secret_value()
        warehouse = Warehouse(http, f"{bench.sandbox.url}/fulfillment", key, "shop")
        forgetful = Fulfillment(bench.database, warehouse, remembers_cancels=False, restock=False).cancel_fulfillment
        with pytest.raises(Unavailable, match="may still arrive"):
            await ActivityEnvironment().run(forgetful, order.id)
        await warehouse.ship(fulfillment(order), [{"productId": "1", "quantity": 2}])
        await bench.pool.execute("UPDATE orders SET fulfillment_requested_at = now() - interval '2 minutes'")

        undone = await ActivityEnvironment().run(forgetful, order.id)
    assert undone == UndoResult(note="the warehouse cancelled the shipment")
    assert shipments(bench) == ["cancelled"]


async def test_each_retry_has_a_key_of_its_own(bench: ActivityBench) -> None:
    """A warehouse may repeat its refusal under the same key for ever."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.claim_undo(order)
    for number in (1, 2):
        bench.fault("fulfillment", "status", CANCEL, status=422, body={"error": {"code": "in_customs"}})
        with pytest.raises(Permanent):
            await cancel(bench, order)
        await resolve(bench, order, "retry", str(number))
    await cancel(bench, order)

    keys = [call["headers"]["idempotency-key"] for call in bench.calls("fulfillment", "/cancel")]
    assert [key.partition(":")[2] for key in keys] == ["o1:cancel:1", "o1:cancel:2", "o1:cancel:3"]


@pytest.mark.parametrize("body", [{}, {"id": None}, {"id": ""}, {"id": {}}, {"id": 7}, {"id": "a b"}, [], "<html>"])
async def test_a_malformed_yes_is_no_acceptance(bench: ActivityBench, body: Any) -> None:
    """The next attempt asks again, under the same key."""
    order = order_of()
    await bench.bring(order, "authorize")
    bench.fault("fulfillment", "status", CREATE, status=200, body=body)
    with pytest.raises(Unavailable, match="malformed_answer"):
        await bench.fulfill(order)

    assert (await bench.row(order.id))["fulfillment_id"] is None
    assert (await bench.fulfill(order)).state == "accepted"


@pytest.mark.parametrize("body", [{}, {"status": "accepted"}, "<html>"])
async def test_a_malformed_yes_is_no_cancel(bench: ActivityBench, body: Any) -> None:
    """The page of a proxy does not stop the goods."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("fulfillment", "status", CANCEL, status=200, body=body)
    with pytest.raises(Unavailable, match="malformed_answer"):
        await cancel(bench, order)


async def test_a_resolution_counts_as_cancelled(bench: ActivityBench) -> None:
    """No call is made; the note quotes the resolution."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.claim_undo(order)
    await resolve(bench, order, "resolved", "1")

    assert await cancel(bench, order) == UndoResult(note="resolved by ann: rang them up")
    assert shipments(bench) == ["accepted"]


async def resolve(bench: ActivityBench, order: Order, action: Any, key: str) -> None:
    step, count = "cancel_fulfillment", int(key) - 1
    park = Park(order_id=order.id, step=step, reason="stuck", workflow_id="w", resolution_count=count)
    await bench.do(OrderState.park_order, park)
    resolution = Resolution(step=step, action=action, reason="rang them up", by="ann")
    record = ResolutionRecord(order_id=order.id, key=key, resolution=resolution)
    await bench.do(OrderState.record_resolution, record)


async def cancel(bench: ActivityBench, order: Order) -> UndoResult:
    return await bench.do(Fulfillment.cancel_fulfillment, order.id)


def shipments(bench: ActivityBench) -> list[str]:
    return [shipment["status"] for shipment in bench.world.provider_records()["fulfillment"]]
