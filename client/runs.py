"""What a program sees of runs: where an order stands, which runs there are, which of them need an operator.

Raises, in all functions: NoAnswer, where Temporal is out of reach.
"""

import json
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from config.payload_keys import customer_tags
from gateways.temporal import FoundRun, find_run, find_runs, reaching_temporal
from orders.errors import NoAnswer, UnknownOrder
from orders.models import Attention, CancelView, Model, OrderView, RefundView, Stage
from orders.names import (
    CANCEL_ORDER,
    CUSTOMER_ID,
    NEEDS_ATTENTION,
    NOTIFY_SHIPMENT,
    ORDER_STAGE,
    PROCESS_ORDER,
    REFUND_ORDER,
    REFUND_STEP,
    SWEEPS,
    cancel_order_id,
    order_id_of,
    refund_order_id,
    refunds_of,
)

QUERY_TIMEOUT: Final = timedelta(seconds=3)

MAX_REFUNDS: Final = 50  # runs that are listed of one order

ORDER_WORKFLOWS: Final = (PROCESS_ORDER, CANCEL_ORDER, REFUND_ORDER)
ABOUT_ORDERS: Final = f"WorkflowType IN {ORDER_WORKFLOWS}"
MARKED: Final = f"WorkflowType IN {(*ORDER_WORKFLOWS, NOTIFY_SHIPMENT)} AND {NEEDS_ATTENTION.name} IS NOT NULL"

ResultT = TypeVar("ResultT")


class Run(Model):
    """One run as Temporal lists it. `order_id` is None for a run that is about no single order.

    `outcome` is what the run told its caller, as the search attribute OrderOutcome has it.
    """

    order_id: str | None
    workflow: str
    workflow_id: str
    run_id: str
    state: str
    stage: str | None
    outcome: str | None
    needs_attention: str | None
    started: datetime
    closed: datetime | None


class StuckRun(Model):
    """A run that is marked for an operator. `parked` are the steps that wait for a resolution; empty: none waits.

    `attention` has the reasons. A closed run takes no resolution.
    """

    run: Run
    since: datetime
    parked: tuple[str, ...]
    attention: tuple[Attention, ...] = ()


async def order_status(client: Client, order_id: str) -> OrderView:
    """Where the order stands, as its run answers.

    Raises:
        UnknownOrder: Temporal has no run of it.
        NoAnswer: no worker answers.
    """
    runs = await order_runs(client, order_id)
    if isinstance(view := await view_run(client, order_id), OrderView):
        return view
    states = ", ".join(f"{run.workflow} is {run.state}" for run in runs)
    raise NoAnswer(f"no worker answers where order {order_id} stands: {states}")


async def view_run(
    client: Client, workflow_id: str, run_id: str | None = None
) -> OrderView | CancelView | RefundView | None:
    """What the run's `status` query answers; None if there is no run, it has no such query, or no worker answers."""
    if workflow_id.startswith(f"{NOTIFY_SHIPMENT}:"):
        return None
    if workflow_id.startswith(f"{CANCEL_ORDER}:"):
        return await query_run(client, workflow_id, "status", CancelView, run_id)
    if workflow_id.startswith(f"{REFUND_ORDER}:"):
        return await query_run(client, workflow_id, "status", RefundView, run_id)
    return await query_run(client, workflow_id, "status", OrderView, run_id)


async def view_timeline(client: Client, workflow_id: str) -> str | None:
    """The last line of the run's current details; None if there is no run, or no worker answers."""
    lines = await _lines(client, workflow_id)
    return lines[-1] if lines else None


async def _lines(client: Client, workflow_id: str, run_id: str | None = None) -> list[str]:
    """The lines of the run's current details, without their marks of a list."""
    metadata = await query_run(client, workflow_id, "__temporal_workflow_metadata", WorkflowMetadata, run_id)
    return [line.removeprefix("- ") for line in metadata.current_details.splitlines()] if metadata else []


async def query_run(
    client: Client, workflow_id: str, query: str, kind: type[ResultT], run_id: str | None = None
) -> ResultT | None:
    """What a query of the run answers; None if there is no run, or no worker answers: also while the run is paused."""
    handle = client.get_workflow_handle(workflow_id, run_id=run_id)
    try:
        answer: ResultT = await handle.query(query, result_type=kind, rpc_timeout=QUERY_TIMEOUT)
    except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
        return None
    except (ValueError, KeyError, RuntimeError):  # the SDK does not know the run's status, or cannot read the answer
        return None
    return answer


async def order_runs(client: Client, order_id: str, step: str = "") -> list[Run]:
    """The latest run that processes the order, the latest that cancels it, and the latest of each refund of a part.

    A new refund is listed within about a second; that of the `step` is asked for.

    Raises:
        UnknownOrder: there is none.
    """
    ids = [order_id, cancel_order_id(order_id)]
    kind, _, refund_id = step.partition(":")
    if kind == REFUND_STEP and refund_id:
        ids.append(refund_order_id(order_id, refund_id))
    latest = [found for each in ids if (found := await find_run(client, each))]
    listed = [each async for each in find_runs(client, of_refunds(order_id), MAX_REFUNDS)]
    runs: dict[str, Run] = {}
    for each in (*latest, *listed):  # the newest of an id first
        runs.setdefault(each.workflow_id, _run(each))
    if not runs:
        raise UnknownOrder(f"Temporal knows no order {order_id}")
    return [*runs.values()]


def of_refunds(order_id: str) -> str:
    """The condition for runs that refund parts of the order."""
    return f"WorkflowId STARTS_WITH {json.dumps(refunds_of(order_id))}"


async def list_runs(
    client: Client, *, stage: str | None = None, customer: str | None = None, limit: int = 50
) -> list[Run]:
    """The newest runs of orders, or those at a stage, or of a customer. A new run is listed within about a second.

    Lists do not tell the steps of placing an order apart, see Stage.listed.
    """
    at_stage = f" AND {ORDER_STAGE.name} = {json.dumps(Stage(stage).listed)}" if stage else ""
    of_customer = f" AND {of_the_customer(client, customer)}" if customer else ""
    return await _find(client, f"{ABOUT_ORDERS}{at_stage}{of_customer}", limit)


def of_the_customer(client: Client, customer: str) -> str:
    """The condition for runs of a customer, also where CustomerId is a hash by any of the client's keys."""
    return f"{CUSTOMER_ID.name} IN ({', '.join(json.dumps(tag) for tag in customer_tags(client, customer))})"


async def stuck_runs(client: Client, *, limit: int = 50) -> list[StuckRun]:
    """The runs that are marked for an operator: the newest `limit` of the open ones, and as many of the closed ones.

    Of each sweep only its last run counts: it looked at everything.
    """
    of_orders = [
        run
        for state in ("=", "!=")
        for run in await _find(client, f"{MARKED} AND ExecutionStatus {state} 'Running'", limit)
    ]
    sweeps = [await _find(client, f"WorkflowType = '{each}' AND ExecutionStatus = 'Completed'", 1) for each in SWEEPS]
    latest = [run for runs in sweeps for run in runs if run.needs_attention]
    return [await _stuck(client, run) for run in [*latest, *of_orders]]


async def count_unlisted(client: Client, found: Iterable[StuckRun], limit: int) -> int:
    """How many runs of orders are marked beside those that `stuck_runs` has found, for which `limit` had no room."""
    listed = sum(each.run.order_id is not None for each in found)
    if listed < limit:
        return 0
    with reaching_temporal():
        return max(0, (await client.count_workflows(MARKED)).count - listed)


async def _find(client: Client, query: str, limit: int) -> list[Run]:
    return [_run(found) async for found in find_runs(client, query, limit)]


def _run(found: FoundRun) -> Run:
    return Run(
        order_id=order_id_of(found.workflow, found.workflow_id),
        workflow=found.workflow,
        workflow_id=found.workflow_id,
        run_id=found.run_id,
        state=found.state,
        stage=found.stage,
        outcome=found.outcome,
        needs_attention=found.needs_attention,
        started=found.started,
        closed=found.closed,
    )


async def _stuck(client: Client, run: Run) -> StuckRun:
    view = await view_run(client, run.workflow_id, run.run_id) if run.order_id else None
    attention = view.attention if view else await _marked_lines(client, run)
    if run.closed:
        attention = tuple(each.of_closed_run() for each in attention)
    return StuckRun(
        run=run,
        since=min((each.since for each in attention if each.since), default=None) or await _marked_since(client, run),
        parked=tuple(each.what for each in attention if each.parked),
        attention=attention,
    )


async def _marked_lines(client: Client, run: Run) -> tuple[Attention, ...]:
    """The reason as the run's timeline has it, in the lines that Timeline.mark has written."""
    texts = [text for line in await _lines(client, run.workflow_id, run.run_id) if (text := line.partition("**")[2])]
    reason = "; ".join(text.removesuffix("**") for text in texts)
    return (Attention(what=run.needs_attention or "", reason=reason),) if reason else ()


async def _marked_since(client: Client, run: Run) -> datetime:
    """When the run was last marked for an operator; when it started, if Temporal has deleted it meanwhile."""
    since = run.started
    gone = UnknownOrder(f"Temporal has no run {run.workflow_id} any more")
    with suppress(UnknownOrder), reaching_temporal(gone):
        async for event in client.get_workflow_handle(run.workflow_id, run_id=run.run_id).fetch_history_events():
            changed = event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields
            if NEEDS_ATTENTION.name in changed:
                since = event.event_time.ToDatetime(UTC)
    return since
