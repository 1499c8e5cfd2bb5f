"""The engine's floor: the product's graph with steps that do nothing."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from temporalio.client import WithStartWorkflowOperation
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.worker import Worker

from benchmarks.arms.arm import Arm, Entrance, Payload, Place, Post
from benchmarks.arms.floor_workflow import Floor, reserve, step
from config.settings import Settings
from config.temporal import connect


@asynccontextmanager
async def work(settings: Settings, post: Post) -> AsyncIterator[None]:
    client = await connect(sandbox=settings.workflow_sandbox)
    async with Worker(client, task_queue=post.task_queue, workflows=[Floor], activities=[reserve, step]):
        yield


def client(entrance: Entrance, *, local: bool = False) -> Place:
    async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        start = WithStartWorkflowOperation[Any, Any](
            Floor.run,
            payload | ({"local": True} if local else {}),
            id=order_id,
            task_queue=entrance.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        )
        await entrance.client.execute_update_with_start_workflow(Floor.submit, start_workflow_operation=start)
        answered()
        await (await start.workflow_handle()).result()

    return place


FLOOR: Final = Arm(
    name="floor",
    title="the same graph on bare Temporal, steps that do nothing",
    engine="temporal",
    worker=work,
    client=client,
    rules="none",
)

FLOOR_LOCAL: Final = Arm(
    name="floor-local",
    title="the same, forward steps as local activities",
    engine="temporal",
    worker=work,
    client=lambda entrance: client(entrance, local=True),
    rules="none",
)
