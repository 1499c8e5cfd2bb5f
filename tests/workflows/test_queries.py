"""A worker that is asked about a run which it does not hold must not work on from what it played in order to answer."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from deploy.postgres import Postgres
from orders.models import OrderOutcome, OrderView
from orders.runner import PLAYED_AHEAD
from orders.temporal import plugin
from tests.servers import copy_database
from tests.shop import open_shop
from worker import WORKFLOWS

ORDERS = 20  # so that some worker gets the query of one of them before its task

Run = WorkflowHandle[object, OrderOutcome]


async def test_a_query_leaves_every_history_repeatable(postgres: Postgres, temporal: WorkflowEnvironment) -> None:
    """Nobody holds the runs; they are asked about, their step ends, a worker comes, and a cancel with it.

    Without orders.runner most histories here cannot be replayed: "Activity machine does not handle this event".
    """
    async with copy_database(postgres) as url, open_shop(url, temporal, run=activities_alone) as shop:
        client = await another_client(temporal.client)
        held = [shop.stagehand.hold("reserve_stock", "after", f"o{number}") for number in range(ORDERS)]
        async with Worker(client, task_queue=shop.task_queue, workflows=WORKFLOWS):
            runs = [await shop.start(order_id=f"o{number}") for number in range(ORDERS)]
            await asyncio.gather(*(each.reached.wait() for each in held))
        asked = [asyncio.create_task(ask_and_cancel(run)) for run in runs]
        await runs[0].describe()  # a round trip behind the questions
        for each in held:
            each.let_go()
        async with Worker(
            client,
            task_queue=shop.task_queue,
            workflows=WORKFLOWS,
            max_concurrent_workflow_tasks=2,
            max_concurrent_workflow_task_polls=2,
        ):
            await asyncio.gather(*asked)
            await asyncio.gather(*(run.result() for run in runs))
        histories = [await run.fetch_history() for run in runs]

    for history in histories:
        await Replayer(workflows=WORKFLOWS, plugins=[plugin()]).replay_workflow(history)
    assert {why for history in histories for why in failures(history)} == {PLAYED_AHEAD}


@asynccontextmanager
async def activities_alone(worker: Worker) -> AsyncIterator[None]:
    config = worker.config()
    async with Worker(
        await another_client(config["client"]),
        task_queue=config["task_queue"],
        activities=config["activities"],
        interceptors=config["interceptors"],
    ):
        yield


async def another_client(client: Client) -> Client:
    """Workers of one client must not overlap."""
    return await Client.connect(client.service_client.config.target_host, plugins=[plugin()])


async def ask_and_cancel(run: Run) -> None:
    await run.query("status", result_type=OrderView)
    with suppress(RPCError):  # the order is placed
        await run.signal("cancel-requested")


def failures(history: WorkflowHistory) -> Iterator[str]:
    """Why workflow tasks failed."""
    for event in history.events:
        if event.HasField("workflow_task_failed_event_attributes"):
            yield event.workflow_task_failed_event_attributes.failure.message
