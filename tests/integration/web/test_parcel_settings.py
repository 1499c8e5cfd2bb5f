"""SHIPPED_EMAIL and SHORTED_STOCK, each with both its values: from the warehouse's word to e-mail, money and stock."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from gateways.temporal import find_run
from orders.names import RECONCILE_ORDERS, notify_shipment_id, refund_order_id
from orders.reconciliation import ReconcileReport
from tests.integration.web.conftest import open_web
from tests.support.invariants import assert_invariants
from tests.support.shop import an_order, new_order_id
from tests.support.web import Web

TWO_LINES: Final = an_order(items=[{"productId": "1", "quantity": 2}, {"productId": "2", "quantity": 1}])
FIRST: Final = {"shipmentId": "par_1", "lines": [{"productId": "1", "quantity": 2}]}
SECOND: Final = {"shipmentId": "par_2", "lines": [{"productId": "2", "quantity": 1}]}

DEFAULTS: Final[dict[str, Any]] = {}
OTHERS: Final[dict[str, Any]] = {"shipped_email": False, "shorted_stock": "restock"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(DEFAULTS, id="defaults"), pytest.param(OTHERS, id="others", marks=pytest.mark.prove)],
)
async def module_web(
    request: pytest.FixtureRequest, postgres: Postgres, temporal: WorkflowEnvironment
) -> AsyncIterator[Web]:
    """In its shop nothing is too young to be looked at."""
    async with open_web(postgres, temporal, reconcile_after_seconds=0, **request.param) as opened:
        yield opened


async def test_whether_customers_are_notified_of_parcels(subscribed: Web) -> None:
    """Of one whose event arrives, and of one that reconcile-orders finds; it is kept either way."""
    shop, order_id = subscribed.shop, new_order_id()
    notifies = shop.settings.shipped_email
    assert (await shop.place(TWO_LINES, order_id=order_id)).success
    await shop.ship(order_id, FIRST)
    await shop.world.webhook_sender.idle()
    assert await is_notified(subscribed, order_id, "par_1") is notifies
    shop.world.send_webhooks_to(None)
    await shop.ship(order_id, SECOND)
    report = await reconcile(subscribed)
    notified = (f"order {order_id}: notify-shipment is started for the parcel par_2",) if notifies else ()
    assert report.shipments == (f"order {order_id}: the warehouse says shipped", *notified)
    assert await is_notified(subscribed, order_id, "par_2") is notifies

    assert [row["id"] for row in await shop.pool.fetch("SELECT id FROM shipments ORDER BY id")] == ["par_1", "par_2"]
    assert await shop.status(order_id) == "shipped"
    emails = [each.data.get("shipmentId") for each in shop.world.inbox.emails if each.template == "order_shipped"]
    assert emails == (["par_1", "par_2"] if notifies else [])
    await assert_invariants(shop, order_id)


@pytest.mark.parametrize("is_lost", [False, True], ids=["event", "lost"])
async def test_what_becomes_of_units_that_can_never_leave(subscribed: Web, *, is_lost: bool) -> None:
    """They are refunded, and lost or in stock again; the other ones are sold."""
    shop, order_id = subscribed.shop, new_order_id()
    assert (await shop.place(TWO_LINES, order_id=order_id)).success
    await shop.ship(order_id, FIRST)
    await shop.world.webhook_sender.idle()
    await fall_short(subscribed, order_id, is_lost=is_lost)

    assert await shop.status(order_id) == "shipped"
    assert refunded(subscribed) == [8900]
    sold = sold_after_shortage(subscribed)
    assert await stock(subscribed) == {"1": (98, 2), "2": (40 - sold, sold)}
    await assert_invariants(shop, order_id)


async def test_a_cancel_after_a_shortage(subscribed: Web) -> None:
    """It refunds the rest, and puts back what still exists: not the units that are lost, nor those that are back."""
    shop, order_id = subscribed.shop, new_order_id()
    assert (await shop.place(TWO_LINES, order_id=order_id)).success
    await fall_short(subscribed, order_id)
    assert (await shop.cancel(order_id)).cancelled

    assert refunded(subscribed) == [8900, 5998]
    sold = sold_after_shortage(subscribed)
    assert await stock(subscribed) == {"1": (100, 0), "2": (40 - sold, sold)}
    await assert_invariants(shop, order_id)


async def test_a_cancel_after_a_shortage_that_nobody_told(subscribed: Web) -> None:
    """The cancel asks the warehouse, so that it refunds everything, and puts back what exists."""
    shop, order_id = subscribed.shop, new_order_id()
    assert (await shop.place(TWO_LINES, order_id=order_id)).success
    shop.world.send_webhooks_to(None)
    await shop.at_warehouse(order_id, "short", {"lines": SECOND["lines"]})
    assert (await shop.cancel(order_id)).cancelled

    assert refunded(subscribed) == [8900 + 5998]
    sold = sold_after_shortage(subscribed)
    assert await stock(subscribed) == {"1": (100, 0), "2": (40 - sold, sold)}
    await assert_invariants(shop, order_id)


async def fall_short(web: Web, order_id: str, *, is_lost: bool = False) -> None:
    """The warehouse can never ship the second line; its event arrives, or is lost."""
    if is_lost:
        web.shop.world.send_webhooks_to(None)
    await web.shop.at_warehouse(order_id, "short", {"lines": SECOND["lines"]})
    await web.shop.world.webhook_sender.idle()
    if is_lost:
        text = f"order {order_id}: 1 of product 2 can never leave, shorted-1 is started"
        assert (await reconcile(web)).refunds == (text,)
    assert (await web.shop.client.get_workflow_handle(refund_order_id(order_id, "shorted-1")).result())["refunded"]


async def reconcile(web: Web) -> ReconcileReport:
    report: ReconcileReport = await web.shop.client.execute_workflow(
        RECONCILE_ORDERS, id="reconcile", task_queue=web.shop.task_queue, result_type=ReconcileReport
    )
    return report


async def is_notified(web: Web, order_id: str, parcel: str) -> bool:
    """Whether a run was started that tells the customer of the parcel; it is over then."""
    run = notify_shipment_id(order_id, parcel)
    if await find_run(web.shop.client, run) is None:
        return False
    await web.shop.client.get_workflow_handle(run).result()
    return True


def refunded(web: Web) -> list[int]:
    """The amounts that Stripe has given back, the oldest first."""
    return [each.amount for each in web.shop.world.stripe.account.refunds.values()]


def sold_after_shortage(web: Web) -> int:
    """The units of the second line that stay sold."""
    return {"write_off": 1, "restock": 0}[web.shop.settings.shorted_stock]


async def stock(web: Web) -> Mapping[str, tuple[int, int]]:
    """What is available of both products, and what is sold: of the product, and of its reservations together."""
    rows = await web.shop.pool.fetch(
        "SELECT product_id, i.quantity, i.sold, t.sold AS kept"
        " FROM inventory i JOIN reservation_totals t USING (product_id)"
    )
    assert all(row["sold"] == row["kept"] for row in rows)
    return {row["product_id"]: (row["quantity"], row["sold"]) for row in rows}
