"""reconcile-orders on a day on which everything parks: what it finds is more than one payload holds."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from temporalio import activity
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from orders.models import Alert, Status
from orders.names import RECONCILE_ORDERS
from orders.reconciliation import OrdersWithoutRun, OrderWithoutRun, Page, ReconcileReport
from workflows.alerts import MAX_ALERTS
from workflows.reconcile_orders import MAX_LISTED, ReconcileOrders

PARKED: Final = 4_500  # their texts are more than the two mebibytes that Temporal takes
AT_ONCE: Final = 100
REASON: Final = "void_payment: stripe: the account has insufficient funds to cover this refund, and more of this kind"
LEFTOVERS: Final = MAX_LISTED + 100
OTHERS: Final[dict[str, Any]] = {
    "find_unconfirmed_orders": {"orders": [], "next": None},
    "find_refunds": [],
    "find_refunds_without_run": {"refunds": [], "next": None},
    "find_stuck_refunds": [],
    "find_payment_warnings": [],
    "check_payments": {"found": []},
    "find_orphans": {"found": []},
    "check_shipments": {"found": []},
    "notify_parcels": [],
    "refund_shortages": [],
    "find_parcel_problems": [],
    "release_leftovers": [f"order-{number}" for number in range(LEFTOVERS)],
    "mark_alerted": None,
}


def answering(name: str, answer: Any) -> Callable[[Any], Any]:
    @activity.defn(name=name)
    async def answers(_: Any) -> Any:
        return answer

    return answers


@activity.defn
async def find_orders_without_run(page: Page) -> OrdersWithoutRun:
    begin = int(page.id or 0)
    parked = [f"order-{number:064}" for number in range(begin, begin + AT_ONCE)]
    end = begin + AT_ONCE
    return OrdersWithoutRun(
        orders=tuple(
            OrderWithoutRun(order_id=each, status=Status.UNDOING, parked=REASON, parked_by=each) for each in parked
        ),
        next=Page(at=datetime.now(UTC), id=str(end)) if end < PARKED else None,
    )


@pytest.mark.prove
async def test_a_day_on_which_everything_parks(temporal: WorkflowEnvironment) -> None:
    """As many operators' alerts as one run sends go out; the report says how much it has no room for."""
    asked: list[int] = []
    alerts: list[str] = []

    @activity.defn
    async def unreported_problems(keys: list[str]) -> list[str]:
        asked.append(len(keys))
        return keys[::10]

    @activity.defn
    async def post_alert(alert: Alert) -> None:
        alerts.append(alert.text)

    activities: list[Callable[..., Any]] = [find_orders_without_run, unreported_problems, post_alert]
    others = [answering(name, answer) for name, answer in OTHERS.items()]
    queue = "many-problems"
    async with Worker(
        temporal.client, task_queue=queue, workflows=[ReconcileOrders], activities=[*activities, *others]
    ):
        report = await temporal.client.execute_workflow(
            RECONCILE_ORDERS, id=queue, task_queue=queue, result_type=ReconcileReport
        )

    assert (len(alerts), len(report.alerted), report.not_done) == (MAX_ALERTS, MAX_ALERTS, ())
    assert asked == [1_000, 1_000]
    assert (len(report.stock), report.stock[-1]) == (MAX_LISTED + 1, "and 100 more")
