"""What Temporal says about itself, in calls that a client of one namespace may make: no operator's right is needed."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    GetSystemInfoRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
    PollActivityTaskQueueRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from gateways.temporal import reaching_temporal
from orders.errors import NoAnswer

NOT_FOR_US: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})
CLOCK_SECONDS: Final = 5.0  # until the server has noticed a poll
LOOK_AGAIN: Final = 0.05


class NotForUs(Exception):
    """This client may not ask that, or the server does not know the call."""


async def has_keyword(client: Client, attribute: str) -> bool:
    """Whether the namespace has a search attribute of this name, of type Keyword.

    It counts runs by the attribute: only a Keyword can be asked by its beginning, and a query by a name that is not
    registered is refused, as the upsert of a workflow would be.

    Raises:
        NotForUs: this client may not count runs.
        NoAnswer: Temporal is out of reach, or the namespace does not exist.
    """
    request = CountWorkflowExecutionsRequest(namespace=client.namespace, query=f"{attribute} STARTS_WITH 'x'")
    with reaching_temporal():
        try:
            await client.workflow_service.count_workflow_executions(request, retry=True)
        except RPCError as error:
            if error.status is RPCStatusCode.INVALID_ARGUMENT:
                return False
            if error.status in NOT_FOR_US:
                raise NotForUs(error.status.name.lower()) from None
            raise
    return True


async def server_version(client: Client) -> str:
    """Raises NoAnswer."""
    with reaching_temporal():
        return (await client.workflow_service.get_system_info(GetSystemInfoRequest())).server_version


async def retention(client: Client) -> timedelta:
    """How long the namespace keeps closed runs.

    Raises:
        NotForUs: this client may not ask.
        NoAnswer: Temporal is out of reach, or the namespace does not exist.
    """
    request = DescribeNamespaceRequest(namespace=client.namespace)
    with reaching_temporal():
        try:
            found = await client.workflow_service.describe_namespace(request)
        except RPCError as error:
            if error.status in NOT_FOR_US:
                raise NotForUs(error.status.name.lower()) from None
            raise
    return found.config.workflow_execution_retention_ttl.ToTimedelta()


async def newest_input(client: Client, workflow: str, task_queue: str) -> Payload | None:
    """The first argument of the workflow's newest run, as Temporal stores it; None: there is no run, or no argument.

    Raises:
        NotForUs: this client may not list runs, or not read one.
        NoAnswer: Temporal is out of reach, or the namespace does not exist.
    """
    query = f"WorkflowType = '{workflow}' AND TaskQueue = '{task_queue}'"
    listing = ListWorkflowExecutionsRequest(namespace=client.namespace, page_size=1, query=query)
    with reaching_temporal():
        try:
            for run in (await client.workflow_service.list_workflow_executions(listing)).executions:
                request = GetWorkflowExecutionHistoryRequest(
                    namespace=client.namespace, execution=run.execution, maximum_page_size=1
                )
                answer = await client.workflow_service.get_workflow_execution_history(request)
                for event in answer.history.events:
                    return next(iter(event.workflow_execution_started_event_attributes.input.payloads), None)
        except RPCError as error:
            if error.status in NOT_FOR_US:
                raise NotForUs(error.status.name.lower()) from None
            raise
    return None


async def workflow_pollers(client: Client, task_queue: str) -> list[str]:
    """The build of each worker that polled for workflow tasks within the last minutes; empty: it has no version.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    return list(map(_build_of, await _pollers(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)))


async def activity_pollers(client: Client, task_queue: str) -> list[str]:
    """The same of those who polled for activities. Raises NoAnswer."""
    return list(map(_build_of, await _pollers(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)))


async def server_time(client: Client, task_queue: str) -> datetime:
    """When, by Temporal's clock, it noticed a poll of this client, which ends as soon as it is noticed.

    No call answers the time itself. The poll is of a queue beside `task_queue`, on which nobody puts tasks.

    Raises:
        NoAnswer: Temporal is out of reach, or does not show the poll.
    """
    name = f"{task_queue}-clock-{uuid.uuid4().hex[:8]}"
    async with _polling(client, name):
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOCK_SECONDS):
                while True:
                    for seen in await _pollers(client, name, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY):
                        return seen.last_access_time.ToDatetime(UTC)
                    await asyncio.sleep(LOOK_AGAIN)
    raise NoAnswer("Temporal does not show who polls a task queue")


@asynccontextmanager
async def _polling(client: Client, task_queue: str) -> AsyncIterator[None]:
    request = PollActivityTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=task_queue), identity="clock"
    )
    poll = asyncio.create_task(
        client.workflow_service.poll_activity_task_queue(request, timeout=timedelta(seconds=2 * CLOCK_SECONDS))
    )
    try:
        yield
    finally:
        poll.cancel()
        with suppress(asyncio.CancelledError, RPCError):
            await poll


def _build_of(poller: PollerInfo) -> str:
    is_version = (
        poller.deployment_options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
    )
    return poller.deployment_options.build_id if is_version else ""


async def _pollers(client: Client, task_queue: str, kind: "TaskQueueType.ValueType") -> list[PollerInfo]:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
    )
    with reaching_temporal():
        return list((await client.workflow_service.describe_task_queue(request)).pollers)
