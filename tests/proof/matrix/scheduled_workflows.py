"""The other workflows at work: scenarios that between them reach every activity of theirs.

Each first brings about what there is to find, and says what must have become of it.
"""

from typing import Any, Final, TypeVar

from orders.models import ErrorCode, OrderOutcome, RefundOutcome, Status
from orders.names import (
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    PRODUCT_RECOMMENDATIONS,
    RECONCILE_ORDERS,
    VERIFY_ORDERS,
    notify_shipment_id,
    refund_order_id,
)
from orders.recommendations import IndexProgress, RecommendationsOutcome, Source
from orders.reconciliation import ReconcileReport
from orders.stock import StockReport
from orders.verification import VerifyReport
from tests.proof.matrix.scenarios import TASK_TIMEOUT, is_asked, placed, refused
from tests.support.manual_actions import authorize_again, hold_again, pay, send_late
from tests.support.scenarios import resolve, until_marked
from tests.support.shop import Shop, an_order

ReportT = TypeVar("ReportT")

SCARCE: Final = [{"productId": "5", "quantity": 2}]  # there is one


def scheduled_id(order_id: str) -> str:
    """The workflow id of the sweep that a scenario starts."""
    return f"sweep:{order_id}"


async def restarted(shop: Shop, order_id: str) -> None:
    """The run is terminated while the customer is asked to authenticate; another one goes on."""
    run, payment = await is_asked(shop, order_id)
    await run.terminate()
    await _reconcile(shop, order_id)
    shop.world.stripe.account.authenticate(payment, succeeds=True)
    again = shop.client.get_workflow_handle(order_id, result_type=OrderOutcome)
    await again.signal("payment-updated")
    assert (await again.result()).success


async def refund_restarted(shop: Shop, order_id: str) -> None:
    """The refund of a part is terminated while it is parked; another run waits, until an operator pays otherwise."""
    payload = an_order(paymentMethodId="pm_refund_failed")
    await shop.place(payload, order_id, task_timeout=TASK_TIMEOUT)
    run = await shop.start_refund(order_id, "r1", task_timeout=TASK_TIMEOUT)
    await until_marked(run, "refund:r1")
    await run.terminate()
    await _reconcile(shop, order_id)
    again = shop.client.get_workflow_handle(run.id, result_type=RefundOutcome)
    await until_marked(again, "refund:r1")
    await resolve(again, "refund:r1", "resolved")
    assert (await again.result()).refunded


async def told(shop: Shop, order_id: str) -> None:
    """Somebody is told of a charge for an order that does not exist, and once only by our record."""
    await placed(shop, order_id)
    payment = await pay(shop, f"lost-{order_id}")
    [words] = (await _reconcile(shop, order_id)).alerted
    assert payment in words
    assert any(words in alert.text for alert in shop.world.inbox.alerts)
    assert await shop.pool.fetchval("SELECT count(*) FROM reminders") == 1


async def refunded_orphan(shop: Shop, order_id: str) -> None:
    """A charge that its order does not answer for is given back, and its refund kept."""
    await _out_of_stock(shop, order_id)
    payment = await pay(shop, order_id)
    await _reconcile(shop, order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    assert refund.payment_intent == payment


async def voided_orphan(shop: Shop, order_id: str) -> None:
    """So is an authorization."""
    await _out_of_stock(shop, order_id)
    payment = await pay(shop, order_id, capture="manual")
    await _reconcile(shop, order_id)
    assert shop.world.stripe.account.intent(payment).status == "canceled"


async def voided_late(shop: Shop, order_id: str) -> None:
    """A closed order whose own payment is authorized after all."""
    await _out_of_stock(shop, order_id)
    payment = await authorize_again(shop, order_id)
    await _reconcile(shop, order_id)
    assert shop.world.stripe.account.intent(payment).status == "canceled"
    assert await shop.pool.fetchval("SELECT count(*) FROM order_events WHERE why LIKE '%' || $1 || '%'", payment) == 1


async def shipped_late(shop: Shop, order_id: str) -> None:
    """A request to ship arrives long after its order was undone, at a warehouse that forgets cancels."""
    shop.world.fulfillment.forgets_cancels = True
    await refused(shop, order_id)
    await send_late(shop, order_id)
    await _reconcile(shop, order_id)
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == ["cancelled"]


async def left_in_parcels(shop: Shop, order_id: str) -> None:
    """One of two units leaves, the other never can, and both events are lost."""
    await placed(shop, order_id)
    await shop.ship(order_id, {"shipmentId": "par_1", "lines": [{"productId": "1", "quantity": 1}]})
    await shop.at_warehouse(order_id, "short")
    await _reconcile(shop, order_id)
    await shop.client.get_workflow_handle(notify_shipment_id(order_id, "par_1")).result()
    await shop.client.get_workflow_handle(refund_order_id(order_id, "shorted-1")).result()
    assert await shop.status(order_id) == Status.SHIPPED
    assert {each.template for each in shop.world.inbox.emails} == {
        "order_confirmation",
        "order_shipped",
        "order_refunded",
    }


async def refunded_late(shop: Shop, order_id: str) -> None:
    """The bank settles a refund after its order was closed."""
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), order_id, task_timeout=TASK_TIMEOUT)
    await shop.cancel(order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    shop.world.stripe.account.settle(refund.id, succeeds=True)
    await _reconcile(shop, order_id)
    assert await shop.pool.fetchval("SELECT status FROM refunds WHERE id = $1", refund.id) == "succeeded"


async def released_late(shop: Shop, order_id: str) -> None:
    """A closed order still holds stock."""
    await refused(shop, order_id)
    await hold_again(shop, order_id)
    await _reconcile(shop, order_id)


async def verified(shop: Shop, order_id: str) -> None:
    """All rules are kept."""
    await placed(shop, order_id)
    report = await _sweep(shop, VERIFY_ORDERS, VerifyReport, order_id)
    assert (report.checked, report.violations, report.unverified) == (1, (), ())


async def low(shop: Shop, order_id: str) -> None:
    """The globe runs short: Slack is told, and we know that it was."""
    report = await _sweep(shop, CHECK_INVENTORY, StockReport, order_id)
    assert [item.product_id for item in report.low_stock_items] == ["5"]
    assert (
        await shop.pool.fetchval("SELECT count(*) FROM stock_alerts WHERE sent_at IS NOT NULL AND lease IS NULL") == 1
    )
    assert shop.world.inbox.alerts


async def recommended(shop: Shop, order_id: str) -> None:
    """The catalogue is embedded, and the model asked what a customer who has bought something may like."""
    await placed(shop, order_id)
    index = await _sweep(shop, INDEX_PRODUCTS, IndexProgress, order_id)
    assert (index.products, index.finished) == (5, True)
    who = {"customerId": "cus_123"}
    outcome = await _sweep(shop, PRODUCT_RECOMMENDATIONS, RecommendationsOutcome, order_id, who)
    assert outcome.source is Source.MODEL


async def _out_of_stock(shop: Shop, order_id: str) -> None:
    run = await shop.start(an_order(items=SCARCE), order_id, task_timeout=TASK_TIMEOUT)
    assert (await run.result()).error_code is ErrorCode.OUT_OF_STOCK
    assert await shop.status(order_id) == Status.REJECTED


async def _reconcile(shop: Shop, order_id: str) -> ReconcileReport:
    return await _sweep(shop, RECONCILE_ORDERS, ReconcileReport, order_id)


async def _sweep(shop: Shop, workflow: str, kind: type[ReportT], order_id: str, *given: Any) -> ReportT:
    report: ReportT = await shop.client.execute_workflow(
        workflow,
        args=given,
        id=scheduled_id(order_id),
        task_queue=shop.task_queue,
        task_timeout=TASK_TIMEOUT,
        result_type=kind,
    )
    return report
