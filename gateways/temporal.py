"""Temporal as an external service: its errors, its runs and Schedules, and the input that a run was started with.

Runs are read from Temporal's own messages: the SDK (temporalio 1.35) refuses a whole list for one status that it does
not know, for example that of a paused run.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

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
from temporalio.client import Client, WorkflowHandle, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from orders.errors import InvalidInput, NoAnswer
from orders.models import Order, OrderRow, Refund
from orders.names import (
    NEEDS_ATTENTION,
    NOTIFY_SHIPMENT,
    ORDER_OUTCOME,
    ORDER_STAGE,
    PROCESS_ORDER,
    REFUND_ORDER,
    SEARCH_ATTRIBUTES,
    TASK_QUEUE,
    notify_shipment_id,
    refund_order_id,
)
from orders.parcels import ParcelNotice, Shortage
from orders.parsing import parse_order, parse_refund, read_payload

CREATE_ATTRIBUTE: Final = "`temporal operator search-attribute create --type Keyword --name …`"
START_TIMEOUT: Final = timedelta(seconds=5)
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


class _Absent(Exception):
    """Temporal does not have the run."""


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
    with suppress(_Absent), reaching_temporal(_Absent()):
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
    with suppress(_Absent), reaching_temporal(_Absent()):
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
    with suppress(_Absent), reaching_temporal(_Absent()):
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
    with suppress(_Absent), reaching_temporal(_Absent()):
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


class Request(NamedTuple):
    """The type of a run, and the payload that it was started with; None if it was none, or several."""

    workflow: str
    payload: RawValue | None

    def order_of(self, order_id: str) -> Order | None:
        """The order in the payload; None if the payload is no order."""
        with suppress(InvalidInput):
            return parse_order(order_id, read_payload(self.payload))
        return None

    @property
    def refund(self) -> Refund | None:
        """The refund in the payload; None if the payload is none."""
        with suppress(InvalidInput):
            return parse_refund(read_payload(self.payload))
        return None

    def is_of(self, row: OrderRow) -> bool:
        """Whether the row was written for it."""
        order = self.order_of(row.id)
        return order is not None and order.request_hash == row.request_hash


async def start_refund(client: Client, refund: Refund, *, task_queue: str = TASK_QUEUE) -> WorkflowHandle[Any, Any]:
    """Start refund-order, unless its run is open: nothing is refunded twice under one refund id.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with reaching_temporal():
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            REFUND_ORDER,
            refund.as_request(),
            id=refund_order_id(refund.order_id, refund.refund_id),
            task_queue=task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=f"refund {refund.refund_id} of {refund.order_id}",
            rpc_timeout=START_TIMEOUT,
        )
    return handle


async def find_request(client: Client, row: OrderRow) -> Request | None:
    """What the row was written for. The latest run may have had another payload, and was refused.

    None: Temporal no longer has it.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    latest = await request_in(client, PROCESS_ORDER, row.id)  # the list of runs may be incomplete or not available
    if latest and latest.is_of(row):
        return latest
    async for run in find_runs(client, f"WorkflowId = '{row.id}'"):
        request = await request_in(client, PROCESS_ORDER, run.workflow_id, run.run_id)
        if request and request.is_of(row):
            return request
    return None


async def request_in(client: Client, workflow: str, workflow_id: str, run_id: str | None = None) -> Request | None:
    """The request that a run of the workflow was started with; None if Temporal has no such run, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    request = await request_of(client, client.get_workflow_handle(workflow_id, run_id=run_id))
    return request if request and request.workflow == workflow and request.payload else None


async def tell_of_parcel(client: Client, task_queue: str, notice: ParcelNotice) -> None:
    """Start the run that tells the customer, unless it is open.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with reaching_temporal():
        await client.start_workflow(
            NOTIFY_SHIPMENT,
            notice.model_dump(mode="json", exclude_none=True),
            id=notify_shipment_id(notice.order_id, notice.shipment_id),
            task_queue=task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            static_summary="a parcel has left",
            rpc_timeout=RPC_TIMEOUT,
        )


async def refund_shortage(  # noqa: PLR0913 (what a refund is made of)
    client: Client, task_queue: str, row: OrderRow, shortage: Shortage, *, restock: bool, amount: Decimal | None
) -> None:
    """Start the refund of what can never leave. The customer is told, if Temporal still has the order's request.

    `amount` is what is refunded; None: the prices of the units.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    request = await find_request(client, row)
    order = request.order_of(row.id) if request else None
    refund = shortage.refund(order.customer_email if order else None, restock=restock, amount=amount)
    await start_refund(client, refund, task_queue=task_queue)


async def request_of(client: Client, handle: WorkflowHandle[Any, Any]) -> Request | None:
    """What the run was started with, from its first event; None if Temporal does not have the run, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(_Absent), reaching_temporal(_Absent()):
        event = await anext(handle.fetch_history_events(page_size=1))
        started = event.workflow_execution_started_event_attributes
        payloads = started.input.payloads
        values: list[RawValue] = await client.data_converter.decode(payloads, [RawValue] * len(payloads))
        return Request(started.workflow_type.name, values[0] if len(values) == 1 else None)
    return None
