"""When a saga undoes, and that no cancel cuts it short."""

from datetime import timedelta

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import WorkflowEnvironment

from saga.tests.agency import (
    BOOKED,
    FOR_GOOD,
    UNDOS,
    Agency,
    eventually,
    fails,
    has_seen_the_cancel,
    kinds,
    resolve,
    timer_runs,
    until_parked,
)
from saga.tests.trip import MendedTrip

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
    cause = await fails(await agency.start(then="fail", independent=()))
    assert isinstance(cause, ApplicationError)
    assert cause.message == "sold out"
    assert agency.desk.done == [*BOOKED, "claim for ApplicationError", *reversed(UNDOS)]


async def test_an_early_return_undoes(agency: Agency) -> None:
    """The run completes with nothing left behind; its result tells what was undone."""
    undone = await (await agency.start(then="return", independent=())).result()
    assert agency.desk.done == [*BOOKED, "claim for NoneType", *reversed(UNDOS)]
    assert undone == [
        "claim: did claim for NoneType",
        "cancel_car: did cancel_car",
        "cancel_hotel: did cancel_hotel",
        "cancel_flight: did cancel_flight",
    ]


async def test_a_refusal_undoes_and_completes(agency: Agency) -> None:
    """A business refusal is a completed run: the workflow catches it outside the block, with nothing left behind."""
    answer, *undone = await (await agency.start(then="reject")).result()
    assert answer == "sold_out: no seats to Oslo"
    assert len(undone) == 4
    agency.assert_undone("Rejected")


async def test_undos_are_registered_before_their_steps(agency: Agency) -> None:
    """A step that failed may have happened all the same: its undo runs too, and those of the steps after it."""
    agency.desk.failing["hotel"] = FOR_GOOD
    await fails(await agency.start(then="commit"))
    agency.assert_undone("ActivityError", booked=["flight"])


async def test_a_run_undoes_steps_that_it_never_ran(agency: Agency) -> None:
    """An earlier run of the same saga may have booked them: all undos are registered before the first step."""
    await fails(await agency.start(then="fail", books=False))
    agency.assert_undone("ApplicationError", booked=[])


async def test_parallel_steps_are_joined_before_the_undo(regular_agency: Agency) -> None:
    """The flight fails while the car is still being booked: nothing is undone until the car is there."""
    regular_agency.desk.failing["flight"] = 1
    flight, car = regular_agency.hold("flight"), regular_agency.hold("car")
    run = await regular_agency.start(then="commit", at_once=True)
    await car.reached.wait()
    await regular_agency.until_done("hotel")
    flight.let_go()

    async def flight_failed() -> bool:
        return EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED in await kinds(run)

    await eventually(flight_failed, "the saga gives the car up")
    assert regular_agency.desk.done == ["hotel"]
    car.let_go()
    await fails(run)
    regular_agency.assert_undone("ActivityError", booked=["hotel", "car"])


async def test_no_step_begins_once_another_has_failed(regular_agency: Agency) -> None:
    """The flight fails while the hotel is being booked: the car, which follows the hotel, is not booked any more."""
    regular_agency.desk.failing["flight"] = 1
    hotel = regular_agency.hold("hotel")
    run = await regular_agency.start(then="commit", car_follows_the_hotel=True)

    async def gave_up() -> bool:
        return EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED in await kinds(run)

    await eventually(gave_up, "the saga gives the hotel up")
    hotel.let_go()
    await fails(run)
    regular_agency.assert_undone("ActivityError", booked=["hotel"])
    assert "car" not in regular_agency.desk.attempts


async def test_a_bug_suspends_the_run_and_undoes_nothing(environment: WorkflowEnvironment) -> None:
    """A KeyError is nobody's cancel: the run waits for the mended code, and then goes on from where it was."""
    agency = Agency(environment)
    async with agency.open():
        run = await agency.start(then="bug")

        async def stumbled() -> bool:
            return EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED in await kinds(run)

        await eventually(stumbled, "the workflow task failed")
        assert agency.desk.done == BOOKED
    async with agency.open(MendedTrip):
        assert await run.result() == []
    assert agency.desk.done == BOOKED


# --------------------------------------------------------------------------------------------------------- cancels


async def test_a_cancel_in_a_timer_undoes(agency: Agency) -> None:
    """The run is canceled once everything is undone."""
    car = agency.hold("car")
    run = await agency.start(then="sleep")
    await car.reached.wait()
    car.let_go()
    await eventually(lambda: timer_runs(run), "the run sleeps")
    await run.cancel()
    assert isinstance(await fails(run), CancelledError)
    agency.assert_undone("CancelledError")


@pytest.mark.parametrize("during", ["claim for ApplicationError", *UNDOS])
async def test_a_cancel_that_first_arrives_during_the_undo_changes_nothing(agency: Agency, during: str) -> None:
    """Every undo runs to its end, and the run ends by what caused it."""
    held = agency.hold(during)
    run = await agency.start(then="fail")
    await held.reached.wait()
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")
    held.let_go()
    assert isinstance(await fails(run), ApplicationError)
    agency.assert_undone("ApplicationError")


@pytest.mark.parametrize("during", UNDOS)
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
    agency.assert_undone("CancelledError")


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


async def test_an_undo_outlives_its_worker(environment: WorkflowEnvironment) -> None:
    """A worker that is lost in the middle of two undos is replaced, and both end."""
    agency = Agency(environment)
    agency.desk.out |= {"cancel_flight", "cancel_car"}
    async with agency.open(graceful_shutdown_timeout=timedelta()):
        run = await agency.start(then="return")

        async def both_begun() -> bool:
            return all(agency.desk.attempts[undo] for undo in agency.desk.out)

        await eventually(both_begun, "both undos are tried")
    agency.desk.out.clear()
    async with agency.open():
        assert len(await run.result()) == 4
    agency.assert_undone("NoneType")
