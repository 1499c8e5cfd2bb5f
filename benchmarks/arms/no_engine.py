"""The product's activities in a row, with nothing that would go on after a crash; and with a row that would."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.arms import http
from benchmarks.arms.arm import Arm, Payload, Post
from benchmarks.arms.steps import AFTERWARDS, FORWARD, Step, open_steps, order_of
from config.settings import Settings
from gateways.postgres import open_pool
from orders.models import Order

if TYPE_CHECKING:
    from gateways.postgres import Pool

# One row for each saga. `done` counts the steps that need not be repeated; the last two are one.
CREATE_SAGAS: Final = """
    CREATE SCHEMA IF NOT EXISTS handrolled;
    CREATE TABLE IF NOT EXISTS handrolled.sagas (
        order_id text PRIMARY KEY, payload jsonb NOT NULL, done integer NOT NULL DEFAULT 0
    ) WITH (fillfactor = 50);
"""
BEGIN: Final = "INSERT INTO handrolled.sagas (order_id, payload) VALUES ($1, $2) ON CONFLICT DO NOTHING"
ADVANCE: Final = "UPDATE handrolled.sagas SET done = $2 WHERE order_id = $1"
UNFINISHED: Final = "SELECT order_id, payload, done FROM handrolled.sagas WHERE done <= $1"


@asynccontextmanager
async def work(settings: Settings, post: Post) -> AsyncIterator[None]:
    async with open_steps(settings) as steps:

        async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
            order = order_of(order_id, payload)
            for name in FORWARD:
                await steps[name](order)
            answered()
            await asyncio.gather(*(steps[name](order) for name in AFTERWARDS))

        async with http.serve(post.port, place):
            yield


class Sagas:
    """Each step is followed by an update of the saga's row; a worker that starts goes on with what is unfinished."""

    def __init__(self, pool: "Pool", steps: Mapping[str, Step]) -> None:
        self._pool = pool
        self._steps = steps

    async def place(self, order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        await self._pool.execute(BEGIN, order_id, json.dumps(payload))
        await self._go_on(order_of(order_id, payload), 0, answered)

    async def resume(self) -> None:
        """Finish what an earlier worker began; there must be no other."""
        for row in await self._pool.fetch(UNFINISHED, len(FORWARD)):
            await self._go_on(order_of(row["order_id"], json.loads(row["payload"])), row["done"], lambda: None)

    async def _go_on(self, order: Order, done: int, answered: Callable[[], None]) -> None:
        for number, name in enumerate(FORWARD[done:], start=done + 1):
            await self._steps[name](order)
            await self._pool.execute(ADVANCE, order.id, number)
        answered()
        await asyncio.gather(*(self._steps[name](order) for name in AFTERWARDS))
        await self._pool.execute(ADVANCE, order.id, len(FORWARD) + 1)


@asynccontextmanager
async def work_by_row(settings: Settings, post: Post) -> AsyncIterator[None]:
    pool = await open_pool(settings.database_url.get_secret_value(), settings.database_pool_size)
    async with pool, open_steps(settings) as steps:
        await pool.execute(CREATE_SAGAS)
        sagas = Sagas(pool, steps)
        await sagas.resume()
        async with http.serve(post.port, sagas.place):
            yield


FASTEST: Final = {"WORKFLOW_SANDBOX": "false"}  # on uvloop

NO_ENGINE: Final = Arm(
    name="no-engine",
    title="the product's activities in a row, behind HTTP; a crash loses the order",
    engine="none",
    worker=work,
    client=http.client,
    settings=FASTEST,
)

HAND_ROLLED: Final = Arm(
    name="hand-rolled",
    title="the same, with a row for each saga that is updated after every step",
    engine="none",
    worker=work_by_row,
    client=http.client,
    settings=FASTEST,
)
