"""What a happy order costs in the shape of its run: `make shape`. tests/workflows/test_shape.py sets the limits."""

import asyncio
import os
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy

from orders.models import OrderOutcome
from orders.names import PROCESS_ORDER
from orders.parsing import parse_order
from tests.support.shop import Shop, an_order, open_everything


@dataclass(frozen=True)
class Shape:
    """Counted in the history of one run. `stages` are activities that had to wait for an earlier one."""

    items: int
    activities: int
    stages: int
    workflow_tasks: int
    events: int
    history_bytes: int
    seconds: float


async def measure(shop: Shop, items: int) -> Shape:
    """Submit one order with that many different products and look at what its run left behind."""
    order_id = f"shape-{items}"
    handle = await _submit(shop, order_id, await _payload(shop, items))
    history = await handle.fetch_history()
    scheduled = [e for e in history.events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]
    tasks = [e for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
    description = await handle.describe()
    return Shape(
        items=items,
        activities=len(scheduled),
        stages=len({e.activity_task_scheduled_event_attributes.workflow_task_completed_event_id for e in scheduled}),
        workflow_tasks=len(tasks),
        events=len(history.events),
        history_bytes=description.raw_description.workflow_execution_info.history_size_bytes,
        seconds=_seconds_until_answered(list(history.events)),
    )


async def _payload(shop: Shop, items: int) -> dict[str, Any]:
    ids = [f"shape-{number}" for number in range(items)]
    await shop.pool.execute(
        """
        WITH made AS (
            INSERT INTO products (id, name, price, currency) SELECT id, id, 100, 'usd' FROM unnest($1::text[]) AS id
            ON CONFLICT DO NOTHING RETURNING id
        )
        INSERT INTO inventory (product_id, product_name, quantity) SELECT id, id, 1000 FROM made
        """,
        ids,
    )
    return an_order(items=[{"productId": name, "quantity": 1} for name in ids])


async def _submit(shop: Shop, order_id: str, payload: dict[str, Any]) -> Any:
    start: WithStartWorkflowOperation[Any, OrderOutcome] = WithStartWorkflowOperation(
        PROCESS_ORDER,
        payload,
        id=order_id,
        task_queue=shop.task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
    outcome = await shop.client.execute_update_with_start_workflow(
        "submit",
        parse_order(order_id, payload).request_hash,
        start_workflow_operation=start,
        result_type=OrderOutcome,
    )
    assert outcome.success, outcome
    handle = await start.workflow_handle()
    await handle.result()
    return handle


def _seconds_until_answered(events: list[HistoryEvent]) -> float:
    answered = next(e for e in events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
    return (answered.event_time.ToNanoseconds() - events[0].event_time.ToNanoseconds()) / 1e9


async def show() -> None:
    async with open_everything() as shop:
        await measure(shop, 2)  # warms caches and connections
        table = Table("items", "activities", "stages", "workflow tasks", "events", "history bytes", "s to the answer")
        for items in (1, 50):
            shape = await measure(shop, items)
            table.add_row(
                *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in vars(shape).values())
            )
        Console().print(table)


if __name__ == "__main__":
    asyncio.run(show())
    os._exit(0)  # see tests/conftest.py
