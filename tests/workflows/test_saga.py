"""The saga primitive by itself, on a trip that knows nothing of orders."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from tests.support.activity_hooks import Held
from tests.support.shop import eventually
from tests.support.trip_saga import Desk, MendedTrip, Plan, Trip

BOOKED = ["flight", "hotel", "car"]
UNDONE = ["cancel_hotel", "cancel_car", "cancel_flight"]  # newest first, but the car needs the hotel


@dataclass
class Agency:
    """A desk, and workers that come and go."""

    env: WorkflowEnvironment
    desk: Desk = field(default_factory=Desk)
    task_queue: str = field(default_factory=lambda: f"trips-{uuid.uuid4().hex[:8]}")

    @asynccontextmanager
    async def open(self, trip: type = Trip, **options: Any) -> AsyncIterator[None]:
        async with Worker(
            self.env.client,
            task_queue=self.task_queue,
            workflows=[trip],
            activities=[self.desk.attend],
            **options,
        ):
            yield

    async def start(self, **plan: Any) -> WorkflowHandle[Any, list[str]]:
        return await self.env.client.start_workflow(
            "trip",
            Plan(**plan),
            id=f"trip-{uuid.uuid4().hex[:8]}",
            task_queue=self.task_queue,
            task_timeout=timedelta(seconds=1),  # after which a suspended run is tried again
            result_type=list[str],
        )

    def hold(self, task: str) -> Held:
        held = self.desk.held[task] = Held()
        return held


@pytest.fixture(params=[1000, 0], ids=["cached", "replayed at every task"])
async def agency(temporal: WorkflowEnvironment, request: pytest.FixtureRequest) -> AsyncIterator[Agency]:
    """Every rule holds for a run that stays in memory, and for one that is evicted after every workflow task."""
    agency = Agency(temporal)
    async with agency.open(max_cached_workflows=request.param):
        yield agency


async def fails(run: WorkflowHandle[Any, Any]) -> BaseException | None:
    with pytest.raises(WorkflowFailureError) as failure:
        await run.result()
    return failure.value.cause


async def until_parked(run: WorkflowHandle[Any, Any], *steps: str) -> None:
    async def parked() -> bool:
        return set(await run.query("parked")) == set(steps)

    await eventually(parked, f"parked is {steps}")


async def resolve(run: WorkflowHandle[Any, Any], step: str, action: str, reason: str = "seen to") -> str:
    said: str = await run.execute_update("resolve", {"step": step, "action": action, "reason": reason})
    return said


# ----------------------------------------------------------------------------------------------- when it is undone


async def test_commit_forgets_every_undo(agency: Agency) -> None:
    """What has happened stands."""
    assert await (await agency.start(then="commit")).result() == []
    assert agency.desk.done == BOOKED


async def test_a_failure_after_the_commit_undoes_nothing(agency: Agency) -> None:
    """The pivot is passed, whatever comes later."""
    await fails(await agency.start(then="fail after the commit"))
    assert agency.desk.done == BOOKED


async def test_a_failure_undoes_newest_first_after_the_claim(agency: Agency) -> None:
    """And the failure goes on to the caller."""
    cause = await fails(await agency.start(then="fail"))
    assert isinstance(cause, ApplicationError)
    assert cause.message == "sold out"
    assert agency.desk.done == [*BOOKED, "claim for ApplicationError", *UNDONE]


async def test_an_early_return_undoes(agency: Agency) -> None:
    """A business no is a completed run with nothing left behind; its result tells what was undone."""
    undone = await (await agency.start(then="return")).result()
    assert agency.desk.done == [*BOOKED, "claim for NoneType", *UNDONE]
    assert undone == [
        "claim: did claim for NoneType",
        "cancel_hotel: did cancel_hotel",
        "cancel_car: did cancel_car",
        "cancel_flight: did cancel_flight",
    ]


async def test_undos_are_registered_before_their_steps(agency: Agency) -> None:
    """A step that failed may have happened all the same: its undo runs too."""
    agency.desk.failing["hotel"] = 1
    await fails(await agency.start(then="commit"))
    assert agency.desk.done == ["flight", "claim for ActivityError", *UNDONE]


async def test_parallel_steps_are_joined_before_the_undo(agency: Agency) -> None:
    """The flight fails while the car is still being booked: nothing is undone until the car is there."""
    agency.desk.failing["flight"] = 1
    car = agency.hold("car")
    run = await agency.start(then="commit", at_once=True)
    await car.reached.wait()

    async def hotel() -> bool:
        return "hotel" in agency.desk.done

    await eventually(hotel, "the hotel is booked")
    assert agency.desk.done == ["hotel"]
    car.let_go()
    await fails(run)
    assert agency.desk.done == ["hotel", "car", "claim for ActivityError", *UNDONE]


async def test_an_undo_that_says_stop_ends_the_undo(agency: Agency) -> None:
    """It must go forward after all: what is left stays, and what caused the undo is not raised."""
    undone = await (await agency.start(then="fail", stops=True)).result()
    assert agency.desk.done == [*BOOKED, "claim for ApplicationError", "cancel_hotel"]
    assert undone[-1] == "cancel_hotel: the guest is there"


async def test_a_bug_suspends_the_run_and_undoes_nothing(temporal: WorkflowEnvironment) -> None:
    """A KeyError is nobody's cancel: the run waits for the mended code, and then goes on from where it was."""
    agency = Agency(temporal)
    async with agency.open():
        run = await agency.start(then="bug")

        async def stumbled() -> bool:
            kinds = [event.event_type async for event in run.fetch_history_events()]
            return EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED in kinds

        await eventually(stumbled, "the workflow task failed")
        assert agency.desk.done == BOOKED
    async with agency.open(MendedTrip):
        assert await run.result() == []
    assert agency.desk.done == BOOKED


# --------------------------------------------------------------------------------------------------------- cancels


async def test_a_cancel_in_a_timer_undoes(agency: Agency) -> None:
    """The run is cancelled once everything is undone."""
    car = agency.hold("car")
    run = await agency.start(then="sleep")
    await car.reached.wait()
    car.let_go()
    await eventually(lambda: timer_runs(run), "the run sleeps")
    await run.cancel()
    assert isinstance(await fails(run), CancelledError)
    assert agency.desk.done == [*BOOKED, "claim for CancelledError", *UNDONE]


@pytest.mark.parametrize("during", ["claim for ApplicationError", *UNDONE])
async def test_a_cancel_that_first_arrives_during_the_undo_changes_nothing(agency: Agency, during: str) -> None:
    """Every undo runs to its end, and the run ends by what caused it."""
    held = agency.hold(during)
    run = await agency.start(then="fail")
    await held.reached.wait()
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    held.let_go()
    assert isinstance(await fails(run), ApplicationError)
    assert agency.desk.done == [*BOOKED, "claim for ApplicationError", *UNDONE]


@pytest.mark.parametrize("during", UNDONE)
async def test_a_second_cancel_changes_nothing(agency: Agency, during: str) -> None:
    """The undo that a first cancel caused is not cut short by the next."""
    held = agency.hold(during)
    run = await agency.start(then="sleep")
    await eventually(lambda: timer_runs(run), "the run sleeps")
    await run.cancel()
    await held.reached.wait()
    await run.cancel()
    held.let_go()
    assert isinstance(await fails(run), CancelledError)
    assert agency.desk.done == [*BOOKED, "claim for CancelledError", *UNDONE]


# ----------------------------------------------------------------------------------------------------------- parks


async def test_an_undo_parks_and_the_independent_ones_go_on(agency: Agency) -> None:
    """The car waits for the hotel, the flight for nobody; after the retry the rest follows."""
    agency.desk.failing["cancel_hotel"] = 1
    run = await agency.start(then="fail")
    await until_parked(run, "cancel_hotel")
    await eventually(lambda: is_done(agency, "cancel_flight"), "the flight is cancelled")
    assert agency.desk.done == [*BOOKED, "claim for ApplicationError", "cancel_flight"]
    assert await resolve(run, "cancel_hotel", "retry") == "retry: cancel_hotel"
    assert isinstance(await fails(run), ApplicationError)
    assert agency.desk.done[-3:] == ["note retry", "cancel_hotel", "cancel_car"]


async def test_a_retry_that_fails_parks_again(agency: Agency) -> None:
    """One attempt on each word of a person."""
    agency.desk.failing["cancel_flight"] = 2
    run = await agency.start(then="return")
    for _ in range(2):
        await until_parked(run, "cancel_flight")
        await resolve(run, "cancel_flight", "retry")
    assert (await run.result())[-1] == "cancel_flight: did cancel_flight"


@pytest.mark.parametrize("action", ["skip", "resolved"])
async def test_a_settled_undo_is_not_tried_again(agency: Agency, action: str) -> None:
    """What needs it goes on, and the run's last word says who settled it and why."""
    agency.desk.failing["cancel_hotel"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "cancel_hotel")
    await resolve(run, "cancel_hotel", action, "the hotel has closed down")
    assert f"cancel_hotel: {action} by operator: the hotel has closed down" in await run.result()
    assert "cancel_hotel" not in agency.desk.done
    assert agency.desk.done[-1] == "cancel_car"


async def test_several_undos_park_and_are_settled_one_by_one(agency: Agency) -> None:
    """A word on one leaves the other parked."""
    agency.desk.failing.update({"cancel_hotel": 1, "cancel_flight": 1})
    run = await agency.start(then="return")
    await until_parked(run, "cancel_hotel", "cancel_flight")
    await resolve(run, "cancel_flight", "skip")
    await until_parked(run, "cancel_hotel")
    await resolve(run, "cancel_hotel", "retry")
    assert len(await run.result()) == 4


async def test_everything_waits_for_a_parked_claim(agency: Agency) -> None:
    """Without the claim a late attempt could get through: no undo runs before it."""
    agency.desk.failing["claim for NoneType"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "claim")
    assert agency.desk.done == BOOKED
    await resolve(run, "claim", "retry")
    await run.result()
    assert agency.desk.done[-4:] == ["claim for NoneType", *UNDONE]


@pytest.mark.parametrize(
    ("resolution", "words"),
    [
        ({"step": "cancel_car", "action": "retry", "reason": "a try"}, "cancel_car is not parked"),
        ({"step": "cancel_ship", "action": "skip", "reason": "a try"}, "cancel_ship is not parked"),
        ({"step": "cancel_hotel", "action": "skip", "reason": ""}, None),
        ({"step": "cancel_hotel", "action": "forget", "reason": "a try"}, None),
        ({"action": "skip", "reason": "a try"}, None),
    ],
    ids=["not parked", "unknown", "no reason", "unknown action", "no step"],
)
async def test_a_word_that_makes_no_sense_is_refused(
    agency: Agency, resolution: dict[str, str], words: str | None
) -> None:
    """The operator is told why, and the undo stays parked."""
    agency.desk.failing["cancel_hotel"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "cancel_hotel")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await run.execute_update("resolve", resolution)
    assert words is None or words in str(refusal.value.cause)
    await until_parked(run, "cancel_hotel")
    await resolve(run, "cancel_hotel", "retry")
    await run.result()


async def test_a_word_in_the_middle_of_another_is_refused(agency: Agency) -> None:
    """Two operators at once: the second learns that the step waits for nobody any more."""
    agency.desk.failing["cancel_hotel"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "cancel_hotel")
    noting = agency.hold("note skip")
    first = await run.start_update(
        "resolve",
        {"step": "cancel_hotel", "action": "skip", "reason": "first"},
        wait_for_stage=WorkflowUpdateStage.ACCEPTED,
    )
    await noting.reached.wait()
    with pytest.raises(WorkflowUpdateFailedError):
        await resolve(run, "cancel_hotel", "retry")
    noting.let_go()
    assert await first.result() == "skip: cancel_hotel"
    await run.result()
    assert "cancel_hotel" not in agency.desk.done


async def test_a_cancel_while_parked_leaves_it_parked(agency: Agency) -> None:
    """The run does not close over an undo that is stuck."""
    agency.desk.failing["cancel_flight"] = 1
    run = await agency.start(then="fail")
    await until_parked(run, "cancel_flight")
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    await until_parked(run, "cancel_flight")
    await resolve(run, "cancel_flight", "retry")
    assert isinstance(await fails(run), ApplicationError)


async def test_a_parked_run_outlives_its_worker(temporal: WorkflowEnvironment) -> None:
    """What is parked is in the history: the next worker takes the operator's word as the first would have."""
    agency = Agency(temporal)
    agency.desk.failing["cancel_hotel"] = 1
    async with agency.open():
        run = await agency.start(then="return")
        await until_parked(run, "cancel_hotel")
    async with agency.open():
        await until_parked(run, "cancel_hotel")
        await resolve(run, "cancel_hotel", "retry")
        await run.result()
    assert agency.desk.done.count("cancel_hotel") == 1


# --------------------------------------------------------------------------------------------------------- details


async def timer_runs(run: WorkflowHandle[Any, Any]) -> bool:
    kinds = [event.event_type async for event in run.fetch_history_events()]
    return EventType.EVENT_TYPE_TIMER_STARTED in kinds


async def has_seen_the_cancel(run: WorkflowHandle[Any, Any]) -> bool:
    kinds = [event.event_type async for event in run.fetch_history_events()]
    cancel = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED
    if cancel not in kinds:  # it is kept back while a workflow task is under way
        return False
    return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in kinds[kinds.index(cancel) :]


async def is_done(agency: Agency, task: str) -> bool:
    return task in agency.desk.done
