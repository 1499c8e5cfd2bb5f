"""A worker dies in the middle of a batch of reservations, and another one gets the same orders again.

It is killed after each statement of the transaction, and after its commit, when no order has its answer yet.
"""

import asyncio
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest

from activities.inventory import Inventory
from gateways.postgres import Database, open_pool
from orders.models import Order, Terms
from sandbox.server import Running
from sandbox.world import World
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients, order_of
from tests.support.invariants import check_stock
from tests.support.sample import sampled
from tests.support.shop import settings_for

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

    from gateways.postgres import Connection, Pool

READ: Final = 5  # the last statement: the commit may be on its way
COMMITTED: Final = 6
IN_SAMPLE: Final = {4, COMMITTED}  # all is written and nothing committed; committed

# The first one is reserved alone, since nothing is under way; the others come together.
ORDERS: Final = [order_of(f"o{n}", items=[{"productId": "1", "quantity": 30}]) for n in range(6)]

_spawn = multiprocessing.get_context("forkserver")


class Doomed(Database):
    """Kills its process at a point of its second transaction."""

    def __init__(self, pool: "Pool", point: int) -> None:
        super().__init__(pool)
        self._point = point
        self._transactions = 0
        self._statements = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        self._transactions += 1
        self._statements = 0
        async with super().transaction() as connection:
            with connection.query_logger(self._count):
                yield connection
        self._pass_by(COMMITTED)

    def _count(self, _: "LoggedQuery") -> None:
        self._statements += 1
        self._pass_by(self._statements)

    def _pass_by(self, point: int) -> None:
        if self._transactions == 2 and point == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


def _reserve_and_die(url: str, orders: list[Order], point: int) -> None:
    async def reserve() -> None:
        async with await open_pool(url, 1) as pool:
            inventory = Inventory(Doomed(pool, point), Terms())
            await asyncio.gather(*(inventory.reserve_stock(order.reservation) for order in orders))

    asyncio.run(reserve())


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[ActivityBench]:
    nowhere = Running("http://127.0.0.1:1", World())
    settings = settings_for(database_url, nowhere)
    async with open_clients(settings) as clients, open_activity_bench(settings, nowhere, clients) as opened:
        yield opened


@pytest.mark.parametrize("point", sampled(range(1, COMMITTED + 1), lambda point: point in IN_SAMPLE))
async def test_a_batch_is_reserved_once_whenever_its_worker_dies(
    bench: ActivityBench, database_url: str, point: int
) -> None:
    """Either none of its orders is written or all are; the next attempts find or make the same, order by order."""
    worker = _spawn.Process(target=_reserve_and_die, args=(database_url, ORDERS, point))
    worker.start()
    await asyncio.to_thread(worker.join, 60)
    assert worker.exitcode == -signal.SIGKILL
    written = {row["id"] for row in await bench.pool.fetch("SELECT id FROM orders")}
    assert len(written) in ({6} if point == COMMITTED else {1, 6} if point == READ else {1})

    rows = await asyncio.gather(*(bench.reserve(order) for order in ORDERS))
    assert Counter((row.status, row.error_code) for row in rows) == {
        ("pending", None): 3,
        ("rejected", "out_of_stock"): 3,
    }
    assert [row.status for row in rows[:3]] == ["pending"] * 3
    assert await bench.stock() == (10, 90)
    assert {len(await bench.events(order.id)) for order in ORDERS} == {1}
    await check_stock(bench)
