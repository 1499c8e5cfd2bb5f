"""Undos that need nothing of each other run at the same time; each waits only for those that it needs."""

from datetime import timedelta
from itertools import chain, combinations

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from saga.tests.agency import UNDOS, Agency, eventually, fails, kinds, resolve, until_parked

SUBSETS = list(chain.from_iterable(combinations(UNDOS, size) for size in range(len(UNDOS) + 1)))
INDEPENDENT = [
    pytest.param(subset, id="+".join(subset) or "none", marks=pytest.mark.prove if len(subset) != 1 else ())
    for subset in SUBSETS
]
HOUR = timedelta(hours=1)


def waits_for(undo: str, other: str, independent: tuple[str, ...]) -> bool:
    """By default an undo needs those of all later steps; an independent one needs nobody and nobody needs it."""
    return UNDOS.index(undo) < UNDOS.index(other) and not {undo, other} & set(independent)


def needing(undo: str, independent: tuple[str, ...]) -> set[str]:
    return {other for other in UNDOS if waits_for(other, undo, independent)}


@pytest.mark.prove
@pytest.mark.parametrize("undo", UNDOS)
@pytest.mark.parametrize("independent", INDEPENDENT)
async def test_a_service_that_is_out_holds_up_only_undos_that_need_it(
    agency: Agency, independent: tuple[str, ...], undo: str
) -> None:
    """For every pair of undos: one retries for an hour, the other is done by then unless it needs the first."""
    agency.desk.out.add(undo)
    run = await agency.start(then="fail", books=False, independent=independent)
    needing_it = needing(undo, independent)
    free = set(UNDOS) - {undo} - needing_it
    await agency.until_done("claim for ApplicationError", *free)
    await eventually(lambda: tried(agency, undo), f"{undo} is tried")
    attempts = agency.desk.attempts[undo]
    await agency.advance(run, HOUR)
    assert agency.desk.attempts[undo] > attempts
    assert set(agency.desk.done) == {"claim for ApplicationError", *free}
    agency.desk.out.clear()
    await agency.advance(run, HOUR)
    assert isinstance(await fails(run), ApplicationError)
    assert agency.desk.done[1 + len(free)] == undo
    assert set(agency.desk.done[2 + len(free) :]) == needing_it
    assert len(agency.desk.done) == 4


@pytest.mark.parametrize("undo", UNDOS)
@pytest.mark.parametrize("independent", INDEPENDENT)
async def test_a_parked_undo_holds_up_only_undos_that_need_it(
    agency: Agency, independent: tuple[str, ...], undo: str
) -> None:
    """For every pair of undos: one waits for an operator, the other is done unless it needs the first."""
    agency.desk.failing[undo] = 1
    run = await agency.start(then="fail", books=False, independent=independent)
    needing_it = needing(undo, independent)
    free = set(UNDOS) - {undo} - needing_it
    await until_parked(run, undo)
    await agency.until_done(*free)
    assert set(agency.desk.done) == {"claim for ApplicationError", f"park {undo}", *free}
    await resolve(run, undo, "retry")
    assert isinstance(await fails(run), ApplicationError)
    assert agency.desk.done[2 + len(free) : 4 + len(free)] == ["note retry", undo]
    assert set(agency.desk.done[4 + len(free) :]) == needing_it


async def test_undos_that_need_nothing_of_each_other_are_in_flight_together(agency: Agency) -> None:
    """Each is tried before any of the others has ended."""
    held = [agency.hold(undo) for undo in UNDOS]
    run = await agency.start(then="return", independent=("cancel_flight", "cancel_hotel"))
    for each in held:
        await each.reached.wait()
    for each in held:
        each.let_go()
    assert len(await run.result()) == 4


@pytest.mark.prove
async def test_no_undo_begins_before_the_claim_has_succeeded(agency: Agency) -> None:
    """Not even an independent one: a late attempt of its step could get through."""
    agency.desk.out.add("claim for NoneType")
    run = await agency.start(then="return", books=False, independent=UNDOS)
    await eventually(lambda: tried(agency, "claim for NoneType"), "the claim is tried")
    await agency.advance(run, HOUR)
    assert agency.desk.done == []
    assert not set(UNDOS) & set(agency.desk.attempts)
    agency.desk.out.clear()
    await agency.advance(run, HOUR)
    await run.result()
    assert agency.desk.done[0] == "claim for NoneType"


# ------------------------------------------------------------------------------------------------------------ StopUndo


async def test_an_undo_that_answers_stop_ends_the_undo(agency: Agency) -> None:
    """It must go forward after all: the undos that have not begun do not begin, and the cause is not raised."""
    undone = await (await agency.start(then="fail", independent=(), stops="cancel_hotel")).result()
    assert agency.desk.done[-3:] == ["claim for ApplicationError", "cancel_car", "cancel_hotel"]
    assert undone == [
        "claim: did claim for ApplicationError",
        "cancel_car: did cancel_car",
        "cancel_hotel: did cancel_hotel",
    ]


async def test_a_stop_cancels_an_undo_whose_service_is_out(agency: Agency) -> None:
    """It ends between two attempts, and the run says that it was not finished."""
    agency.desk.out.add("cancel_flight")
    car = agency.hold("cancel_car")
    run = await agency.start(then="fail", stops="cancel_car")
    await eventually(lambda: tried(agency, "cancel_flight"), "the flight is tried")
    car.let_go()
    assert await run.result() == [
        "claim: did claim for ApplicationError",
        "cancel_car: did cancel_car",
        "cancel_flight: not finished when the saga stopped",
    ]


async def test_a_stop_waits_for_the_attempt_in_flight(agency: Agency) -> None:
    """The run does not close before the attempt has ended, and says how it ended."""
    flight = agency.hold("cancel_flight")
    run = await agency.start(then="fail", stops="cancel_car")
    await flight.reached.wait()

    async def cancel_requested() -> bool:
        return EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED in await kinds(run)

    await eventually(cancel_requested, "the flight's undo is canceled")
    assert (await run.describe()).status is WorkflowExecutionStatus.RUNNING
    assert "cancel_flight" not in agency.desk.done
    flight.let_go()
    assert (await run.result())[1:] == ["cancel_car: did cancel_car", "cancel_flight: did cancel_flight"]
    assert "cancel_hotel" not in agency.desk.attempts


async def test_a_stop_clears_what_is_parked(agency: Agency) -> None:
    """Nothing is to be undone any more: the parked undo waits for nobody, and the run ends."""
    agency.desk.failing["cancel_flight"] = 1
    car = agency.hold("cancel_car")
    run = await agency.start(then="fail", stops="cancel_car")
    await until_parked(run, "cancel_flight")
    car.let_go()
    assert (await run.result())[1:] == [
        "cancel_car: did cancel_car",
        "cancel_flight: not finished when the saga stopped",
    ]


async def test_a_stop_while_an_undo_is_being_parked(agency: Agency) -> None:
    """What is parked after the stop is not parked: the run ends."""
    agency.desk.failing["cancel_flight"] = 1
    parking, car = agency.hold("park cancel_flight"), agency.hold("cancel_car")
    run = await agency.start(then="fail", stops="cancel_car")
    await parking.reached.wait()
    car.let_go()
    await run.execute_update("until_undone", "cancel_car: did cancel_car")
    parking.let_go()
    assert (await run.result())[-1] == "cancel_flight: not finished when the saga stopped"
    assert "park cancel_flight" in agency.desk.done


async def test_a_stop_while_a_resolution_is_being_recorded(agency: Agency) -> None:
    """The run waits for the record, and the operator learns that it came too late."""
    agency.desk.failing["cancel_flight"] = 1
    noting, car = agency.hold("note skip"), agency.hold("cancel_car")
    run = await agency.start(then="fail", stops="cancel_car")
    await until_parked(run, "cancel_flight")
    resolution = await run.start_update(
        "resolve",
        {"step": "cancel_flight", "action": "skip", "reason": "no plane"},
        wait_for_stage=WorkflowUpdateStage.ACCEPTED,
    )
    await noting.reached.wait()
    car.let_go()
    await run.execute_update("until_undone", "cancel_car: did cancel_car")
    noting.let_go()
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await resolution.result()
    assert "cancel_flight is not parked any more" in str(refusal.value.cause)
    assert (await run.result())[-1] == "cancel_flight: not finished when the saga stopped"


async def test_whoever_parks_too_late_stops_the_saga(agency: Agency) -> None:
    """Somebody else has moved on: nothing is left to undo, and the run completes."""
    agency.desk.failing["cancel_car"] = 1
    agency.desk.out.add("cancel_flight")
    run = await agency.start(then="fail", is_over=True)
    assert sorted((await run.result())[1:]) == [
        "cancel_car: not finished when the saga stopped",
        "cancel_flight: not finished when the saga stopped",
    ]
    assert "cancel_hotel" not in agency.desk.attempts


# ------------------------------------------------------------------------------------------------------------- details


async def tried(agency: Agency, task: str) -> bool:
    return agency.desk.attempts[task] > 0
