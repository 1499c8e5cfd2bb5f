"""Reservations per second, of one product that everybody wants, and of a thousand: `python -m benchmarks.hot`.

Arms, interleaved in random order on one PostgreSQL with fsync on, each cell in a process of its own:

    for_update   the usual way, written fairly: one transaction for each order, SELECT … FOR UPDATE for each item
    product      this checkout: activities/inventory.py
    other        the same file of another checkout, if one is named by --other

It uses a PostgreSQL of its own, or the server at DATABASE_URL, in a database that it creates and drops. A cell whose
stock is wrong in the end has no result.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from activities.inventory import Inventory
from gateways.postgres import Database, open_pool
from orders.errors import Unavailable
from orders.models import Line, ReservationRequest, Terms

if TYPE_CHECKING:
    from gateways.postgres import Pool

ROOT: Final = Path(__file__).parents[1]
CONCURRENCY: Final = (1, 16, 64)
PRODUCTS: Final = (1, 1000)
POOL: Final = 16  # connections of each arm
WARM_UP: Final = 0.25  # the part of a cell's time that is dropped

RESET: Final = (
    "TRUNCATE orders, reservation_totals, order_events CASCADE",
    "UPDATE inventory SET quantity = 1000000000, reserved = 0, sold = 0",
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
                if error.type == "database_refused":
                    raise

    return reserve


ARMS: Final = {"for_update": for_update, "product": product, "other": product}


# ------------------------------------------------------------------------------------------------------------ one cell


async def run_cell(arm: str, url: str, concurrency: int, products: int, seconds: float) -> dict[str, Any]:
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

        await asyncio.gather(*(customer(number) for number in range(concurrency)))
        spent = time.process_time() - cpu[0]
        elapsed = time.perf_counter() - counted_from
        if await pool.fetchval(HELD) != orders or await pool.fetchval(WRONG, timeout=60):
            raise AssertionError(f"{arm}, c={concurrency}, {products} products: the stock is wrong")
    latencies.sort()
    return {
        "arm": arm,
        "concurrency": concurrency,
        "products": products,
        "per_second": len(latencies) / elapsed,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "worker_cpu_ms": spent / len(latencies) * 1000,
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
async def a_database() -> AsyncIterator[str]:
    """A migrated database with a thousand products, dropped at the end."""
    # Only the main process has these modules: a cell may run in another checkout.
    from app.migrate import migrate  # noqa: PLC0415
    from deploy.local.postgres import Postgres, temporary_folder  # noqa: PLC0415
    from deploy.local.process import free_ports  # noqa: PLC0415

    if server := os.environ.get("DATABASE_URL"):
        name = f"hot_{secrets.token_hex(4)}"
        await execute(server, f"CREATE DATABASE {name}")
        try:
            head, _, rest = server.partition("://")
            address, _, options = rest.partition("?")
            url = f"{head}://{address.split('/')[0]}/{name}" + (f"?{options}" if options else "")
            yield await filled(url, migrate)
        finally:
            await execute(server, f"DROP DATABASE {name} WITH (FORCE)")
        return
    with temporary_folder() as folder:
        postgres = Postgres(folder / "data", free_ports(1)[0], logs=folder / "logs")
        async with postgres.running():
            yield await filled(postgres.url(), migrate)


async def filled(url: str, migrate: Callable[[str], Awaitable[object]]) -> str:
    await migrate(url)
    await execute(url, *FILL)
    return url


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def run_all(rounds: int, seconds: float, other: Path | None) -> list[dict[str, Any]]:
    """Every cell once in each round; a line of JSON for each."""
    checkouts = {"for_update": ROOT, "product": ROOT} | ({"other": other} if other else {})
    cells = [(arm, c, n) for arm in checkouts for c in CONCURRENCY for n in PRODUCTS]
    results = []
    async with a_database() as url:
        for _ in range(rounds):
            random.shuffle(cells)
            for arm, concurrency, products in cells:
                cell = ("--cell", arm, str(concurrency), str(products), "--seconds", str(seconds))
                # -P: beside this file are modules that have the names of our packages.
                child = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", __file__, *cell),
                    cwd=checkouts[arm],
                    env=os.environ | {"PYTHONPATH": str(checkouts[arm]), "HOT_URL": url},
                    stdout=subprocess.PIPE,
                )
                answer, _ = await child.communicate()
                if child.returncode:
                    raise SystemExit(f"{arm}, c={concurrency}, {products} products: it failed")
                results.append(json.loads(answer))
                sys.stdout.write(answer.decode())
                sys.stdout.flush()
    return results


def table(results: Iterable[dict[str, Any]]) -> str:
    """Medians, with the ratio to for_update in the same round as median and range."""
    cells: dict[tuple[int, int, str], list[dict[str, Any]]] = defaultdict(list)
    for each in results:
        cells[each["products"], each["concurrency"], each["arm"]].append(each)
    lines = [
        "| products | c | arm | reservations/s | ratio | p50 / p99 ms | ratio of p99 | CPU ms of the worker |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (products, concurrency, arm), found in sorted(cells.items()):
        usual = cells[products, concurrency, "for_update"]
        lines.append(
            f"| {products} | {concurrency} | {arm} "
            f"| {median(found, 'per_second'):.0f} | {ratio(found, usual, 'per_second')} "
            f"| {median(found, 'p50_ms'):.1f} / {median(found, 'p99_ms'):.1f} | {ratio(found, usual, 'p99_ms')} "
            f"| {median(found, 'worker_cpu_ms'):.2f} |"
        )
    return "\n".join(lines)


def median(cells: list[dict[str, Any]], name: str) -> float:
    return float(statistics.median(each[name] for each in cells))


def ratio(cells: list[dict[str, Any]], usual: list[dict[str, Any]], name: str) -> str:
    each = sorted(mine[name] / theirs[name] for mine, theirs in zip(cells, usual, strict=True))
    return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each cell is measured")
    parser.add_argument("--seconds", type=float, default=4, help="for each cell; a quarter is warm-up")
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell:
        arm, concurrency, products = given.cell
        cell = run_cell(arm, os.environ["HOT_URL"], int(concurrency), int(products), given.seconds)
        sys.stdout.write(f"{json.dumps(asyncio.run(cell))}\n")
        return
    results = asyncio.run(run_all(given.rounds, given.seconds, given.other))
    sys.stdout.write(f"\n{table(results)}\n")


if __name__ == "__main__":
    main()
