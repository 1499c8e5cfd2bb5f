"""Scenarios that between them reach every activity of the scheduled workflows.

Each creates what the workflow must find, runs it, and checks the result.
"""

from typing import Any, Final, TypeVar

from orders.models import ErrorCode, OrderOutcome, Status
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS, PRODUCT_RECOMMENDATIONS, RECONCILE_ORDERS, VERIFY_ORDERS
from orders.recommendations import IndexProgress, RecommendationsOutcome, Source
from orders.reconciliation import ReconcileReport
from orders.stock import StockReport
from orders.verification import VerifyReport
from tests.proof.matrix.scenarios import TASK_TIMEOUT, placed, refused, until_authentication
from tests.support.manual_actions import authorize_again, hold_again, pay
from tests.support.shop import Shop, an_order

ReportT = TypeVar("ReportT")

SCARCE: Final = [{"productId": "5", "quantity": 2}]  # there is one


def scheduled_id(order_id: str) -> str:
    """The id of the workflow that a scenario starts."""
    return f"scheduled:{order_id}"


async def restarted(shop: Shop, order_id: str) -> None:
    """The run is terminated while the customer is asked to authenticate; reconciliation restarts it."""
    run, payment = await until_authentication(shop, order_id)
    await run.terminate()
    await _reconcile(shop, order_id)
    shop.world.stripe.account.authenticate(payment, succeeds=True)
    again = shop.client.get_workflow_handle(order_id, result_type=OrderOutcome)
    await again.signal("payment-updated")
    assert (await again.result()).success


async def alerted(shop: Shop, order_id: str) -> None:
    """Operators are alerted of a charge without an order, and the alert is recorded."""
    await placed(shop, order_id)
    payment = await pay(shop, f"lost-{order_id}")
    [problem] = (await _reconcile(shop, order_id)).alerted
    assert payment in problem
    assert any(problem in alert.text for alert in shop.world.inbox.alerts)
    assert await shop.pool.fetchval("SELECT count(*) FROM reminders") == 1


async def refunded_orphan(shop: Shop, order_id: str) -> None:
    """A charge that is not on its order's row is refunded, and the refund is recorded."""
    await _out_of_stock(shop, order_id)
    payment = await pay(shop, order_id)
    await _reconcile(shop, order_id)
    [refund] = shop.world.stripe.account.refunds.values()
    assert refund.payment_intent == payment


async def voided_orphan(shop: Shop, order_id: str) -> None:
    """An authorization that is not on its order's row is voided."""
    await _out_of_stock(shop, order_id)
    payment = await pay(shop, order_id, capture="manual")
    await _reconcile(shop, order_id)
    assert shop.world.stripe.account.intent(payment).status == "canceled"


async def voided_late(shop: Shop, order_id: str) -> None:
    """The payment of a closed order is authorized late, and voided."""
    await _out_of_stock(shop, order_id)
    payment = await authorize_again(shop, order_id)
    await _reconcile(shop, order_id)
    assert shop.world.stripe.account.intent(payment).status == "canceled"
    assert await shop.pool.fetchval("SELECT count(*) FROM order_events WHERE why LIKE '%' || $1 || '%'", payment) == 1


async def refunded_late(shop: Shop, order_id: str) -> None:
    """The bank settles a refund after the order is closed."""
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
    """No rule is broken."""
    await placed(shop, order_id)
    report = await _run(shop, VERIFY_ORDERS, VerifyReport, order_id)
    assert (report.checked, report.violations, report.unverified) == (1, (), ())


async def low_stock(shop: Shop, order_id: str) -> None:
    """One product runs short: Slack gets an alert, and the alert is recorded."""
    report = await _run(shop, CHECK_INVENTORY, StockReport, order_id)
    assert [item.product_id for item in report.low_stock_items] == ["5"]
    assert (
        await shop.pool.fetchval("SELECT count(*) FROM stock_alerts WHERE sent_at IS NOT NULL AND lease IS NULL") == 1
    )
    assert shop.world.inbox.alerts


async def recommended(shop: Shop, order_id: str) -> None:
    """The catalogue is embedded, and the model recommends products to a customer."""
    await placed(shop, order_id)
    index = await _run(shop, INDEX_PRODUCTS, IndexProgress, order_id)
    assert (index.products, index.finished) == (5, True)
    who = {"customerId": "cus_123"}
    outcome = await _run(shop, PRODUCT_RECOMMENDATIONS, RecommendationsOutcome, order_id, who)
    assert outcome.source is Source.MODEL


async def _out_of_stock(shop: Shop, order_id: str) -> None:
    run = await shop.start(an_order(items=SCARCE), order_id, task_timeout=TASK_TIMEOUT)
    assert (await run.result()).error_code is ErrorCode.OUT_OF_STOCK
    assert await shop.status(order_id) == Status.REJECTED


async def _reconcile(shop: Shop, order_id: str) -> ReconcileReport:
    return await _run(shop, RECONCILE_ORDERS, ReconcileReport, order_id)


async def _run(shop: Shop, workflow: str, kind: type[ReportT], order_id: str, *given: Any) -> ReportT:
    report: ReportT = await shop.client.execute_workflow(
        workflow,
        args=given,
        id=scheduled_id(order_id),
        task_queue=shop.task_queue,
        task_timeout=TASK_TIMEOUT,
        result_type=kind,
    )
    return report
