"""What the runs of orders left in Temporal: events, workflow tasks and bytes."""

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from temporalio.api.enums.v1 import EventType
from temporalio.client import Client


class History(NamedTuple):
    events: float
    workflow_tasks: float
    bytes: float


async def read_histories(client: Client, orders: Sequence[str]) -> History:
    """The medians of these runs."""
    found = [await _read(client, order_id) for order_id in orders]
    return History(*(median(values) for values in zip(*found, strict=True)))


async def _read(client: Client, workflow_id: str) -> History:
    handle = client.get_workflow_handle(workflow_id)
    events = (await handle.fetch_history()).events
    tasks = sum(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED for event in events)
    info = (await handle.describe()).raw_description.workflow_execution_info
    return History(len(events), tasks, info.history_size_bytes)
