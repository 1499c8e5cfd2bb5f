"""What a happy order costs in the shape of its run: `make shape`. tests/workflows/test_shape.py sets the limits."""

import asyncio
import os
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console
from rich.table import Table
from temporalio.api.enums.v1 import EventType

from client.orders import submit_order
from tests.support.shop import Shop, an_order, new_order_id, open_everything


@dataclass(frozen=True)
class Shape:
    """Counted in the history of one run. `stages` are activities that had to wait for an earlier one.

    `upserts` are updates of search attributes; `seconds` is the time until the caller has its answer.
    """

    items: int
    activities: int
    stages: int
    stages_to_answer: int
    workflow_tasks: int
    upserts: int
    events: int
    history_bytes: int
    seconds: float


async def measure(shop: Shop, items: int) -> Shape:
    """Submit one order with that many different products and look at what its run left behind."""
    order_id = new_order_id()
    handle = await _submit(shop, order_id, await _payload(shop, items))
    events = (await handle.fetch_history()).events
    scheduled = [e for e in events if e.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]
    tasks = [e for e in events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
    upserts = [e for e in events if e.event_type == EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES]
    stages = {e.activity_task_scheduled_event_attributes.workflow_task_completed_event_id for e in scheduled}
    answered = next(e for e in events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED)
    answering_task = max(e.event_id for e in tasks if e.event_id < answered.event_id)
    description = await handle.describe()
    return Shape(
        items=items,
        activities=len(scheduled),
        stages=len(stages),
        stages_to_answer=sum(stage < answering_task for stage in stages),
        workflow_tasks=len(tasks),
        upserts=len(upserts),
        events=len(events),
        history_bytes=description.raw_description.workflow_execution_info.history_size_bytes,
        seconds=(answered.event_time.ToNanoseconds() - events[0].event_time.ToNanoseconds()) / 1e9,
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
    outcome = await submit_order(shop.client, order_id, payload, task_queue=shop.task_queue)
    assert outcome.success, outcome
    handle = shop.client.get_workflow_handle(order_id)
    await handle.result()
    return handle


async def show() -> None:
    async with open_everything() as shop:
        await measure(shop, 2)  # warms caches and connections
        table = Table(*(field.name.replace("_", " ") for field in fields(Shape)))
        for items in (1, 50):
            shape = await measure(shop, items)
            table.add_row(
                *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in vars(shape).values())
            )
        Console().print(table)


if __name__ == "__main__":
    asyncio.run(show())
    os._exit(0)  # see tests/conftest.py
