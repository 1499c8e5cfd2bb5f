"""The workflows that run on a Schedule of Temporal, and what operators do with those Schedules.

A Schedule has the id of its workflow's type. The settings say how often it runs; only operators pause and resume it.

Raises, in all functions: NoAnswer, where Temporal is out of reach.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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

from config.settings import Settings
from gateways.temporal import find_run, reaching_temporal
from orders.errors import InvalidInput, NoAnswer, NotFound
from orders.models import Model
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS, RECONCILE_ORDERS, SCHEDULED, TASK_QUEUE, VERIFY_ORDERS
from orders.parsing import check_operator_texts

JITTER: Final = 0.1  # of the interval: shops that share a server do not all start at the full hour
MAX_JITTER: Final = timedelta(minutes=5)
MIN_CATCH_UP: Final = timedelta(minutes=10)
LAST_RUNS: Final = 3
TRIGGERS: Final = 3
SEEN_WITHIN: Final = 10.0  # seconds from a trigger to its effect
LOOK_AGAIN: Final = 0.3  # seconds between two looks at that effect


class Scheduled(NamedTuple):
    """A workflow that runs on a Schedule, without input; `seconds` reads its interval from the settings."""

    workflow: str
    purpose: str
    seconds: Callable[[Settings], int]


SCHEDULES: Final = (
    Scheduled(CHECK_INVENTORY, "reports low stock", lambda by: by.check_inventory_every_seconds),
    Scheduled(
        RECONCILE_ORDERS, "restarts orders without a run, compares payments", lambda by: by.reconcile_every_seconds
    ),
    Scheduled(VERIFY_ORDERS, "verifies the invariants", lambda by: by.verify_every_seconds),
    Scheduled(INDEX_PRODUCTS, "embeds new and changed products", lambda by: by.index_products_every_seconds),
)


class Change(StrEnum):
    """What applying a Schedule did."""

    CREATED = "created"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    UNREADABLE = "not readable: delete it, and apply it again"


class Applied(Model):
    name: str
    change: Change
    every: int


class ScheduledRun(Model):
    workflow_id: str
    state: str
    started: datetime


class ScheduleView(Model):
    """A Schedule as Temporal has it, if it was ever applied: `every` in seconds, the newest run first."""

    name: str
    applied: bool
    every: int | None = None
    paused: bool = False
    note: str = ""
    next: datetime | None = None
    runs: tuple[ScheduledRun, ...] = ()


class Triggered(Model):
    """The run that was started; if none was, the run that is under way."""

    name: str
    started: bool
    workflow_id: str


class _Unreadable(NoAnswer):
    """The Schedule was changed elsewhere, to something that the SDK does not know."""


async def apply_schedules(client: Client, settings: Settings, *, task_queue: str = TASK_QUEUE) -> list[Applied]:
    """Create the Schedules, and change those that differ from the settings. A paused Schedule stays paused."""
    return [await _apply(client, scheduled, settings, task_queue) for scheduled in SCHEDULES]


async def list_schedules(client: Client) -> list[ScheduleView]:
    """Every Schedule of this project, applied or not."""
    return [await _look(client, scheduled.workflow) for scheduled in SCHEDULES]


async def pause_schedule(client: Client, name: str, reason: str) -> None:
    """Let the Schedule start no run until it is resumed. A run that is under way goes on.

    Raises:
        InvalidInput: there is no such Schedule, or the reason is missing or too long.
        NotFound: it was never applied.
    """
    check_operator_texts(reason)
    handle = _handle(client, name)
    with _reaching(name):
        await handle.pause(note=reason)


async def resume_schedule(client: Client, name: str, reason: str) -> None:
    """End a pause. Runs that were missed meanwhile are not made up for.

    Raises:
        InvalidInput: there is no such Schedule, or the reason is missing or too long.
        NotFound: it was never applied.
    """
    check_operator_texts(reason)
    handle = _handle(client, name)
    with _reaching(name):
        await handle.unpause(note=reason)


async def trigger_schedule(client: Client, name: str) -> Triggered:
    """Start a run now, paused or not, unless the Schedule has one under way.

    Raises:
        InvalidInput: there is no such Schedule.
        NotFound: it was never applied.
        NoAnswer: Temporal does not say what the trigger did.
    """
    handle = _handle(client, name)
    with _reaching(name):
        before = await handle.describe()
        for _ in range(TRIGGERS):  # a busy Temporal may lose one; a second one is skipped while a run is under way
            await handle.trigger()
            with suppress(TimeoutError):
                async with asyncio.timeout(SEEN_WITHIN):
                    while True:
                        if triggered := _triggered(before, await handle.describe()):
                            return triggered
                        await asyncio.sleep(LOOK_AGAIN)
        raise NoAnswer(f"{name} was triggered, and Temporal has not started it yet")


def _schedule(scheduled: Scheduled, every: timedelta, task_queue: str) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            scheduled.workflow,
            id=scheduled.workflow,
            task_queue=task_queue,
            execution_timeout=SCHEDULED[scheduled.workflow],
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)], jitter=min(every * JITTER, MAX_JITTER)),
        policy=SchedulePolicy(
            overlap=ScheduleOverlapPolicy.SKIP,
            # Each run looks at everything: after an outage one run is enough, however many were missed.
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
            try:
                with _reaching(scheduled.workflow):
                    await client.get_schedule_handle(scheduled.workflow).update(update)
            except _Unreadable:
                change = Change.UNREADABLE
    return Applied(name=scheduled.workflow, change=change, every=scheduled.seconds(settings))


async def _look(client: Client, name: str) -> ScheduleView:
    try:
        with _reaching(name):
            found = await client.get_schedule_handle(name).describe()
    except NotFound:
        return ScheduleView(name=name, applied=False)
    except _Unreadable as odd:
        return ScheduleView(name=name, applied=True, note=str(odd))
    latest = found.info.recent_actions[: -LAST_RUNS - 1 : -1]
    return ScheduleView(
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
    state = "forgotten"  # closed for longer than Temporal keeps runs
    if run := await find_run(client, workflow_id):
        state = run.state
    return ScheduledRun(workflow_id=workflow_id, state=state, started=action.started_at)


def _triggered(before: ScheduleDescription, after: ScheduleDescription) -> Triggered | None:
    """What the trigger did between two looks; None: nothing yet."""
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


@contextmanager
def _reaching(name: str) -> Iterator[None]:
    absent = NotFound(f"{name} is not a Schedule yet: create it with `starter.py schedules apply`")
    with reaching_temporal(absent):
        try:
            yield
        except ValueError as odd:
            raise _Unreadable(f"{name} cannot be read: {odd}") from None
