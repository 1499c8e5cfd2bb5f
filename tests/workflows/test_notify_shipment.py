"""notify-shipment: the customer is told of a parcel once, whatever fails meanwhile."""

from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.common import WorkflowIDReusePolicy

from orders.names import NOTIFY_SHIPMENT, notify_shipment_id
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.scenarios import marks, ship
from tests.support.shop import Shop, an_order, new_order_id


async def notify(shop: Shop, order_id: str, **more: Any) -> None:
    await shop.client.execute_workflow(
        NOTIFY_SHIPMENT,
        {"orderId": order_id, "shipmentId": "par_1"} | more,
        id=notify_shipment_id(order_id, "par_1"),
        task_queue=shop.task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
    )


def told(shop: Shop, order_id: str) -> list[str]:
    """The addresses that were written to about the parcel."""
    mails = [each for each in shop.world.inbox.emails if each.data.get("orderNumber") == order_id]
    return [each.to for each in mails if each.template == "order_shipped"]


async def state(shop: Shop, order_id: str) -> str | None:
    found: str | None = await shop.pool.fetchval(
        "SELECT state FROM notifications WHERE (order_id, kind, about) = ($1, 'order_shipped', 'par_1')", order_id
    )
    return found


async def test_the_customer_is_told_once(shop: Shop) -> None:
    """At the address that the order was placed with, however often the run is started."""
    order_id = await ship(shop)
    for _ in range(2):
        await notify(shop, order_id)
    assert told(shop, order_id) == [an_order()["customerEmail"]]
    await assert_invariants(shop, order_id)


async def test_the_answer_of_the_email_service_is_lost(shop: Shop) -> None:
    """It is sent again under the same key, which the service knows."""
    order_id = await ship(shop)
    shop.world.faults.add(Fault(service="email", kind="reset_after", order=order_id))
    await notify(shop, order_id)
    assert told(shop, order_id) == [an_order()["customerEmail"]]
    assert await state(shop, order_id) == "sent"


async def test_nobody_knows_the_address(shop: Shop) -> None:
    """The message is given up; whoever knows the address can start the run again."""
    order_id = await ship(shop)
    await shop.pool.execute("UPDATE orders SET request_hash = 'of a request that is gone' WHERE id = $1", order_id)
    await notify(shop, order_id)
    assert (told(shop, order_id), await state(shop, order_id)) == ([], "given_up")
    run = shop.client.get_workflow_handle(notify_shipment_id(order_id, "par_1"))
    assert (await marks(run))[1] == "notification:order_shipped:par_1"
    (alert,) = (each.text for each in shop.world.inbox.alerts if order_id in each.text)
    assert "nobody knows the customer's address" in alert
    await notify(shop, order_id, customerEmail="customer@elsewhere.example")
    assert (told(shop, order_id), await state(shop, order_id)) == (["customer@elsewhere.example"], "sent")


async def test_a_parcel_that_does_not_count(shop: Shop) -> None:
    """Nobody is told of what cannot be true."""
    order_id = await ship(shop)
    await shop.pool.execute(
        "UPDATE shipments SET shipped_at = NULL, problem = 'too much', problem_at = now() WHERE order_id = $1", order_id
    )
    await notify(shop, order_id)
    assert (told(shop, order_id), await state(shop, order_id)) == ([], None)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"orderId": "a:b"}, "orderId"),
        ({"orderId": None}, "orderId"),
        ({"shipmentId": "par 1"}, "shipmentId"),
        ({"customerEmail": "nobody"}, "customerEmail"),
        ({"tracking": "1Z"}, "tracking"),
    ],
)
async def test_bad_input_fails_the_run(shop: Shop, wrong: dict[str, Any], field: str) -> None:
    """It names the field, and does not retry for ever."""
    with pytest.raises(WorkflowFailureError) as failure:
        await notify(shop, new_order_id(), **wrong)
    assert field in str(failure.value.cause)
