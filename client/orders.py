"""What a program does with orders: submit, cancel, look, resolve; and with stock and recommendations.

    client = await connect()
    outcome = await submit_order(client, "order-1", {"customerId": "cus_123", …})

Everything here may be called again, also after a crash: the order id is the idempotency key. Workflows are spoken to by
name alone.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowExecution,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ApplicationError,
    CancelledError,
    TemporalError,
    WorkflowAlreadyStartedError,
)
from temporalio.service import RPCError, RPCStatusCode

from gateways.temporal import request_of
from orders.errors import InvalidInput, NoAnswer, NotParked, OrderError, RunFailed, UnknownOrder
from orders.models import (
    CancelOutcome,
    CancelReason,
    CancelView,
    ErrorCode,
    Model,
    Order,
    OrderOutcome,
    OrderView,
    Settlement,
)
from orders.names import (
    CANCEL_ORDER,
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    INDEX_RUN,
    NEEDS_ATTENTION,
    ORDER_STAGE,
    PROCESS_ORDER,
    PRODUCT_RECOMMENDATIONS,
    SWEEPS,
    TASK_QUEUE,
    VERIFY_ORDERS,
    cancel_order_id,
)
from orders.parsing import parse_cancel, parse_customer, parse_order, read_json
from orders.recommendations import IndexProgress, RecommendationsOutcome
from orders.stock import StockReport
from orders.verification import VerifyReport

# Longer than a customer may take to authenticate a payment by default.
PATIENCE: Final = timedelta(minutes=20)

A_LOOK: Final = timedelta(minutes=2)  # the report is there at once, unless Slack is out: then it waits two hours
ALL_ORDERS: Final = timedelta(hours=3)
A_CATALOGUE: Final = timedelta(hours=12)  # its progress can be seen meanwhile

MAX_RUNS: Final = 3  # that one submit starts, where the latest one does not tell
FIRST_DOUBT: Final = 3.0  # seconds without an answer until somebody asks whether a worker works at all
LOOK_AGAIN: Final = 0.3  # seconds between two looks at a run
LONG_POLL: Final = timedelta(seconds=90)  # a worker asks for work at least once a minute; the rest is for clocks
QUERY: Final = timedelta(seconds=3)

MAX_REASON: Final = 500  # characters of an operator's words, as the workflow takes them
MAX_NAME: Final = 100

ABOUT_ORDERS: Final = f"WorkflowType IN ('{PROCESS_ORDER}', '{CANCEL_ORDER}')"

OrderData = bytes | str | Mapping[str, Any]
ResultT = TypeVar("ResultT")


class Run(Model):
    """One run as Temporal lists it. `order_id` is the order that it is about, if any."""

    order_id: str | None
    workflow: str
    workflow_id: str
    run_id: str
    state: str
    stage: str | None
    needs_attention: str | None
    started: datetime
    closed: datetime | None


class StuckRun(Model):
    """A run that needs a person. `parked` are the steps that wait for a word; with none, it is told for information."""

    run: Run
    since: datetime
    parked: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------- commands


async def submit_order(
    client: Client,
    order_id: str,
    data: OrderData,
    *,
    task_queue: str = TASK_QUEUE,
    patience: timedelta = PATIENCE,
) -> OrderOutcome:
    """Place an order, and wait for its outcome. Whoever submits the same order again joins the first.

    Args:
        client: see config.temporal.connect.
        order_id: the workflow id and the idempotency key.
        data: the order in the names of orders.parsing.OrderRequest; text and bytes are JSON.
        task_queue: where the workers are.
        patience: how long to wait; the order goes on without us.

    Raises:
        InvalidInput: nothing was started; every problem is named.
        NoAnswer: Temporal is out of reach, no worker works, or our patience is at its end.
    """
    text = data if isinstance(data, bytes | str) else _to_json(data)
    order = parse_order(order_id, read_json(text))
    payload = Payload(metadata={"encoding": b"json/plain"}, data=text if isinstance(text, bytes) else text.encode())
    return await _answer(
        client,
        lambda: _submit(client, order, RawValue(payload), task_queue),
        what=f"order {order_id}",
        task_queue=task_queue,
        patience=patience,
    )


async def cancel_order(
    client: Client,
    order_id: str,
    customer_email: str | None = None,
    *,
    task_queue: str = TASK_QUEUE,
    patience: timedelta = PATIENCE,
) -> CancelOutcome:
    """Cancel an order at any moment of its life, and wait for the outcome; without an address nobody is written to.

    Raises:
        InvalidInput: nothing was started; every problem is named.
        NoAnswer: Temporal is out of reach, no worker works, or our patience is at its end.
    """
    request = {"orderId": order_id} | ({"customerEmail": customer_email} if customer_email else {})
    parse_cancel(request)
    return await _answer(
        client,
        lambda: _cancel(client, order_id, request, task_queue),
        what=f"cancelling {order_id}",
        task_queue=task_queue,
        patience=patience,
    )


async def resolve(client: Client, settlement: Settlement) -> str:
    """Say what becomes of a parked undo, at whichever run of the order it is parked; the answer repeats it.

    Raises:
        InvalidInput: a reason or name is missing or too long.
        NotParked: the step waits for nobody.
        NoAnswer: Temporal is out of reach, or no worker works.
    """
    _check_words(settlement)
    parked: list[str] = []
    for run in await order_runs(client, settlement.order_id):
        view = None if run.closed else await view_run(client, run.workflow_id)  # Temporal asks closed runs too
        parked += view.stuck if view else ()
        if settlement.step in parked:
            return await _resolve_at(client, run.workflow_id, settlement)
    stuck = ", ".join(parked) or "nothing"
    raise NotParked(f"{settlement.step} of {settlement.order_id} is not parked; parked is: {stuck}")


async def check_inventory(
    client: Client, workflow_id: str, *, task_queue: str = TASK_QUEUE, patience: timedelta = A_LOOK
) -> StockReport:
    """Look for low stock, have it told, and wait for the report, under a workflow id that is new.

    Raises:
        RunFailed: the run failed.
        NoAnswer: Temporal is out of reach, no worker works, or our patience is at its end: Slack may be out.
    """
    return await _answer(
        client,
        lambda: _result(client, CHECK_INVENTORY, workflow_id, StockReport, task_queue),
        what=workflow_id,
        task_queue=task_queue,
        patience=patience,
    )


async def recommend_products(
    client: Client, workflow_id: str, customer_id: str, *, task_queue: str = TASK_QUEUE, patience: timedelta = PATIENCE
) -> RecommendationsOutcome:
    """Ask for recommendations for a customer, and wait for them, under a workflow id that is new.

    Raises:
        InvalidInput: nothing was started; every problem is named.
        RunFailed: the run failed.
        NoAnswer: Temporal is out of reach, no worker works, or our patience is at its end.
    """
    request = {"customerId": customer_id}
    parse_customer(request)
    return await _answer(
        client,
        lambda: _result(client, PRODUCT_RECOMMENDATIONS, workflow_id, RecommendationsOutcome, task_queue, request),
        what=workflow_id,
        task_queue=task_queue,
        patience=patience,
    )


async def index_products(
    client: Client, *, task_queue: str = TASK_QUEUE, patience: timedelta = A_CATALOGUE
) -> IndexProgress:
    """Embed the products that are new or changed, and wait for the end; one such run at a time, which others join.

    Raises:
        RunFailed: the run failed; what it embedded stays.
        NoAnswer: Temporal is out of reach, no worker works, or our patience is at its end.
    """
    return await _answer(
        client,
        lambda: _result(client, INDEX_PRODUCTS, INDEX_RUN, IndexProgress, task_queue),
        what=INDEX_PRODUCTS,
        task_queue=task_queue,
        patience=patience,
    )


async def verify_orders(
    client: Client, workflow_id: str, *, task_queue: str = TASK_QUEUE, patience: timedelta = ALL_ORDERS
) -> VerifyReport:
    """Judge orders and stock by the invariants, and wait for the report, under a workflow id that is new.

    Raises:
        RunFailed: the run failed.
        NoAnswer: Temporal is out of reach, no worker works, or our patience is at its end.
    """
    return await _answer(
        client,
        lambda: _result(client, VERIFY_ORDERS, workflow_id, VerifyReport, task_queue),
        what=workflow_id,
        task_queue=task_queue,
        patience=patience,
    )


# ------------------------------------------------------------------------------------------------------------- looks


async def order_status(client: Client, order_id: str) -> OrderView:
    """Where the order stands, as its run tells it.

    Raises:
        UnknownOrder: there is no run of it.
        NoAnswer: Temporal is out of reach, or no worker works.
    """
    await order_runs(client, order_id)
    if isinstance(view := await view_run(client, order_id), OrderView):
        return view
    raise NoAnswer(f"no worker tells how order {order_id} stands")


async def view_run(client: Client, workflow_id: str) -> OrderView | CancelView | None:
    """What the run's `status` query answers; None when there is no run, or no worker to answer."""
    if workflow_id.startswith(f"{CANCEL_ORDER}:"):
        return await _query(client, workflow_id, "status", CancelView)
    return await _query(client, workflow_id, "status", OrderView)


async def view_index(client: Client) -> IndexProgress | None:
    """How far the indexing of products is; None when there is no run, or no worker to answer."""
    return await _query(client, INDEX_RUN, "status", IndexProgress)


async def view_timeline(client: Client, workflow_id: str) -> str | None:
    """The last line of the run's current details; None when there is no run, or no worker to answer."""
    metadata = await _query(client, workflow_id, "__temporal_workflow_metadata", WorkflowMetadata)
    return metadata.current_details.rpartition("\n")[2].removeprefix("- ") if metadata else None


async def order_runs(client: Client, order_id: str) -> list[Run]:
    """The latest run that processes the order, and the latest that cancels it.

    Raises:
        UnknownOrder: there is neither.
        NoAnswer: Temporal is out of reach.
    """
    runs: list[Run] = []
    for workflow_id in (order_id, cancel_order_id(order_id)):
        try:
            with reaching_temporal():
                runs.append(_run(await client.get_workflow_handle(workflow_id).describe()))
        except UnknownOrder:
            continue
    if not runs:
        raise UnknownOrder(f"Temporal knows no order {order_id}")
    return runs


async def list_runs(client: Client, *, stage: str | None = None, limit: int = 50) -> list[Run]:
    """The newest runs, of all orders or of those at a stage. A run appears here within about a second.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    at_stage = f" AND {ORDER_STAGE.name} = {json.dumps(stage)}" if stage else ""
    return await _find(client, f"{ABOUT_ORDERS}{at_stage}", limit)


async def stuck_runs(client: Client, *, limit: int = 50) -> list[StuckRun]:
    """The runs that need a person. Of those that look at everything the last one speaks for those before it.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    of_orders = await _find(client, f"{ABOUT_ORDERS} AND {NEEDS_ATTENTION.name} IS NOT NULL", limit)
    sweeps = [await _find(client, f"WorkflowType = '{each}' AND ExecutionStatus = 'Completed'", 1) for each in SWEEPS]
    latest = [run for runs in sweeps for run in runs if run.needs_attention]
    return [await _stuck(client, run) for run in [*latest, *of_orders]]


# ------------------------------------------------------------------------------------------------------------ details


async def _answer(
    client: Client,
    ask: Callable[[], Awaitable[ResultT]],
    *,
    what: str,
    task_queue: str,
    patience: timedelta,
) -> ResultT:
    """What `ask` is answered; it is asked again after a time-out, which joins what is under way."""
    deadline = asyncio.get_running_loop().time() + patience.total_seconds()
    task = asyncio.ensure_future(ask())
    try:
        while True:
            await asyncio.wait({task}, timeout=FIRST_DOUBT)
            if task.done():
                with reaching_temporal(), suppress(WorkflowUpdateRPCTimeoutOrCancelledError):
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


class _OnlyTheRowTells(Exception):
    """The latest run was ended from outside, was another payload's, or is gone: another must ask the order's row."""


async def _submit(client: Client, order: Order, payload: RawValue, task_queue: str) -> OrderOutcome:
    reuse = WorkflowIDReusePolicy.REJECT_DUPLICATE
    for _ in range(MAX_RUNS):
        with suppress(_OnlyTheRowTells):
            return await _submit_once(client, order, payload, task_queue, reuse)
        reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE
    raise NoAnswer(f"the runs of order {order.id} are ended from outside, replaced, or gone before they can answer")


async def _submit_once(
    client: Client, order: Order, payload: RawValue, task_queue: str, reuse: WorkflowIDReusePolicy
) -> OrderOutcome:
    units = sum(line.quantity for line in order.lines)
    start = WithStartWorkflowOperation[Any, Any](
        PROCESS_ORDER,
        payload,
        id=order.id,
        task_queue=task_queue,
        id_reuse_policy=reuse,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"{units} units of {len(order.lines)} products, {order.priority}",
    )
    try:
        outcome: OrderOutcome = await client.execute_update_with_start_workflow(
            "submit",
            order.request_hash,
            start_workflow_operation=start,
            id=order.request_hash,
            result_type=OrderOutcome,
        )
    except TemporalError as error:
        with suppress(TemporalError, asyncio.CancelledError):
            await start.workflow_handle()  # it holds the same error, and asyncio tells of errors that nobody saw
        if not _is_over(error):
            raise
        return await _follow(client, order)
    if outcome.error_code is ErrorCode.UNDO_PARKED:
        # Temporal keeps an update's first answer for ever; since then an operator may have had a word.
        view = await view_run(client, order.id)
        if view is None or not view.stuck:
            return await _follow(client, order)
    return outcome


def _is_over(error: TemporalError) -> bool:
    """The run is closed, closed before it could answer, or has as many updates in flight as a run may have."""
    return _is_absent(error) or isinstance(error, WorkflowAlreadyStartedError | WorkflowUpdateFailedError)


def _is_absent(error: TemporalError) -> bool:
    """There is no such run; a namespace that is not there is another matter."""
    if not isinstance(error, RPCError) or error.status is not RPCStatusCode.NOT_FOUND:
        return False
    return not any("NamespaceNotFound" in detail.type_url for detail in error.grpc_status.details)


async def _follow(client: Client, order: Order) -> OrderOutcome:
    """The outcome of the run with the order's id, if it is a run of this order."""
    handle: WorkflowHandle[Any, OrderOutcome] = client.get_workflow_handle(order.id, result_type=OrderOutcome)
    try:
        if (await request_of(client, handle)).hash_of(order.id) != order.request_hash:
            raise _OnlyTheRowTells
        return await handle.result()
    except WorkflowFailureError as failure:
        return _outcome(order.id, failure.cause)
    except RPCError as error:
        # Past its retention, or never there: a Temporal that stalls has said so of a run that it was asked to start.
        if _is_absent(error):
            raise _OnlyTheRowTells from None
        raise


def _outcome(order_id: str, cause: BaseException) -> OrderOutcome:
    if isinstance(cause, ApplicationError) and cause.details:
        return OrderOutcome.model_validate(cause.details[0])
    if isinstance(cause, CancelledError):
        error = "the order was cancelled"
        return OrderOutcome(success=False, order_id=order_id, error=error, error_code=ErrorCode.CANCELLED)
    raise _OnlyTheRowTells  # terminated, or out of the time that whoever started it gave it


async def _cancel(client: Client, order_id: str, request: Mapping[str, str], task_queue: str) -> CancelOutcome:
    handle: WorkflowHandle[Any, CancelOutcome] = await client.start_workflow(
        CANCEL_ORDER,
        request,
        id=cancel_order_id(order_id),
        task_queue=task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        result_type=CancelOutcome,
        static_summary=f"cancel {order_id}",
    )
    result = asyncio.ensure_future(handle.result())
    try:
        while not result.done():
            await asyncio.wait({result}, timeout=FIRST_DOUBT)
            view = None if result.done() else await view_run(client, handle.id)
            if isinstance(view, CancelView) and view.outcome:
                return view.outcome
            if view and view.stuck:
                return CancelOutcome(cancelled=False, refunded=False, reason=CancelReason.UNDO_PARKED)
        return result.result()
    except WorkflowFailureError as failure:
        raise NoAnswer(f"the cancelling of {order_id} was ended from outside: {failure.cause}") from None
    finally:
        result.cancel()


async def _result(
    client: Client, workflow: str, workflow_id: str, kind: type[ResultT], task_queue: str, *request: object
) -> ResultT:
    """What the run with that id comes to; it is started, unless it is under way."""
    handle: WorkflowHandle[Any, ResultT] = await client.start_workflow(
        workflow,
        args=request,
        id=workflow_id,
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        result_type=kind,
    )
    try:
        return await handle.result()
    except WorkflowFailureError as failure:
        cause: BaseException = failure
        while cause.__cause__:
            cause = cause.__cause__
        raise RunFailed(f"{workflow_id} failed: {cause}") from None


async def _query(client: Client, workflow_id: str, query: str, kind: type[ResultT]) -> ResultT | None:
    try:
        answer: ResultT = await client.get_workflow_handle(workflow_id).query(
            query, result_type=kind, rpc_timeout=QUERY
        )
    except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError, ValidationError):
        return None
    return answer


def _check_words(settlement: Settlement) -> None:
    limits = {"reason": (settlement.reason, MAX_REASON), "by": (settlement.by, MAX_NAME)}
    if problems := [
        f"{field}: must have 1 to {longest} characters"
        for field, (text, longest) in limits.items()
        if not 1 <= len(text) <= longest
    ]:
        raise InvalidInput(problems)


async def _resolve_at(client: Client, workflow_id: str, settlement: Settlement) -> str:
    with reaching_temporal():
        try:
            said: str = await client.get_workflow_handle(workflow_id).execute_update(
                "resolve", settlement.model_dump(exclude={"order_id", "word"}), result_type=str
            )
        except WorkflowUpdateFailedError as refused:
            raise NotParked(str(refused.cause)) from None
    return said


async def _has_worker(client: Client, task_queue: str) -> bool:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace,
        task_queue=TaskQueue(name=task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    with reaching_temporal():
        answer = await client.workflow_service.describe_task_queue(request, retry=True)
    oldest = datetime.now(UTC) - LONG_POLL
    return any(poller.last_access_time.ToDatetime(UTC) > oldest for poller in answer.pollers)


async def _find(client: Client, query: str, limit: int) -> list[Run]:
    with reaching_temporal():
        return [_run(found) async for found in client.list_workflows(query, limit=limit)]


def _run(found: WorkflowExecution) -> Run:
    return Run(
        order_id=found.id.removeprefix(f"{CANCEL_ORDER}:")
        if found.workflow_type in (PROCESS_ORDER, CANCEL_ORDER)
        else None,
        workflow=found.workflow_type,
        workflow_id=found.id,
        run_id=found.run_id,
        state=found.status.name.lower() if found.status else "unknown",
        stage=found.typed_search_attributes.get(ORDER_STAGE),
        needs_attention=found.typed_search_attributes.get(NEEDS_ATTENTION),
        started=found.start_time,
        closed=found.close_time,
    )


async def _stuck(client: Client, run: Run) -> StuckRun:
    view = None if run.closed else await view_run(client, run.workflow_id)
    return StuckRun(run=run, since=await _calls_since(client, run), parked=view.stuck if view else ())


async def _calls_since(client: Client, run: Run) -> datetime:
    """When the run last began to call for attention."""
    since = run.started
    with reaching_temporal():
        async for event in client.get_workflow_handle(run.workflow_id, run_id=run.run_id).fetch_history_events():
            changed = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
            if NEEDS_ATTENTION.name in changed:
                since = event.event_time.ToDatetime(UTC)
    return since


def _to_json(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, default=_exact_number)
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput(["input: must be JSON"]) from None


def _exact_number(value: object) -> float:
    """A Decimal as the double that prints like it, if there is one."""
    if isinstance(value, Decimal) and Decimal(repr(number := float(value))) == value:
        return number
    raise TypeError


@contextmanager
def reaching_temporal(absent: OrderError | None = None) -> Iterator[None]:
    """Turn what Temporal answers instead of a result into our words; `absent`: where what is asked for is no run.

    Raises:
        UnknownOrder, or `absent`: Temporal does not know it.
        NoAnswer: Temporal is out of reach.
    """
    try:
        yield
    except RPCError as error:
        if _is_absent(error):
            raise (absent or UnknownOrder(error.message)) from None
        raise NoAnswer(f"Temporal does not answer: {error.status.name.lower()}: {error.message}") from None
