"""Temporal as an external service: its errors, its runs and its Schedules.

Runs are read from Temporal's own messages: the SDK (temporalio 1.35) refuses a whole list for one status that it does
not know, for example that of a paused run.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus
from temporalio.api.schedule.v1 import ScheduleInfo
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    DescribeScheduleRequest,
    DescribeWorkflowExecutionRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from orders.errors import NoAnswer
from orders.names import NEEDS_ATTENTION, ORDER_OUTCOME, ORDER_STAGE, SEARCH_ATTRIBUTES

CREATE_ATTRIBUTE: Final = "`temporal operator search-attribute create --type Keyword --name …`"
RPC_TIMEOUT: Final = timedelta(seconds=3)
PAGE: Final = 1000  # runs in one answer, the most that Temporal lists at once
CLOSED_STATES: Final = frozenset({"completed", "failed", "canceled", "terminated", "continued_as_new", "timed_out"})


@contextmanager
def reaching_temporal(absent: Exception | None = None) -> Iterator[None]:
    """Translate Temporal's errors.

    Args:
        absent: raised where Temporal does not have what is asked for. Without it that is NoAnswer too.

    Raises:
        NoAnswer: Temporal is out of reach, or refuses.
    """
    try:
        yield
    except RPCError as error:
        if absent and is_absent(error):
            raise absent from None
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" in error.message:
            create = f"Create {', '.join(SEARCH_ATTRIBUTES)}, each with {CREATE_ATTRIBUTE}"
            raise NoAnswer(f"Temporal lacks a search attribute: {error.message}. {create}") from None
        reason = f"{error.status.name.lower()}: {error.message.rstrip('.')}"
        raise NoAnswer(f"Temporal does not answer: {reason}{_advice(error)}") from None
    except WorkflowUpdateRPCTimeoutOrCancelledError:
        raise NoAnswer("Temporal does not answer: the update timed out") from None


def is_absent(error: BaseException) -> bool:
    """Whether Temporal does not have the run or Schedule; a missing namespace says nothing about its runs."""
    if not isinstance(error, RPCError) or error.status is not RPCStatusCode.NOT_FOUND:
        return False
    return not _lacks_namespace(error)


def _lacks_namespace(error: RPCError) -> bool:
    return any("NamespaceNotFound" in detail.type_url for detail in error.grpc_status.details)


def _advice(error: RPCError) -> str:
    if _lacks_namespace(error):
        return ". Correct TEMPORAL_NAMESPACE, e.g. TEMPORAL_NAMESPACE=default"
    match error.status:
        case RPCStatusCode.UNAVAILABLE:
            return ". Is `make up` still running?"
        case RPCStatusCode.UNAUTHENTICATED | RPCStatusCode.PERMISSION_DENIED:
            return ". Check TEMPORAL_API_KEY and TEMPORAL_NAMESPACE"
    return ""


class Absent(Exception):
    """Temporal does not have what is asked for."""


class FoundRun(NamedTuple):
    """A run as Temporal has it.

    `state` is the name of its status, or its number if we do not know it. `attempt` counts the attempts of its current
    workflow task; 0: there is none, or the run was not described but listed.
    """

    workflow: str
    workflow_id: str
    run_id: str
    state: str
    stage: str | None
    outcome: str | None
    needs_attention: str | None
    started: datetime
    closed: datetime | None
    attempt: int = 0

    @property
    def is_open(self) -> bool:
        """Whether the run may go on; so may one whose status we do not know."""
        return self.state not in CLOSED_STATES


async def find_run(client: Client, workflow_id: str) -> FoundRun | None:
    """The latest run with that id; None if Temporal has none, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(Absent), reaching_temporal(Absent()):
        execution = WorkflowExecution(workflow_id=workflow_id)
        request = DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution)
        found = await client.workflow_service.describe_workflow_execution(request, retry=True)
        return _found(found.workflow_execution_info)._replace(attempt=found.pending_workflow_task.attempt)
    return None


async def last_failure(client: Client, workflow_id: str, activity: str) -> str | None:
    """Why the last attempt of an activity failed that the run retries; None: it has not failed, or is not retried.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    request = DescribeWorkflowExecutionRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=workflow_id)
    )
    with suppress(Absent), reaching_temporal(Absent()):
        found = await client.workflow_service.describe_workflow_execution(request, retry=True)
        for each in found.pending_activities:
            if each.activity_type.name == activity and each.HasField("last_failure"):
                failure = await client.data_converter.decode_failure(each.last_failure)
                return f"attempt {each.attempt} is next: {getattr(failure, 'message', failure)}"
    return None


async def find_runs(client: Client, query: str, limit: int = PAGE) -> AsyncIterator[FoundRun]:
    """The runs that Temporal lists, the newest first, at most `limit`.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    request = ListWorkflowExecutionsRequest(namespace=client.namespace, query=query, page_size=min(limit, PAGE))
    left = limit
    while left:
        with reaching_temporal():
            page = await client.workflow_service.list_workflow_executions(request, retry=True)
        for info in page.executions[:left]:
            yield _found(info)
            left -= 1
        request.next_page_token = page.next_page_token
        if not page.next_page_token:
            return


async def is_open(client: Client, workflow_id: str) -> bool:
    """Whether a run with that id is under way, or may go on: it may be paused.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    found = await find_run(client, workflow_id)
    return found is not None and found.is_open


async def delete_run(client: Client, workflow_id: str, run_id: str) -> None:
    """Delete a closed run with its history; one that is gone already is no error. An open one would be terminated.

    Raises:
        NoAnswer: Temporal is out of reach, or this client may not delete.
    """
    execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    request = DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=execution)
    with suppress(Absent), reaching_temporal(Absent()):
        await client.workflow_service.delete_workflow_execution(request, retry=True)


class FoundSchedule(NamedTuple):
    """A Schedule as Temporal has it.

    `every` is None for one that has no interval. `succeeded` is when its last run that completed was started; for a
    Schedule without such a run, when the Schedule was made or changed. `last` is the state of its newest run.
    """

    name: str
    every: timedelta | None
    paused: bool
    succeeded: datetime
    last: str


async def find_schedule(client: Client, name: str) -> FoundSchedule | None:
    """The Schedule with that id; None if there is none.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(Absent), reaching_temporal(Absent()):
        request = DescribeScheduleRequest(namespace=client.namespace, schedule_id=name)
        found = await client.workflow_service.describe_schedule(request, retry=True)
        succeeded, last = await _last_success(client, found.info)
        spec = found.schedule.spec
        every = spec.interval[0].interval.ToTimedelta() if spec.interval else None
        return FoundSchedule(name, every, found.schedule.state.paused, succeeded, last)
    return None


async def _last_success(client: Client, info: ScheduleInfo) -> tuple[datetime, str]:
    """When the last run that succeeded was started, and the state of the newest run."""
    last = ""
    for action in reversed(info.recent_actions):
        run = await find_run(client, action.start_workflow_result.workflow_id)
        state = run.state if run else "forgotten"  # closed for longer than Temporal keeps runs: it may have succeeded
        last = last or state
        if state in {"completed", "forgotten"}:
            return action.actual_time.ToDatetime(UTC), last
    return max(info.create_time.ToDatetime(UTC), info.update_time.ToDatetime(UTC)), last or "none yet"


def _found(info: WorkflowExecutionInfo) -> FoundRun:
    attributes = info.search_attributes.indexed_fields
    return FoundRun(
        workflow=info.type.name,
        workflow_id=info.execution.workflow_id,
        run_id=info.execution.run_id,
        state=_state(info.status),
        stage=_text(attributes.get(ORDER_STAGE.name)),
        outcome=_text(attributes.get(ORDER_OUTCOME.name)),
        needs_attention=_text(attributes.get(NEEDS_ATTENTION.name)),
        started=info.start_time.ToDatetime(UTC),
        closed=info.close_time.ToDatetime(UTC) if info.HasField("close_time") else None,
    )


def _state(status: "WorkflowExecutionStatus.ValueType") -> str:
    with suppress(ValueError):
        return WorkflowExecutionStatus.Name(status).removeprefix("WORKFLOW_EXECUTION_STATUS_").lower()
    return f"status {status}"


def _text(payload: Payload | None) -> str | None:
    """The value of a search attribute; as it stands, if it is no text."""
    if payload is None:
        return None
    raw = payload.data.decode(errors="replace")
    with suppress(ValueError):
        value = json.loads(raw)
        return value if isinstance(value, str) or value is None else raw
    return raw
