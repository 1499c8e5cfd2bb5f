"""A step with a `patch_id`: runs that began before it existed go on without it."""

import pytest
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from saga.tests.agency import BOOKED, Agency, eventually, fails, timer_runs
from saga.tests.trip import LongerTrip


async def test_a_run_of_the_release_before_has_neither_the_step_nor_its_undo(environment: WorkflowEnvironment) -> None:
    """It is replayed by the new code, and undoes what it did."""
    agency = Agency(environment)
    async with agency.open():
        run = await agency.start(then="sleep")
        await eventually(lambda: timer_runs(run), "the trip is booked")
    async with agency.open(LongerTrip):
        await run.cancel()
        assert isinstance(await fails(run), CancelledError)
    agency.assert_undone("CancelledError")


@pytest.mark.parametrize("max_cached_workflows", [1000, 0])
async def test_a_new_run_has_both(environment: WorkflowEnvironment, max_cached_workflows: int) -> None:
    """Also when it is replayed at every task."""
    agency = Agency(environment)
    async with agency.open(LongerTrip, max_cached_workflows=max_cached_workflows):
        await fails(await agency.start(then="fail"))
    assert agency.desk.done[: len(BOOKED) + 1] == [*BOOKED, "transfer"]
    assert agency.desk.done.count("cancel_transfer") == 1
    assert agency.desk.done.index("cancel_transfer") < agency.desk.done.index("cancel_car")


async def test_a_new_run_undoes_a_step_that_it_never_ran(environment: WorkflowEnvironment) -> None:
    """The undo is registered before the first step, as every other."""
    agency = Agency(environment)
    async with agency.open(LongerTrip):
        await fails(await agency.start(then="fail", books=False))
    assert "cancel_transfer" in agency.desk.done
