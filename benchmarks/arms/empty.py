"""The least that Temporal costs: a workflow without a step."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from temporalio.worker import Worker

from benchmarks.arms.arm import Arm, Entrance, Payload, Place, Post
from benchmarks.arms.empty_workflow import Empty
from config.settings import Settings
from config.temporal import connect


@asynccontextmanager
async def work(settings: Settings, post: Post) -> AsyncIterator[None]:
    client = await connect(sandbox=settings.workflow_sandbox)
    async with Worker(client, task_queue=post.task_queue, workflows=[Empty]):
        yield


def client(entrance: Entrance) -> Place:
    async def place(order_id: str, _payload: Payload, answered: Callable[[], None]) -> None:
        await entrance.client.execute_workflow(Empty.run, id=order_id, task_queue=entrance.task_queue)
        answered()

    return place


EMPTY: Final = Arm(
    name="empty",
    title="an empty workflow",
    engine="temporal",
    worker=work,
    client=client,
    cart=False,
    rules="none",
)
