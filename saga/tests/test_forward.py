"""The forward part: how a saga runs its steps, and how it leaves them when somebody cancels."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from saga import STEADY_RETRY, UNTIL_DONE, Rejected, Step, reason, retry_round
from saga.execution import FIRST_ROUND
from saga.tests.agency import BOOKED, Agency, eventually, fails, has_seen_the_cancel, has_seen_the_signal, kinds
from saga.tests.trip import FLIGHT, MINUTE, Desk


async def cancel_by_signal(run: WorkflowHandle[Any, Any]) -> None:
    await run.signal("call_off")
    await eventually(lambda: has_seen_the_signal(run), "the run has seen the signal")


async def cancel_by_temporal(run: WorkflowHandle[Any, Any]) -> None:
    await run.cancel()
    await eventually(lambda: has_seen_the_cancel(run), "the run has seen the cancel")


Cancel = Callable[[WorkflowHandle[Any, Any]], Awaitable[None]]
CANCELS = pytest.mark.parametrize("cancel", [cancel_by_signal, cancel_by_temporal], ids=["Saga.cancel", "Temporal"])


@CANCELS
async def test_a_cancel_waits_for_the_step_in_flight(agency: Agency, cancel: Cancel) -> None:
    """Its attempt comes back with its result, and no later step begins: everything is undone."""
    hotel = agency.hold("hotel")
    run = await agency.start(then="commit")
    await hotel.reached.wait()
    await cancel(run)
    assert agency.desk.done == ["flight"]
    hotel.let_go()
    assert isinstance(await fails(run), CancelledError)
    agency.assert_undone("CancelledError", booked=["flight", "hotel"])


@CANCELS
async def test_a_cancel_ends_a_step_whose_service_is_out(agency: Agency, cancel: Cancel) -> None:
    """Between two attempts nothing is in flight: the step ends at once, not at its deadline."""
    agency.desk.out.add("hotel")
    run = await agency.start(then="commit")
    await eventually(lambda: tried(agency, "hotel"), "the hotel is tried")
    await cancel(run)
    assert isinstance(await fails(run), CancelledError)
    agency.assert_undone("CancelledError", booked=["flight"])


@CANCELS
async def test_a_cancel_is_the_cause_though_the_attempt_in_flight_fails(agency: Agency, cancel: Cancel) -> None:
    """Temporal does not try it again, and says that it failed, not that it was canceled."""
    hotel = agency.hold("hotel")
    agency.desk.out.add("hotel")
    run = await agency.start(then="commit")
    await hotel.reached.wait()
    await cancel(run)
    hotel.let_go()
    assert isinstance(await fails(run), CancelledError)
    agency.assert_undone("CancelledError", booked=["flight"])


@CANCELS
async def test_no_step_begins_after_a_cancel_that_the_block_ignores(agency: Agency, cancel: Cancel) -> None:
    """A block that catches the cancel gets it again from the next step."""
    hotel = agency.hold("hotel")
    run = await agency.start(then="commit", goes_on_after_a_cancel=True)
    await hotel.reached.wait()
    await cancel(run)
    hotel.let_go()
    assert isinstance(await fails(run), CancelledError)
    assert "car" not in agency.desk.attempts
    agency.assert_undone("CancelledError", booked=["flight", "hotel"])


@CANCELS
async def test_a_cancel_waits_for_an_activity_that_is_no_step(agency: Agency, cancel: Cancel) -> None:
    """Reading a payment is canceled as a step is."""
    reading = agency.hold("read")
    run = await agency.start(then="read")
    await reading.reached.wait()
    await cancel(run)
    reading.let_go()
    assert isinstance(await fails(run), CancelledError)
    agency.assert_undone("CancelledError", booked=[*BOOKED, "read"])


async def test_a_cancel_ends_parallel_steps(agency: Agency) -> None:
    """All of them are waited for."""
    held = [agency.hold(task) for task in BOOKED]
    run = await agency.start(then="commit", at_once=True)
    for each in held:
        await each.reached.wait()
    await cancel_by_signal(run)
    for each in held[:2]:
        each.let_go()
    await agency.until_done("flight", "hotel")
    await asyncio.sleep(0.2)  # enough for an undo that does not wait for the car
    assert sorted(agency.desk.done) == ["flight", "hotel"]
    held[2].let_go()
    assert isinstance(await fails(run), CancelledError)
    assert sorted(agency.desk.done[:3]) == sorted(BOOKED)
    assert agency.desk.done[3] == "claim for CancelledError"


async def test_a_cancel_after_the_commit_changes_nothing(agency: Agency) -> None:
    """The pivot is passed: what is in flight stays, and what comes later begins."""
    mail = agency.hold("mail")
    run = await agency.start(then="commit", after_the_pivot=("mail", "statistics"))
    await mail.reached.wait()
    await cancel_by_signal(run)
    mail.let_go()
    assert await run.result() == []
    assert agency.desk.done == [*BOOKED, "mail", "statistics"]
    assert EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED not in await kinds(run)


async def test_after_the_commit_the_saga_does_not_tell_of_a_cancel(agency: Agency) -> None:
    """Temporal cancels what is in flight, as it does everywhere; if that comes back, the run goes forward."""
    mail = agency.hold("mail")
    run = await agency.start(then="commit", after_the_pivot=("mail", "statistics"))
    await mail.reached.wait()
    await cancel_by_temporal(run)
    mail.let_go()
    assert await run.result() == []
    assert agency.desk.done == [*BOOKED, "mail", "statistics"]


async def test_a_step_that_reaches_its_deadline_is_undone(agency: Agency) -> None:
    """The step's declaration says how long it is tried."""
    agency.desk.out.add("hotel")
    run = await agency.start(then="commit")
    await eventually(lambda: tried(agency, "hotel"), "the hotel is tried")
    await agency.advance(run, MINUTE * 2)
    await fails(run)
    agency.assert_undone("ActivityError", booked=["flight"])


@pytest.mark.parametrize("mistake", ["unknown step", "no deadline"])
async def test_a_mistake_in_a_call_is_a_bug(agency: Agency, mistake: str) -> None:
    """A step whose undo is not registered, or that could be tried for ever, does not run."""
    run = await agency.start_tour(mistake)

    async def stumbled() -> bool:
        return EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED in await kinds(run)

    await eventually(stumbled, "the workflow task failed")
    await run.terminate()
    assert agency.desk.done == []


async def test_the_caller_may_give_the_deadline(agency: Agency) -> None:
    """For a step that is declared without one."""
    assert await (await agency.start_tour("deadline of the caller")).result() == ["did flight"]


# ------------------------------------------------------------------------------------------------------- declarations


def test_a_step_is_called_by_its_undo() -> None:
    """This is the name that operators use."""
    assert Step(Desk.book_flight, Desk.cancel_flight, None, "").name == "cancel_flight"
    assert FLIGHT.skippable
    assert not FLIGHT.independent


def test_a_refusal_is_an_application_error() -> None:
    """A workflow that does not catch it fails with the code as type, and is not retried."""
    refusal = Rejected("sold_out", "no seats")
    assert isinstance(refusal, ApplicationError)
    assert (refusal.type, refusal.message, refusal.non_retryable) == ("sold_out", "no seats", True)
    assert reason(refusal) == "no seats"


def test_rounds_grow_up_to_a_day() -> None:
    """A run that waits for weeks must not outgrow its history."""
    lengths = [retry_round(number)["schedule_to_close_timeout"] for number in (0, 1, 7, 1000)]
    assert lengths == [FIRST_ROUND, FIRST_ROUND * 2, FIRST_ROUND * 128, FIRST_ROUND * 128]
    assert UNTIL_DONE["schedule_to_close_timeout"] is None
    assert UNTIL_DONE["retry_policy"] is STEADY_RETRY


# ------------------------------------------------------------------------------------------------------------- details


async def tried(agency: Agency, task: str) -> bool:
    return agency.desk.attempts[task] > 0
