"""The naive saga: the source document's flow, read word for word, on Temporal."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from temporalio.worker import Worker

from benchmarks.arms.arm import Arm, Entrance, Payload, Place, Post
from benchmarks.arms.naive_activities import open_naive
from benchmarks.arms.naive_workflow import NaiveProcessOrder
from config.settings import Settings
from config.temporal import connect


@asynccontextmanager
async def work(settings: Settings, post: Post) -> AsyncIterator[None]:
    client = await connect(sandbox=settings.workflow_sandbox)
    async with open_naive(settings) as naive:
        members = [method for name, method in inspect.getmembers(naive, inspect.ismethod) if not name.startswith("_")]
        async with Worker(client, task_queue=post.task_queue, workflows=[NaiveProcessOrder], activities=members):
            yield


def client(entrance: Entrance) -> Place:
    async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        result = await entrance.client.execute_workflow(
            NaiveProcessOrder.run, payload, id=order_id, task_queue=entrance.task_queue
        )
        if not result["success"]:
            raise RuntimeError(f"the naive saga refused an order: {result}")
        answered()

    return place


NAIVE: Final = Arm(
    name="naive",
    title="the source document's flow, read word for word: 6 activities and 4 for each item",
    engine="temporal",
    worker=work,
    client=client,
    rules="naive",
)
