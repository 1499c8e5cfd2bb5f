"""A worker that is asked about a run which it does not hold must not work on from what it played in order to answer."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import pytest
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.client import WorkflowHandle, WorkflowHistory
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from app.wiring import WORKFLOWS
from config.replay_guard import PLAYED_AHEAD
from config.temporal import plugin
from orders.models import OrderOutcome, OrderView
from tests.support.shop import open_shop
from tests.support.split_worker import SplitWorker

NEW_EVENT = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND
ORDERS = 20  # so that some worker gets the query of one of them before its task

Run = WorkflowHandle[object, OrderOutcome]


@pytest.mark.prove
async def test_a_query_leaves_every_history_repeatable(database_url: str, temporal: WorkflowEnvironment) -> None:
    """No worker holds the runs; queries ask for them, their step ends, and a worker and a cancel arrive together.

    Without config.replay_guard most histories here cannot be replayed: "Activity machine does not handle this event".
    """
    split_worker = SplitWorker()
    async with open_shop(database_url, temporal, run=split_worker.running) as shop:
        held = [shop.hooks.hold("reserve_stock", "after", f"o{number}") for number in range(ORDERS)]
        runs = [await shop.start(order_id=f"o{number}") for number in range(ORDERS)]
        await asyncio.gather(*(each.reached.wait() for each in held))
        async with split_worker.workflows_paused(max_concurrent_workflow_tasks=2, max_concurrent_workflow_task_polls=2):
            asked = [asyncio.create_task(ask_and_cancel(run)) for run in runs]
            await runs[0].describe()  # a round trip behind the questions
            for each in held:
                each.let_go()
        await asyncio.gather(*asked)
        await asyncio.gather(*(run.result() for run in runs))
        histories = [await run.fetch_history() for run in runs]

    for history in histories:
        await Replayer(workflows=WORKFLOWS, plugins=[plugin()]).replay_workflow(history)
    assert {why for history in histories for why in failures(history)} == {PLAYED_AHEAD}


async def ask_and_cancel(run: Run) -> None:
    await run.query("status", result_type=OrderView)
    with suppress(RPCError):  # the order is placed
        await run.signal("cancel-requested")


def failures(history: WorkflowHistory) -> Iterator[str]:
    """Why workflow tasks failed, except those that Temporal itself gave back because a signal came meanwhile."""
    for event in history.events:
        failed = event.workflow_task_failed_event_attributes
        if event.HasField("workflow_task_failed_event_attributes") and failed.cause != NEW_EVENT:
            yield failed.failure.message
