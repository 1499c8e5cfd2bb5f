"""An undo that fails for good waits for an operator: the update `resolve`, one handler for all sagas of a run."""

import asyncio
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle, WorkflowUpdateFailedError, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from saga import Resolution
from saga.tests.agency import BOOKED, UNDOS, Agency, eventually, fails, kinds, resolve, until_parked

# --------------------------------------------------------------------------------------------------------------- parks


async def test_an_undo_parks_and_the_independent_ones_go_on(agency: Agency) -> None:
    """The hotel waits for the car, the flight for nobody; after the retry the rest follows."""
    agency.desk.failing["cancel_car"] = 1
    run = await agency.start(then="fail")
    await until_parked(run, "cancel_car")
    await agency.until_done("cancel_flight")
    assert agency.desk.done[:4] == [*BOOKED, "claim for ApplicationError"]
    assert sorted(agency.desk.done[4:]) == ["cancel_flight", "park cancel_car"]
    assert await resolve(run, "cancel_car", "retry") == "retry: cancel_car"
    assert isinstance(await fails(run), ApplicationError)
    assert agency.desk.done[-3:] == ["note retry", "cancel_car", "cancel_hotel"]


async def test_a_retry_that_fails_parks_again(agency: Agency) -> None:
    """One attempt on each resolution."""
    agency.desk.failing["cancel_hotel"] = 2
    run = await agency.start(then="return")
    for number in (1, 2):
        await until_parked(run, "cancel_hotel")
        assert agency.desk.attempts["cancel_hotel"] == number
        await resolve(run, "cancel_hotel", "retry")
    assert (await run.result())[-1] == "cancel_hotel: did cancel_hotel"


@pytest.mark.parametrize("action", ["skip", "resolved"])
async def test_a_settled_undo_is_not_tried_again(agency: Agency, action: str) -> None:
    """What needs it goes on, and the run's result says who settled it and why."""
    agency.desk.failing["cancel_car"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "cancel_car")
    await agency.until_done("cancel_flight")
    await resolve(run, "cancel_car", action, "the garage has closed down")
    assert f"cancel_car: {action} by operator: the garage has closed down" in await run.result()
    assert "cancel_car" not in agency.desk.done
    assert agency.desk.done[-1] == "cancel_hotel"


async def test_several_undos_park_and_are_settled_one_by_one(agency: Agency) -> None:
    """A resolution of one leaves the other parked."""
    agency.desk.failing.update({"cancel_car": 1, "cancel_flight": 1})
    run = await agency.start(then="return")
    await until_parked(run, "cancel_car", "cancel_flight")
    await resolve(run, "cancel_flight", "skip")
    await until_parked(run, "cancel_car")
    await resolve(run, "cancel_car", "retry")
    assert len(await run.result()) == 4


async def test_everything_waits_for_a_parked_claim(agency: Agency) -> None:
    """Without the claim a late attempt could get through: no undo runs before it."""
    agency.desk.failing["claim for NoneType"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "claim")
    assert agency.desk.done == [*BOOKED, "park claim"]
    await resolve(run, "claim", "retry")
    await run.result()
    assert agency.desk.done[4:6] == ["note retry", "claim for NoneType"]
    assert sorted(agency.desk.done[6:]) == sorted(UNDOS)


async def test_a_park_that_cannot_be_told_stays_parked(agency: Agency) -> None:
    """The run must not close over an undo that is stuck, even if the alert fails for good."""
    agency.desk.failing.update({"cancel_flight": 1, "park cancel_flight": 1})
    run = await agency.start(then="return")
    await until_parked(run, "cancel_flight")
    await resolve(run, "cancel_flight", "retry")
    assert len(await run.result()) == 4


async def test_a_parked_run_outlives_its_worker(environment: WorkflowEnvironment) -> None:
    """What is parked is in the history: the next worker takes the resolution as the first would have."""
    agency = Agency(environment)
    agency.desk.failing["cancel_car"] = 1
    async with agency.open():
        run = await agency.start(then="return")
        await until_parked(run, "cancel_car")
    async with agency.open():
        await until_parked(run, "cancel_car")
        await resolve(run, "cancel_car", "retry")
        await run.result()
    assert agency.desk.done.count("cancel_car") == 1


@pytest.mark.prove
@pytest.mark.parametrize("action", ["skip", "retry"])
async def test_an_undo_whose_service_is_out_can_be_resolved(agency: Agency, action: str) -> None:
    """It is not parked, but no operator has to wait for the service: the attempts end, and it parks first."""
    agency.desk.out.add("cancel_car")
    run = await agency.start(then="return")
    await eventually(lambda: is_tried(agency, "cancel_car", 2), "the undo is retried")
    resolving = asyncio.create_task(resolve(run, "cancel_car", action))
    await agency.until_done("park cancel_car")
    agency.desk.out.clear()

    assert await resolving == f"{action}: cancel_car"
    assert f"cancel_car: {'skip by operator: seen to' if action == 'skip' else 'did cancel_car'}" in await run.result()
    assert ("cancel_car" in agency.desk.done) is (action == "retry")


async def is_accepted(run: WorkflowHandle[Any, Any]) -> bool:
    return EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED in await kinds(run)


async def is_tried(agency: Agency, task: str, times: int) -> bool:
    return agency.desk.attempts[task] >= times


async def test_an_undo_that_succeeds_while_it_is_resolved(agency: Agency) -> None:
    """The resolution comes too late."""
    held = agency.hold("cancel_car")
    run = await agency.start(then="return")
    await held.reached.wait()
    resolving = asyncio.create_task(resolve(run, "cancel_car", "skip"))
    await eventually(lambda: is_accepted(run), "the resolution is accepted")
    held.let_go()

    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await resolving
    assert "cancel_car is done" in str(refusal.value.cause)
    assert "cancel_car: did cancel_car" in await run.result()


# ----------------------------------------------------------------------------------------------------------- take_over


async def test_a_saga_takes_over_what_an_earlier_run_has_parked(agency: Agency) -> None:
    """Nothing is undone before the operator has decided; the undo that was settled is not run."""
    run = await agency.start(then="return", parked_before="cancel_car")
    await until_parked(run, "cancel_car")
    assert not set(UNDOS) & set(agency.desk.attempts)
    await resolve(run, "cancel_car", "resolved", "by phone")
    assert "cancel_car: resolved by operator: by phone" in await run.result()
    assert "cancel_car" not in agency.desk.attempts


async def test_a_saga_that_takes_over_too_late_stops(agency: Agency) -> None:
    """The claim says why, and nothing is undone."""
    run = await agency.start(then="return", parked_before="cancel_car", is_over=True)
    await until_parked(run, "cancel_car")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await resolve(run, "cancel_car", "skip")
    assert "cancel_car is not parked any more" in str(refusal.value.cause)
    assert await run.result() == ["claim: the trip has moved on"]
    assert not set(UNDOS) & set(agency.desk.attempts)


# ------------------------------------------------------------------------------------------------------------ refusals

LONG = "x" * 501


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [{"step": "cancel_hotel", "action": "retry", "reason": "a try"}],
            "cancel_hotel is not parked; parked is: cancel_car",
        ),
        (
            [{"step": "cancel_ship", "action": "skip", "reason": "a try"}],
            "cancel_ship is not parked; parked is: cancel_car",
        ),
        ([{"step": "cancel_car", "action": "skip", "reason": ""}], "reason: "),
        ([{"step": "cancel_car", "action": "skip", "reason": LONG}], "reason: "),
        ([{"step": "cancel_car", "action": "skip", "reason": "a\x00b"}], "reason: "),
        ([{"step": "cancel_car", "action": "skip", "reason": "a\u202eb"}], "reason: "),
        ([{"step": "cancel_car", "action": "forget", "reason": "a try"}], "action: "),
        ([{"action": "skip", "reason": "a try"}], "step: "),
        ([{"step": {"a": 1}, "action": "skip", "reason": "a try"}], "step: "),
        ([], "not 0 arguments"),
        ([{"step": "cancel_car", "action": "retry", "reason": "a try"}, "more"], "not 2 arguments"),
        (["cancel_car"], "resolve: "),
        ([["cancel_car", "retry", "a try"]], "resolve: "),
        ([None], "resolve: "),
        ([b"\xff\x00"], "resolve: "),
    ],
    ids=[
        "not parked",
        "unknown",
        "no reason",
        "long reason",
        "control character",
        "turned direction",
        "unknown action",
        "no step",
        "a step that is no text",
        "no argument",
        "two arguments",
        "text",
        "a list",
        "null",
        "bytes",
    ],
)
async def test_a_resolution_that_makes_no_sense_is_refused(agency: Agency, arguments: list[Any], words: str) -> None:
    """The operator is told why, the undo stays parked, and no workflow task fails."""
    agency.desk.failing["cancel_car"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "cancel_car")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await run.execute_update("resolve", args=arguments)
    assert words in str(refusal.value.cause)
    await until_parked(run, "cancel_car")
    await resolve(run, "cancel_car", "retry")
    await run.result()
    assert EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED not in await kinds(run)


@pytest.mark.parametrize("action", ["skip", "resolved"])
async def test_an_undo_that_cannot_be_skipped_can_only_be_retried(agency: Agency, action: str) -> None:
    """Nothing that an operator does by hand stands in for it."""
    agency.desk.failing["cancel_car"] = 1
    run = await agency.start(then="return", not_skippable=("cancel_car",))
    await until_parked(run, "cancel_car")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await resolve(run, "cancel_car", action)
    assert "cancel_car can only be tried again" in str(refusal.value.cause)
    await resolve(run, "cancel_car", "retry")
    assert len(await run.result()) == 4


async def test_a_resolution_in_the_middle_of_another_is_refused(agency: Agency) -> None:
    """Two operators at once: the second learns that the step is being resolved."""
    agency.desk.failing["cancel_car"] = 1
    run = await agency.start(then="return")
    await until_parked(run, "cancel_car")
    noting = agency.hold("note skip")
    first = await run.start_update(
        "resolve",
        Resolution(step="cancel_car", action="skip", reason="first"),
        wait_for_stage=WorkflowUpdateStage.ACCEPTED,
    )
    await noting.reached.wait()
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await resolve(run, "cancel_car", "retry")
    assert "another resolution of cancel_car is being recorded" in str(refusal.value.cause)
    noting.let_go()
    assert await first.result() == "skip: cancel_car"
    await run.result()
    assert "cancel_car" not in agency.desk.done


async def test_a_resolution_that_cannot_be_recorded_changes_nothing(agency: Agency) -> None:
    """The operator gets the error; the undo stays parked."""
    agency.desk.failing.update({"cancel_car": 1, "note skip": 1})
    run = await agency.start(then="return")
    await until_parked(run, "cancel_car")
    with pytest.raises(WorkflowUpdateFailedError):
        await resolve(run, "cancel_car", "skip")
    await until_parked(run, "cancel_car")
    assert await resolve(run, "cancel_car", "skip") == "skip: cancel_car"
    await run.result()


# ----------------------------------------------------------------------------------------------- several sagas in a run


async def test_two_sagas_of_a_run_share_the_handler(agency: Agency) -> None:
    """Each parks, and each is resolved: the second saga does not replace the handler of the first."""
    agency.desk.failing.update({"cancel_flight": 1, "cancel_hotel": 1})
    run = await agency.start_tour("at the same time")
    await until_parked(run, "cancel_flight", "cancel_hotel")
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await resolve(run, "cancel_car", "retry")
    assert "cancel_car is not parked; parked is: cancel_flight, cancel_hotel" in str(refusal.value.cause)
    await resolve(run, "cancel_flight", "retry")
    await resolve(run, "cancel_hotel", "skip")
    assert await run.result() == [
        "cancel_flight: did cancel_flight",
        "cancel_car: did cancel_car",
        "cancel_hotel: skip by operator: seen to",
    ]


async def test_an_undone_saga_gives_its_names_back(agency: Agency) -> None:
    """The next saga of the run may have the same steps, and its undos are resolvable."""
    flight = agency.hold("cancel_flight")
    agency.desk.failing["cancel_hotel"] = 1
    run = await agency.start_tour("one after another")
    await until_parked(run, "cancel_hotel")
    await resolve(run, "cancel_hotel", "retry")
    await flight.reached.wait()
    agency.desk.failing["cancel_hotel"] = 1
    flight.let_go()
    await until_parked(run, "cancel_hotel")
    assert agency.desk.done == ["cancel_hotel", "cancel_flight"]
    await resolve(run, "cancel_hotel", "skip")
    assert await run.result() == [
        "cancel_hotel: did cancel_hotel",
        "cancel_flight: did cancel_flight",
        "cancel_hotel: skip by operator: seen to",
        "cancel_flight: did cancel_flight",
    ]


async def test_a_committed_saga_gives_its_names_back(agency: Agency) -> None:
    """Even inside its block: nothing of it can be parked any more."""
    agency.desk.failing["cancel_hotel"] = 1
    run = await agency.start_tour("after a commit")
    await until_parked(run, "cancel_hotel")
    await resolve(run, "cancel_hotel", "retry")
    assert await run.result() == ["cancel_hotel: did cancel_hotel", "cancel_flight: did cancel_flight"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("clash", "another unfinished saga of this run has cancel_hotel too"),
        ("clash of claims", "another unfinished saga of this run has claim too"),
        ("twice in one", "this saga has cancel_flight twice"),
        ("foreign handler", "the workflow has an update handler `resolve` already"),
    ],
)
async def test_a_name_that_operators_cannot_tell_apart_is_refused(agency: Agency, how: str, words: str) -> None:
    """Before the saga exists."""
    [refusal] = await (await agency.start_tour(how)).result()
    assert words in refusal
