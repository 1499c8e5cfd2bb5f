"""How a client waits: it repeats what is cut off, asks whether a worker polls, and gives up when its time is over."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import TemporalError

from gateways.temporal import reaching_temporal
from orders.errors import NoAnswer, UnknownOrder

# Longer than a customer may take to authenticate a payment by default.
PATIENCE: Final = timedelta(minutes=20)

FIRST_DOUBT: Final = 3.0  # seconds without an answer before the client checks that a worker polls
LONG_POLL: Final = timedelta(seconds=90)  # a worker polls at least once a minute; the rest covers clocks that differ

ResultT = TypeVar("ResultT")


async def answer(
    client: Client, ask: Callable[[], Awaitable[ResultT]], *, what: str, task_queue: str, patience: timedelta
) -> ResultT:
    """The result of `ask`, which is repeated after a time-out and then joins what is under way.

    Raises:
        UnknownOrder: Temporal has lost the run of `what`.
        NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
    """
    deadline = asyncio.get_running_loop().time() + patience.total_seconds()
    task = asyncio.ensure_future(ask())
    try:
        while True:
            await asyncio.wait({task}, timeout=FIRST_DOUBT)
            if task.done():
                lost = UnknownOrder(f"Temporal has no run of {what} any more")
                with reaching_temporal(lost), suppress(WorkflowUpdateRPCTimeoutOrCancelledError):
                    return task.result()
                task = asyncio.ensure_future(ask())
            elif not await _has_worker(client, task_queue):
                raise NoAnswer(
                    f"{what} is kept by Temporal, but no worker polls the task queue `{task_queue}`: "
                    "it goes on as soon as one does"
                )
            elif asyncio.get_running_loop().time() > deadline:
                raise NoAnswer(f"{what} is still under way after {patience.total_seconds():g} seconds; it goes on")
    finally:
        task.cancel()
        with suppress(TemporalError, asyncio.CancelledError):
            await task


async def _has_worker(client: Client, task_queue: str) -> bool:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    with reaching_temporal():
        found = await client.workflow_service.describe_task_queue(request, retry=True)
    oldest = datetime.now(UTC) - LONG_POLL
    return any(poller.last_access_time.ToDatetime(UTC) > oldest for poller in found.pollers)
