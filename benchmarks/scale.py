"""What grows with the shop: every sweep, a reservation and a sale, before and after a million orders.

And how many orders a second there are beside thousands of open runs, and with more worker processes.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from app.clients import http_of, stripe_of
from app.startup_checks import open_database
from app.wiring import activities_of
from benchmarks.arms.product import PRODUCT
from benchmarks.cells import QUICK, Cell
from benchmarks.header import read_header
from benchmarks.orders import payloads
from benchmarks.results import Header, ScaleResult
from benchmarks.run import Run, open_run
from benchmarks.servers import Servers, open_servers
from config.settings import read_settings
from gateways.order_store import read_shop_id
from gateways.postgres import Database
from orders.models import Line, ReservationRequest
from orders.names import PROCESS_ORDER
from orders.reconciliation import Page

if TYPE_CHECKING:
    from gateways.postgres import Connection

PAST_ORDERS: Final = 1_000  # before the shop grows
REPEATS: Final = 12  # also once a prepared statement has a plan that knows no parameter
WORKERS: Final = (1, 2, 3)
CELL: Final = Cell(16)
NEEDS_CUSTOMER: Final = "pm_card_threeDSecure2Required"
AT_ONCE: Final = 50

# Orders of the last three months, all at rest: delivered or cancelled, with what each of them leaves behind.
ADD_ORDERS: Final = """
    INSERT INTO orders (id, customer_id, request_hash, status, total, currency, capture_mode, terms, payment_intent_id,
        payment_checked_at, shipment_checked_at, cancelled_at, placed_at, fulfillment_requested_at, created_at)
    SELECT 'past-' || n, 'c' || n % 50000, '', CASE n % 10 WHEN 0 THEN 'cancelled' ELSE 'delivered' END, 2999, 'usd',
        'manual', '{}', 'pi_past_' || n, now(), now(), CASE n % 10 WHEN 0 THEN now() END, at, at, at
    FROM generate_series($1::integer, $2::integer) n, LATERAL (SELECT now() - n % 130000 * interval '1 minute') t (at)
"""
ADD_DETAILS: Final = (
    """INSERT INTO order_items SELECT 'past-' || n, 'bench-' || (n * 7 + k) % 1000, 1, 2999
    FROM generate_series($1::integer, $2::integer) n, generate_series(0, 1) k""",
    """INSERT INTO reservations SELECT 'past-' || n, 'bench-' || (n * 7 + k) % 1000, 1,
        CASE n % 10 WHEN 0 THEN 'released' ELSE 'sold' END
    FROM generate_series($1::integer, $2::integer) n, generate_series(0, 1) k""",
    """INSERT INTO order_events (order_id, from_status, to_status, actor, why)
    SELECT 'past-' || n, t.from_status, t.to_status, '', '' FROM generate_series($1::integer, $2::integer) n
    CROSS JOIN (VALUES ('absent', 'pending'), ('pending', 'capturing'), ('capturing', 'processing'))
        t (from_status, to_status)""",
    """INSERT INTO notifications SELECT 'past-' || n, 'order_confirmation', 'sent'
    FROM generate_series($1::integer, $2::integer) n""",
    """INSERT INTO refunds (id, order_id, payment_intent_id, amount, status, attempt, at, checked_at)
    SELECT 're_' || n, 'past-' || n, 'pi_past_' || n, 2999, 'succeeded', 1,
        now() - n % 130000 * interval '1 minute', now()
    FROM generate_series($1::integer, $2::integer) n WHERE n % 10 = 0""",
)
ALIGN_STOCK: Final = """
    UPDATE inventory i SET sold = t.sold, reserved = t.held FROM reservation_totals t
    WHERE t.product_id = i.product_id
"""

# The rows that a transaction reads, of the tables that grow with the orders.
ROWS_READ: Final = """
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_xact_user_tables
    WHERE relname NOT IN ('products', 'inventory', 'reservation_totals', 'stock_alerts', 'product_embeddings')
"""

PREPARE_SALE: Final = "UPDATE orders SET status = 'capturing', payment_intent_id = 'pi_' || id WHERE id = $1"
WAITING: Final = "SELECT count(*) FROM orders WHERE id LIKE 'open-%' AND payment_intent_id IS NOT NULL"

SWEEPS: Final[Mapping[str, Any]] = {
    "find_verifiable": 100,
    "check_stock": 100,
    "check_payments": "",
    "find_orphans": "",
    "find_refunds": 100,
    "find_stuck_refunds": 100,
    "check_shipments": "",
    "find_orders_without_run": Page(at=datetime(1970, 1, 1, tzinfo=UTC)),
    "release_leftovers": 100,
}


class CountingDatabase(Database):
    """Counts the rows that its transactions read, while it `counts`: that takes time."""

    counts = False
    rows_read = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        async with super().transaction() as connection:
            before = await connection.fetchval(ROWS_READ) if self.counts else 0  # what is not yet reported counts too
            yield connection
            self.rows_read += await connection.fetchval(ROWS_READ) - before if self.counts else 0


@dataclass(frozen=True)
class Shop:
    """The product's activities by name, as a worker has them, their database, and another connection to it."""

    activities: Mapping[str, Callable[..., Awaitable[Any]]]
    database: CountingDatabase
    connection: asyncpg.Connection


async def measure_scale(orders: int, open_runs: int) -> AsyncIterator[Header | ScaleResult]:
    """A header, then every figure.

    Raises:
        StackError: a server does not start.
    """
    async with open_servers("dev", {}) as servers:
        yield await read_header(replace(QUICK, name="scale", seconds=0), servers, [PRODUCT], {})
        async for result in _queries(servers, orders):
            yield result
        async for result in _runs(servers, open_runs):
            yield result


# ------------------------------------------------------------------------------------------------------ every query


async def _queries(servers: Servers, orders: int) -> AsyncIterator[ScaleResult]:
    async with _open_shop(servers) as shop:
        first = 1
        for size in (PAST_ORDERS, orders):
            await _grow(shop.connection, first, size)
            first = size + 1
            for name, argument in SWEEPS.items():
                yield await _time_sweep(shop, name, argument, f"{size:,} orders")
            for each in await _time_orders(shop, size):
                yield each


@asynccontextmanager
async def _open_shop(servers: Servers) -> AsyncIterator[Shop]:
    os.environ.update(servers.environment)
    settings = read_settings()
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, CountingDatabase))
        http = await stack.enter_async_context(http_of(settings, settings.http_timeout_seconds))
        stripe = stripe_of(settings, http)
        shop_id = await read_shop_id(database)
        connection = await asyncpg.connect(servers.database)
        stack.push_async_callback(connection.close)
        found = activities_of(settings, servers.client, database, shop_id, http, stripe, None)
        assert isinstance(database, CountingDatabase)  # noqa: S101 (for the type checker)
        yield Shop({each.__name__: each for each in found}, database, connection)


async def _grow(connection: asyncpg.Connection, first: int, last: int) -> None:
    """Add orders of the past, numbered from first to last, and their stock."""
    for statement in (ADD_ORDERS, *ADD_DETAILS):
        await connection.execute(statement, first, last)
    await connection.execute(ALIGN_STOCK)
    await connection.execute("VACUUM ANALYZE")


async def _time_sweep(shop: Shop, name: str, argument: object, size: str) -> ScaleResult:
    """The median time of a sweep, and how many rows of orders one reads."""
    sweep = shop.activities[name]
    times = [await _timed(sweep(argument)) for _ in range(REPEATS)]
    shop.database.rows_read, shop.database.counts = 0, True
    await sweep(argument)
    shop.database.counts = False
    return ScaleResult(
        what=f"`{name}`", size=size, unit="ms", value=median(times), note=f"{shop.database.rows_read:,} rows"
    )


async def _time_orders(shop: Shop, size: int) -> list[ScaleResult]:
    """The median times of a reservation of three products, and of its sale."""
    reserved, sold = [], []
    for number, cart in enumerate(islice(payloads(3, 1), REPEATS)):
        request = ReservationRequest(
            order_id=f"scale-{size}-{number}",
            customer_id="cus_123",
            currency="usd",
            lines=tuple(Line(product_id=each["productId"], quantity=1) for each in cart["items"]),
            request_hash="",
        )
        reserved.append(await _timed(shop.activities["reserve_stock"](request)))
        await shop.connection.execute(PREPARE_SALE, request.order_id)
        sold.append(await _timed(shop.activities["finalize_order"](request.order_id)))
    return [
        ScaleResult(what=f"`{name}`", size=f"{size:,} orders", unit="ms", value=median(times))
        for name, times in (("reserve_stock", reserved), ("finalize_order", sold))
    ]


async def _timed(work: Awaitable[Any]) -> float:
    began = time.perf_counter()
    await work
    return 1000 * (time.perf_counter() - began)


# ------------------------------------------------------------------------------------------- runs and worker processes


async def _runs(servers: Servers, open_runs: int) -> AsyncIterator[ScaleResult]:
    profile = replace(QUICK, cells=(CELL,), rounds=1)
    for workers in WORKERS:
        async with open_run(profile, [PRODUCT], servers, workers) as running:
            await running.warm_up()
            yield await _rate(running, f"{workers} worker{'s' if workers > 1 else ''}")
            if workers == WORKERS[-1] and open_runs:
                queue = running.runners[0].task_queue
                await _leave_open(servers, queue, open_runs)
                yield await _rate(running, f"{workers} workers, {open_runs:,} open runs")


async def _leave_open(servers: Servers, task_queue: str, runs: int) -> None:
    """Start orders whose customers must authenticate their payments, and never do; wait until all wait."""
    carts = payloads(1, 2)
    numbers = iter(range(runs))

    async def start() -> None:
        for number in numbers:
            order = {**next(carts), "paymentMethodId": NEEDS_CUSTOMER}
            await servers.client.start_workflow(PROCESS_ORDER, order, id=f"open-{number}", task_queue=task_queue)

    await asyncio.gather(*(start() for _ in range(AT_ONCE)))
    connection = await asyncpg.connect(servers.database)
    while await connection.fetchval(WAITING) < runs:  # noqa: ASYNC110 (another process tells by the database)
        await asyncio.sleep(0.5)
    await connection.close()


async def _rate(running: Run, size: str) -> ScaleResult:
    result = await running.measure(running.runners[0], CELL, 0)
    note = f"disturbed by {result.foreign:.1f} cores" if result.is_flagged else ""
    return ScaleResult(what="orders, 16 customers", size=size, unit="a second", value=result.rate, note=note)
