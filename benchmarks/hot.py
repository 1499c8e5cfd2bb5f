"""Reservations per second, of one product that everybody wants, and of a thousand.

Two arms, side by side on one PostgreSQL with fsync on, each cell in a process of its own:

    for-update   the usual way, written fairly: one transaction for each order, SELECT … FOR UPDATE for each item
    product      activities/inventory.py

A cell whose stock is wrong in the end has no result.
"""

import asyncio
import json
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import product as product_of
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from activities.inventory import Inventory
from app.migrate import migrate
from benchmarks.header import read_database_header
from benchmarks.invariants import WrongRun
from benchmarks.measure.statistics import percentile
from benchmarks.measure.window import Window, mark
from benchmarks.results import Header, HotResult
from deploy.local.data import DATA_DIR, locked
from deploy.local.postgres import Postgres
from deploy.local.process import ROOT, free_ports
from gateways.postgres import LOCKED, Database, open_pool
from orders.errors import Unavailable
from orders.models import Line, ReservationRequest, Terms

if TYPE_CHECKING:
    from gateways.postgres import Pool

CONCURRENCY: Final = (1, 16, 64)
PRODUCTS: Final = (1, 1000)
POOL: Final = 16  # connections of each arm
WARM_UP: Final = 0.25  # the part of a cell's time that is dropped

RESET: Final = (
    "TRUNCATE orders, reservation_totals, order_events CASCADE",
    "UPDATE inventory SET quantity = 1000000000, reserved = 0, sold = 0",
    # A shop has had orders before. PostgreSQL plans for the tables as they are: of empty ones it would read every row.
    (
        "INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms) "
        "SELECT 'old-' || n, 'cus_old', 'old', 'rejected', 'usd', 'manual', '{}' FROM generate_series(1, 20000) n"
    ),
    "INSERT INTO order_items SELECT id, 'p1', 1, 2999 FROM orders",
    "INSERT INTO reservations SELECT id, 'p1', 1, 'released' FROM orders",
    (
        "INSERT INTO order_events (order_id, from_status, to_status, actor, why) "
        "SELECT id, 'absent', 'rejected', 'hot', 'before' FROM orders"
    ),
    "VACUUM ANALYZE",
)
FILL: Final = (
    "DELETE FROM inventory",
    "DELETE FROM products",
    "INSERT INTO products SELECT 'p' || n, 'P', '', 2999, 'usd' FROM generate_series(1, 1000) n",
    "INSERT INTO inventory SELECT id, name, 0, 0, 0 FROM products",
)
HELD: Final = "SELECT count(*) FROM orders WHERE status = 'pending'"
WRONG: Final = """
    SELECT count(*) FROM inventory i WHERE quantity + reserved <> 1000000000 OR reserved <> (
        SELECT coalesce(sum(r.quantity), 0) FROM reservations r WHERE r.product_id = i.product_id AND r.state = 'held'
    )
"""

Reserve = Callable[[ReservationRequest], Awaitable[Any]]


# ------------------------------------------------------------------------------------------------------------ the arms


def for_update(pool: "Pool") -> Reserve:
    """What most shops do. It writes what the product writes, and reads no more than it needs."""

    async def reserve(request: ReservationRequest) -> int:
        order, total = request.order_id, 0
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms) "
                "VALUES ($1, $2, $3, 'pending', $4, 'manual', '{}')",
                *(order, request.customer_id, request.request_hash, request.currency),
            )
            for line in request.lines:
                stock = await connection.fetchrow(
                    "SELECT i.quantity, p.price FROM inventory i JOIN products p ON p.id = i.product_id "
                    "WHERE i.product_id = $1 FOR UPDATE OF i",
                    line.product_id,
                )
                if stock is None or stock["quantity"] < line.quantity:
                    raise ValueError("out of stock")
                total += stock["price"] * line.quantity
                await connection.execute(
                    "UPDATE inventory SET quantity = quantity - $2, reserved = reserved + $2 WHERE product_id = $1",
                    *(line.product_id, line.quantity),
                )
                await connection.execute(
                    "INSERT INTO order_items (order_id, product_id, quantity, price) VALUES ($1, $2, $3, $4)",
                    *(order, line.product_id, line.quantity, stock["price"]),
                )
                await connection.execute(
                    "INSERT INTO reservations (order_id, product_id, quantity, state) VALUES ($1, $2, $3, 'held')",
                    *(order, line.product_id, line.quantity),
                )
            await connection.execute("UPDATE orders SET total = $2 WHERE id = $1", order, total)
            await connection.execute(
                "INSERT INTO order_events (order_id, from_status, to_status, actor, why) "
                "VALUES ($1, 'absent', 'pending', 'hot', 'stock reserved')",
                order,
            )
        return total

    return reserve


def product(pool: "Pool") -> Reserve:
    """The activity itself; an attempt that gives up waiting is repeated, as Temporal does."""
    inventory = Inventory(Database(pool), Terms())

    async def reserve(request: ReservationRequest) -> object:
        while True:
            try:
                return await inventory.reserve_stock(request)
            except Unavailable as error:
                if error.type not in {"stock_busy", LOCKED}:
                    raise

    return reserve


ARMS: Final = {"for-update": for_update, "product": product}


# ------------------------------------------------------------------------------------------------------------ one cell


async def run_cell(arm: str, url: str, customers: int, products: int, seconds: float) -> dict[str, Any]:
    """So many customers, each of whom orders one unit again and again."""
    async with await open_pool(url, POOL) as pool:
        for statement in RESET:
            await pool.execute(statement, timeout=60)
        reserve = ARMS[arm](pool)
        began = time.perf_counter()
        counted_from, end = began + seconds * WARM_UP, began + seconds
        cpu: list[float] = []
        latencies: list[float] = []
        orders = 0

        async def customer(number: int) -> None:
            nonlocal orders
            draw = random.Random(number)  # noqa: S311 (the same load for every arm)
            count = 0
            while (start := time.perf_counter()) < end:
                count += 1
                if start >= counted_from and not cpu:
                    cpu.append(time.process_time())
                await reserve(a_request(f"o{number}-{count}", f"p{draw.randint(1, products)}"))
                orders += 1
                if start >= counted_from:
                    latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(customer(number) for number in range(customers)))
        spent = time.process_time() - cpu[0]
        elapsed = time.perf_counter() - counted_from
        if await pool.fetchval(HELD) != orders or await pool.fetchval(WRONG, timeout=60):
            raise AssertionError(f"{arm}, {customers} customers, {products} products: the stock is wrong")
    return {
        "arm": arm,
        "customers": customers,
        "products": products,
        "rate": len(latencies) / elapsed,
        "latency": {"p50": 1000 * percentile(latencies, 0.5), "p99": 1000 * percentile(latencies, 0.99)},
        "cpu": 1000 * spent / len(latencies),
    }


def a_request(order_id: str, product_id: str) -> ReservationRequest:
    return ReservationRequest(
        order_id=order_id,
        customer_id="cus_hot",
        currency="usd",
        lines=(Line(product_id=product_id, quantity=1),),
        request_hash="hot",
    )


# ------------------------------------------------------------------------------------------------------------- the run


@asynccontextmanager
async def open_database() -> AsyncIterator[str]:
    """A migrated database with a thousand products, on a server of its own."""
    folder = DATA_DIR / f"bench-hot-{os.getpid()}"
    with locked(folder):
        postgres = Postgres(folder / "postgres", free_ports(1)[0], logs=folder / "logs")
        async with postgres.running():
            await migrate(postgres.url())
            connection = await asyncpg.connect(postgres.url())
            for statement in FILL:
                await connection.execute(statement)
            await connection.close()
            yield postgres.url()
    shutil.rmtree(folder, ignore_errors=True)


async def measure_hot(rounds: int, seconds: float) -> AsyncIterator[Header | HotResult]:
    """A header, then every cell once in each round, shuffled.

    Raises:
        WrongRun: a cell failed, or left the stock wrong.
    """
    cells = list(product_of(ARMS, CONCURRENCY, PRODUCTS))
    async with open_database() as url:
        yield await read_database_header("hot", url)
        for number in range(rounds):
            random.shuffle(cells)
            for arm, customers, products in cells:
                yield await _measure(url, number, arm, customers, products, seconds)


async def _measure(url: str, number: int, arm: str, customers: int, products: int, seconds: float) -> HotResult:  # noqa: PLR0913, PLR0917 (a cell)
    begin = await mark({}, {})
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.hot", url, arm, str(customers), str(products), str(seconds)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    answer, _ = await child.communicate()
    if child.returncode:
        raise WrongRun(f"{arm}, {customers} customers, {products} products: it failed")
    window = Window(begin, await mark({}, {}))
    return HotResult.model_validate({**json.loads(answer), "round": number, "foreign": window.foreign})


if __name__ == "__main__":
    given_url, given_arm, *numbers = sys.argv[1:]
    cell = run_cell(given_arm, given_url, int(numbers[0]), int(numbers[1]), float(numbers[2]))
    sys.stdout.write(f"{json.dumps(asyncio.run(cell))}\n")
