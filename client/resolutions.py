"""What an operator does with a parked step: resolve it, and follow what its retry comes to."""

import asyncio
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from pydantic import ValidationError
from temporalio.client import Client, WorkflowUpdateFailedError

from client.runs import order_runs, view_run
from gateways.temporal import find_run, last_failure, reaching_temporal
from orders.errors import InvalidInput, NotParked, UnknownOrder
from orders.models import Attention, Model, ResolutionAction, View
from orders.parsing import check_operator_texts
from saga import NOT_FINISHED, RESOLVE, Resolution

LOOK_AGAIN: Final = 0.2  # seconds


def read_resolution(step: str, action: ResolutionAction, reason: str, by: str) -> Resolution:
    """An operator's resolution of a parked step.

    Raises:
        InvalidInput: the reason or the name is missing, too long, or cannot be printed.
    """
    check_operator_texts(reason, by)
    try:
        return Resolution(step=step, action=action, reason=reason, by=by)
    except ValidationError:
        raise InvalidInput(
            ["reason, by: must not contain control characters, or any that turn the direction of text"]
        ) from None


class Resolved(NamedTuple):
    """The run that took a resolution, and its answer."""

    workflow_id: str
    answer: str


async def resolve(client: Client, order_id: str, resolution: Resolution) -> Resolved:
    """Send an operator's resolution of a step to the run of the order that is parked at it, or keeps failing at it.

    Raises:
        NotParked: there is no such run.
        UnknownOrder: Temporal has no run of the order.
        NoAnswer: Temporal is out of reach, or no worker polls.
    """
    parked: dict[str, tuple[str, ...]] = {}
    for run in await order_runs(client, order_id, resolution.step):
        if not run.closed and (view := await view_run(client, run.workflow_id)):  # closed runs answer queries too
            parked[run.workflow_id] = view.parked
    steps = ", ".join(step for steps in parked.values() for step in steps) or "nothing"
    refusal = NotParked(f"{resolution.step} of {order_id} is not parked; parked is: {steps}")
    for workflow_id in sorted(parked, key=lambda each: resolution.step not in parked[each]):
        with reaching_temporal(UnknownOrder(f"the run {workflow_id} is closed")):
            try:
                text: str = await client.get_workflow_handle(workflow_id).execute_update(
                    RESOLVE, resolution, result_type=str
                )
            except WorkflowUpdateFailedError as refused:
                if resolution.step in parked[workflow_id]:
                    raise NotParked(str(refused.cause)) from None
                continue
            return Resolved(workflow_id, text)
    raise refusal


class StepEnd(Model):
    """What became of a step after its retry. `text` is how it ended, or why it has not ended.

    `ended`: its run was ended from outside before the step was done.
    """

    state: Literal["done", "parked", "under_way", "ended"]
    text: str
    attention: Attention | None = None


async def follow_retry(client: Client, workflow_id: str, step: str, patience: timedelta) -> StepEnd:
    """Wait until a step that is retried is done or parked again, or until `patience` is over.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    deadline = asyncio.get_running_loop().time() + patience.total_seconds()
    while True:
        run = await find_run(client, workflow_id)  # before the query: what a run that is closed answers is its end
        view = await view_run(client, workflow_id)
        if end := _end_of(step, view):
            return end
        if run is None or not run.is_open:
            ended = "gone" if run is None else run.state
            return StepEnd(state="done" if ended in {"completed", "failed"} else "ended", text=f"the run is {ended}")
        if asyncio.get_running_loop().time() > deadline:
            failure = await last_failure(client, workflow_id, step)
            why = failure or ("no worker answers" if view is None else "it waits for the other undos")
            return StepEnd(state="under_way", text=why)
        await asyncio.sleep(LOOK_AGAIN)


def _end_of(step: str, view: View | None) -> StepEnd | None:
    """What the run says of the end of its step; None: it has not ended."""
    if view is None:
        return None
    for each in view.attention:
        if each.what == step and each.parked:
            return StepEnd(state="parked", text=each.reason, attention=each)
    ended = [text.removeprefix(f"{step}: ") for text in view.undone if text.startswith(f"{step}: ")]
    if ended and ended[-1] == NOT_FINISHED:
        return StepEnd(state="ended", text=ended[-1])
    return StepEnd(state="done", text=ended[-1]) if ended else None
