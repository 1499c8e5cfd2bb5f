"""Local-first execution: what runs inside the workflow task, what falls back, and what a run keeps."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from saga import local_attempts
from saga.tests.agency import BOOKED, LOCAL_FIRST, PATIENCE, REGULAR, Agency, eventually, fails, timer_runs
from saga.tests.conftest import plugin
from saga.tests.trip import Trip

TASKS = {f"book_{task}": task for task in BOOKED}


@pytest.fixture
async def agency(environment: WorkflowEnvironment) -> AsyncIterator[Agency]:
    """Its worker offers local attempts."""
    agency = Agency(environment)
    async with agency.open(**LOCAL_FIRST):
        yield agency


async def regular_steps(run: WorkflowHandle[Any, Any]) -> list[str]:
    """The steps that ran as regular activities. The history must replay."""
    history = await run.fetch_history()
    await Replayer(workflows=[Trip], plugins=[plugin()]).replay_workflow(history)
    scheduled = [event for event in history.events if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]
    names = [event.activity_task_scheduled_event_attributes.activity_type.name for event in scheduled]
    return [TASKS.get(name, name) for name in names]


async def test_marked_steps_run_inside_the_workflow_task(agency: Agency) -> None:
    """An activity that is not marked is a regular one, also in such a run."""
    run = await agency.start(then="commit", after_the_pivot=["read"])
    await run.result()
    assert agency.desk.done == [*BOOKED, "read"]
    assert await regular_steps(run) == ["note"]


async def test_an_undo_is_regular(agency: Agency) -> None:
    """It is seen in the Web UI, and survives its worker."""
    run = await agency.start(then="reject")
    await run.result()
    assert sorted(await regular_steps(run)) == sorted(["note", "cancel_car", "cancel_flight", "cancel_hotel"])


async def test_a_failed_attempt_is_made_again_as_a_regular_activity(agency: Agency) -> None:
    """With the same argument; the next step is tried locally again."""
    agency.desk.failing["hotel"] = 1
    run = await agency.start(then="commit")
    await run.result()
    assert agency.desk.done == BOOKED
    assert agency.desk.attempts["hotel"] == 2
    assert await regular_steps(run) == ["hotel"]


async def test_the_regular_activity_waits_as_long_as_the_service_asks(agency: Agency) -> None:
    """The pause is part of the step's deadline, a minute, as it would be between two regular attempts."""
    agency.desk.errors["hotel"] = ApplicationError("too many requests", next_retry_delay=timedelta(seconds=40))
    run = await agency.start(then="commit")
    await eventually(lambda: timer_runs(run), "the run pauses")
    assert agency.desk.attempts["hotel"] == 1
    await agency.advance(run, timedelta(seconds=40))
    await run.result()
    assert await regular_steps(run) == ["hotel"]
    assert await time_for(run) <= timedelta(seconds=20)


async def test_a_service_that_asks_for_longer_than_the_deadline_ends_the_step(agency: Agency) -> None:
    """It has one attempt more when the deadline is over."""
    agency.desk.errors["hotel"] = ApplicationError("too many requests", next_retry_delay=timedelta(hours=1))
    agency.desk.out.add("hotel")
    run = await agency.start(then="commit")
    await eventually(lambda: timer_runs(run), "the run pauses")
    await agency.advance(run, timedelta(minutes=1))
    await eventually(lambda: tried_twice(agency, "hotel"), "the hotel is asked once more")
    await agency.advance(run, timedelta(seconds=5))
    await fails(run)
    agency.assert_undone("ActivityError", booked=["flight"])


async def time_for(run: WorkflowHandle[Any, Any]) -> timedelta:
    """How long the one regular activity may take with all its attempts."""
    (scheduled,) = [
        event.activity_task_scheduled_event_attributes
        async for event in run.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    return scheduled.schedule_to_close_timeout.ToTimedelta()


@pytest.mark.prove
async def test_an_attempt_that_takes_too_long_is_ended(agency: Agency) -> None:
    """The workflow task goes on without it."""
    hotel = agency.hold("hotel")
    run = await agency.start(then="commit")
    await eventually(lambda: tried_twice(agency, "hotel"), "the regular activity has begun")
    hotel.let_go()
    await run.result()
    assert agency.desk.done == BOOKED
    assert await regular_steps(run) == ["hotel"]


async def test_a_workflow_task_has_a_budget(agency: Agency, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the earlier steps took is missing for the later ones; the next task has the whole budget again."""
    for name in ("LOCAL_TIMEOUT", "MIN_LOCAL_TIMEOUT"):
        monkeypatch.setattr(local_attempts, name, timedelta(seconds=PATIENCE))
    monkeypatch.setattr(local_attempts, "TASK_BUDGET", timedelta(seconds=PATIENCE + 0.1))
    agency.desk.seconds["flight"] = 0.2
    run = await agency.start(then="commit")
    await run.result()
    assert await regular_steps(run) == ["hotel"]


@pytest.mark.parametrize(
    ("before", "after", "regular"),
    [(LOCAL_FIRST, REGULAR, ["hotel"]), (REGULAR, LOCAL_FIRST, BOOKED)],
    ids=["begun local-first", "begun regular"],
)
async def test_a_run_keeps_what_it_began_with(
    environment: WorkflowEnvironment, before: dict[str, Any], after: dict[str, Any], regular: list[str]
) -> None:
    """Workers with the other setting go on with it."""
    agency = Agency(environment)
    agency.desk.out.add("hotel")
    async with agency.open(**before):
        run = await agency.start(then="commit")
        await eventually(lambda: tried_twice(agency, "hotel"), "the hotel is tried as a regular activity")
    agency.desk.out.clear()
    async with agency.open(**after):
        await run.result()
    assert await regular_steps(run) == regular


@pytest.mark.prove
async def test_a_worker_that_stops_cancels_nothing(environment: WorkflowEnvironment) -> None:
    """Its attempt ends with it; the next worker makes it again, and nothing is undone."""
    agency = Agency(environment)
    hotel = agency.hold("hotel")
    async with agency.open(**LOCAL_FIRST):
        run = await agency.start(then="commit")
        await hotel.reached.wait()
    hotel.let_go()
    async with agency.open(**LOCAL_FIRST):
        assert await run.result() == []
    assert set(agency.desk.done) == set(BOOKED)
    assert agency.desk.attempts["hotel"] > 1


async def tried_twice(agency: Agency, task: str) -> bool:
    return agency.desk.attempts[task] >= 2
