"""The workflows that run by themselves, as Schedules of Temporal, and what an operator does with those.

A Schedule has the id of its workflow's type. How often it runs is in the settings; whether it is paused is the
operators' alone.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionExecutionStartWorkflow,
    ScheduleActionResult,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)

from client.orders import LOOK_AGAIN, MAX_REASON, reaching_temporal
from config.settings import Settings
from orders.errors import InvalidInput, NoAnswer, NotFound, UnknownOrder
from orders.models import Model
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS, RECONCILE_ORDERS, TASK_QUEUE, VERIFY_ORDERS

JITTER: Final = 0.1  # of the interval: shops that share a server do not all begin at the full hour
MAX_JITTER: Final = timedelta(minutes=5)
MIN_CATCH_UP: Final = timedelta(minutes=10)
LAST_RUNS: Final = 3
SEEN_WITHIN: Final = 10.0  # seconds from a trigger to what has become of it


class Scheduled(NamedTuple):
    """A workflow that runs by itself, without input."""

    workflow: str
    purpose: str
    seconds: Callable[[Settings], int]


SCHEDULES: Final = (
    Scheduled(CHECK_INVENTORY, "tells of low stock", lambda by: by.check_inventory_every_seconds),
    Scheduled(RECONCILE_ORDERS, "finishes what runs left behind", lambda by: by.reconcile_every_seconds),
    Scheduled(VERIFY_ORDERS, "verifies the invariants", lambda by: by.verify_every_seconds),
    Scheduled(INDEX_PRODUCTS, "embeds new and changed products", lambda by: by.index_products_every_seconds),
)


class Change(StrEnum):
    """What applying a Schedule did."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


class Applied(Model):
    name: str
    change: Change
    every: int


class ScheduledRun(Model):
    workflow_id: str
    state: str
    started: datetime


class Seen(Model):
    """A Schedule as Temporal has it, if it was ever applied: `every` in seconds, the newest run first."""

    name: str
    applied: bool
    every: int | None = None
    paused: bool = False
    note: str = ""
    next: datetime | None = None
    runs: tuple[ScheduledRun, ...] = ()


class Triggered(Model):
    """The run that was started; or, if it was not, the one that is under way."""

    name: str
    started: bool
    workflow_id: str


async def apply_schedules(client: Client, settings: Settings, *, task_queue: str = TASK_QUEUE) -> list[Applied]:
    """Create the Schedules, and change those that are not as they should be. A pause stays a pause.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    return [await _apply(client, scheduled, settings, task_queue) for scheduled in SCHEDULES]


async def list_schedules(client: Client) -> list[Seen]:
    """Every Schedule that there should be.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    return [await _look(client, scheduled.workflow) for scheduled in SCHEDULES]


async def pause_schedule(client: Client, name: str, reason: str) -> None:
    """Let it start nothing by itself until it is resumed. What runs goes on.

    Raises:
        InvalidInput: there is no such Schedule, or the reason is missing or too long.
        NotFound: it was never applied.
        NoAnswer: Temporal is out of reach.
    """
    _check_reason(reason)
    handle = _handle(client, name)
    with _reaching(name):
        await handle.pause(note=reason)


async def resume_schedule(client: Client, name: str, reason: str) -> None:
    """End a pause; what was missed meanwhile stays missed.

    Raises:
        InvalidInput: there is no such Schedule, or the reason is missing or too long.
        NotFound: it was never applied.
        NoAnswer: Temporal is out of reach.
    """
    _check_reason(reason)
    handle = _handle(client, name)
    with _reaching(name):
        await handle.unpause(note=reason)


async def trigger_schedule(client: Client, name: str) -> Triggered:
    """Start a run now, paused or not, unless the Schedule has one under way.

    Raises:
        InvalidInput: there is no such Schedule.
        NotFound: it was never applied.
        NoAnswer: Temporal is out of reach, or does not say what became of it.
    """
    handle = _handle(client, name)
    with _reaching(name):
        before = await handle.describe()
        await handle.trigger()
        try:
            async with asyncio.timeout(SEEN_WITHIN):
                while True:
                    if triggered := _triggered(before, await handle.describe()):
                        return triggered
                    await asyncio.sleep(LOOK_AGAIN)
        except TimeoutError:
            raise NoAnswer(f"{name} was triggered, and Temporal has not started it yet") from None


def _schedule(scheduled: Scheduled, every: timedelta, task_queue: str) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(scheduled.workflow, id=scheduled.workflow, task_queue=task_queue),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=min(every * JITTER, MAX_JITTER)),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP,
            # Each run looks at everything that there is: after an outage one is enough, however many were missed.
            catchup_window=max(every, MIN_CATCH_UP),
        ),
        state=ScheduleState(note=scheduled.purpose),
    )


async def _apply(client: Client, scheduled: Scheduled, settings: Settings, task_queue: str) -> Applied:
    every = timedelta(seconds=scheduled.seconds(settings))
    wanted = _schedule(scheduled, every, task_queue)
    change = Change.CREATED

    def update(current: ScheduleUpdateInput) -> ScheduleUpdate | None:
        nonlocal change
        as_wanted = replace(wanted, state=current.description.schedule.state)
        change = Change.UNCHANGED if current.description.schedule == as_wanted else Change.CHANGED
        return ScheduleUpdate(as_wanted) if change is Change.CHANGED else None

    with _reaching(scheduled.workflow):
        try:
            await client.create_schedule(scheduled.workflow, wanted)
        except ScheduleAlreadyRunningError:
            await client.get_schedule_handle(scheduled.workflow).update(update)
    return Applied(name=scheduled.workflow, change=change, every=scheduled.seconds(settings))


async def _look(client: Client, name: str) -> Seen:
    try:
        with _reaching(name):
            found = await client.get_schedule_handle(name).describe()
    except NotFound:
        return Seen(name=name, applied=False)
    latest = found.info.recent_actions[: -LAST_RUNS - 1 : -1]
    return Seen(
        name=name,
        applied=True,
        every=next((int(each.every.total_seconds()) for each in found.schedule.spec.intervals), None),
        paused=found.schedule.state.paused,
        note=found.schedule.state.note or "",
        next=next(iter(found.info.next_action_times), None),
        runs=tuple([await _look_at_run(client, action) for action in latest]),
    )


async def _look_at_run(client: Client, action: ScheduleActionResult) -> ScheduledRun:
    workflow_id = _run_of(action).workflow_id
    try:
        with reaching_temporal():
            run = await client.get_workflow_handle(workflow_id).describe()
    except UnknownOrder:
        state = "forgotten"  # closed for longer than Temporal keeps runs
    else:
        state = run.status.name.lower() if run.status else "unknown"
    return ScheduledRun(workflow_id=workflow_id, state=state, started=action.started_at)


def _triggered(before: ScheduleDescription, after: ScheduleDescription) -> Triggered | None:
    """What became of the trigger between two looks; None: nothing yet."""
    known = {_run_of(action).first_execution_run_id for action in before.info.recent_actions}
    runs = [_run_of(action) for action in after.info.recent_actions]
    for run in runs:
        if run.first_execution_run_id not in known:
            return Triggered(name=after.id, started=True, workflow_id=run.workflow_id)
    if after.info.num_actions_skipped_overlap > before.info.num_actions_skipped_overlap:
        return Triggered(name=after.id, started=False, workflow_id=runs[-1].workflow_id)
    return None


def _run_of(action: ScheduleActionResult) -> ScheduleActionExecutionStartWorkflow:
    assert isinstance(action.action, ScheduleActionExecutionStartWorkflow)  # noqa: S101 (there is no other kind)
    return action.action


def _handle(client: Client, name: str) -> ScheduleHandle:
    names = [scheduled.workflow for scheduled in SCHEDULES]
    if name not in names:
        raise InvalidInput([f"name: must be one of {', '.join(names)}"])
    return client.get_schedule_handle(name)


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason) <= MAX_REASON:
        raise InvalidInput([f"reason: must have 1 to {MAX_REASON} characters"])


def _reaching(name: str) -> AbstractContextManager[None]:
    return reaching_temporal(NotFound(f"{name} is no Schedule yet: `starter.py schedules apply` makes it one"))
