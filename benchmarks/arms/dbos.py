"""DBOS: a workflow whose steps are recorded in PostgreSQL by the program itself, without a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.arms import http
from benchmarks.arms.arm import Arm, Payload, Post
from benchmarks.arms.naive_activities import Naive, open_naive
from benchmarks.arms.no_engine import FASTEST
from benchmarks.arms.steps import AFTERWARDS, FORWARD, open_steps, order_of
from config.settings import Settings

CONNECTIONS: Final = 20  # as Temporal's server has

Flow = Callable[[str, Payload], Awaitable[None]]
Answers = dict[str, Callable[[], None]]


@asynccontextmanager
async def work_with_7(settings: Settings, post: Post) -> AsyncIterator[None]:
    """The seven steps of the product."""
    from dbos import DBOS  # noqa: PLC0415 (an optional package)

    answers: Answers = {}
    async with open_steps(settings) as steps:

        async def flow(order_id: str, payload: Payload) -> None:
            order = order_of(order_id, payload)
            for name in FORWARD:
                await DBOS.run_step_async({"name": name}, steps[name], order)
            answers[order_id]()
            await asyncio.gather(*(DBOS.run_step_async({"name": name}, steps[name], order) for name in AFTERWARDS))

        async with _serving(post, flow, answers):
            yield


@asynccontextmanager
async def work_with_18(settings: Settings, post: Post) -> AsyncIterator[None]:
    """The members of the naive saga."""
    answers: Answers = {}
    async with open_naive(settings) as naive:

        async def flow(order_id: str, payload: Payload) -> None:
            await _naive_flow(naive, payload)
            answers[order_id]()

        async with _serving(post, flow, answers):
            yield


async def _naive_flow(naive: Naive, order: Payload) -> None:
    from dbos import DBOS  # noqa: PLC0415

    async def do(member: Callable[..., Awaitable[Any]], *arguments: object) -> Any:  # noqa: ANN401 (each has its own)
        return await DBOS.run_step_async({"name": member.__name__}, member, *arguments)

    items = order["items"]
    await do(naive.validate_order, order)
    if not all(await asyncio.gather(*(do(naive.check_inventory, item) for item in items))):
        raise RuntimeError("an item is out of stock")
    for item in items:
        await do(naive.reserve_inventory, item)
    payment_intent = await do(naive.process_payment, order)
    order_id = await do(naive.create_order, order, payment_intent)
    for item in items:
        await do(naive.create_order_item, order_id, item)
    for item in items:
        await do(naive.finalize_inventory, item)
    await do(naive.create_fulfillment, order_id, order)
    await do(naive.send_confirmation, order_id, order)
    await do(naive.track_order, order_id, order)


@asynccontextmanager
async def _serving(post: Post, flow: Flow, answers: Answers) -> AsyncIterator[None]:
    """Run the flow as a workflow for each order that is posted; its id is the order's."""
    from dbos import DBOS, SetWorkflowID  # noqa: PLC0415

    server, _, _ = post.engine_url.rpartition("/")
    name = post.task_queue.replace("-", "_")
    DBOS(
        config={
            "name": name,
            "system_database_url": f"{server}/{name}",
            "sys_db_pool_size": CONNECTIONS,
            "log_level": "WARNING",
        }
    )
    workflow = DBOS.workflow(name="place")(flow)

    async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        answers[order_id] = answered
        try:
            with SetWorkflowID(order_id):
                await workflow(order_id, payload)
        finally:
            del answers[order_id]

    DBOS.launch()
    try:
        async with http.serve(post.port, place):
            yield
    finally:
        DBOS.destroy()


DBOS_7: Final = Arm(
    name="dbos-7",
    title="DBOS, the same seven steps",
    engine="dbos",
    worker=work_with_7,
    client=http.client,
    settings=FASTEST,
    package="dbos",
)

DBOS_18: Final = Arm(
    name="dbos-18",
    title="DBOS, the steps of the naive saga: 18 for three items",
    engine="dbos",
    worker=work_with_18,
    client=http.client,
    settings=FASTEST,
    package="dbos",
    rules="naive",
)
