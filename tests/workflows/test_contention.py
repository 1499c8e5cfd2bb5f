"""Many orders at once for little stock, or for a locked product: no unit is sold twice, no order waits for another."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio.common import WorkflowIDConflictPolicy

from activities.inventory import Inventory
from orders.errors import Unavailable
from orders.models import OrderRow
from sandbox.server import Running
from sandbox.world import World
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients, order_of
from tests.support.invariants import SEEDED, assert_invariants, check_stock
from tests.support.rows import Rows
from tests.support.shop import Shop, an_order, settings_for

TEN = SEEDED | {"1": 10}
ONE_UNIT = [{"productId": "1", "quantity": 1}]
OTHER_UNIT = [{"productId": "2", "quantity": 1}]


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[ActivityBench]:
    """Without a sandbox: only stock moves here. A deadlock is found before an attempt gives up its wait for a lock."""
    nowhere = Running("http://127.0.0.1:1", World())
    settings = settings_for(f"{database_url}?deadlock_timeout=50ms", nowhere)
    async with open_clients(settings) as clients, open_activity_bench(settings, nowhere, clients) as opened:
        yield opened


@asynccontextmanager
async def locked(rows: Rows, product_id: str = "1") -> AsyncIterator[None]:
    """Another session holds the product's row, and does not commit."""
    async with rows.pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT 1 FROM inventory WHERE product_id = $1 FOR UPDATE", product_id)
        yield


async def test_two_hundred_reservations_of_ten_units_hold_exactly_ten(bench: ActivityBench) -> None:
    """Ten orders hold one unit each, and the others are out of stock."""
    await bench.set_stock(10)
    rows = await asyncio.gather(*(bench.insist(order_of(f"o{n}", items=ONE_UNIT)) for n in range(200)))

    assert Counter((row.status, row.error_code) for row in rows) == {
        ("pending", None): 10,
        ("rejected", "out_of_stock"): 190,
    }
    assert await bench.stock() == (0, 10)
    await check_stock(bench, TEN)


async def test_carts_in_opposite_order_do_not_deadlock(bench: ActivityBench) -> None:
    """Rows are locked in product order, whatever the order of the cart."""
    cart = [{"productId": product, "quantity": 1} for product in ("1", "2", "3", "4")]
    orders = [order_of(f"o{n}", items=cart if n % 2 else cart[::-1]) for n in range(30)]
    rows = await asyncio.gather(*(bench.insist(order) for order in orders))
    await asyncio.gather(*(bench.claim_undo(order) for order in orders[::2]))

    assert {row.status for row in rows} == {"pending"}
    await check_stock(bench)


@pytest.mark.prove
async def test_a_locked_product_holds_up_no_order_of_another_one(shop: Shop) -> None:
    """Eighty orders wait for the locked row; one of another product is placed meanwhile, and then they are too."""
    async with locked(shop):
        waiting = [await shop.start(an_order(items=ONE_UNIT), f"o{n}") for n in range(80)]
        async with asyncio.timeout(10):
            assert (await shop.place(an_order(items=OTHER_UNIT), "other")).success
        assert await shop.stock() == (100, 0)

    assert all([(await run.result()).success for run in waiting])
    assert await shop.stock() == (20, 0)


@pytest.mark.parametrize(
    ("activity", "change"),
    [
        (Inventory.finalize_order, "status = 'capturing', payment_intent_id = 'pi_' || id"),
        (Inventory.release_stock, "status = 'undoing', closing = 'failed'"),
    ],
)
async def test_an_order_that_ends_waits_for_a_locked_product_without_a_connection(
    bench: ActivityBench, activity: Callable[[Any, str], Awaitable[OrderRow]], change: str
) -> None:
    """As many attempts as the worker has slots for wait to sell or to release; another product is reserved at once."""
    orders = [order_of(f"o{n}", items=ONE_UNIT) for n in range(64)]
    await asyncio.gather(*(bench.insist(order) for order in orders))
    await bench.pool.execute(f"UPDATE orders SET {change}")  # noqa: S608 (a constant)
    async with locked(bench):
        ends = asyncio.gather(*(bench.do(activity, order.id) for order in orders), return_exceptions=True)
        await asyncio.sleep(0)
        async with asyncio.timeout(3):
            assert (await bench.reserve(order_of("other", items=OTHER_UNIT))).status == "pending"
        assert {type(end) for end in await ends} == {Unavailable}


async def test_twenty_starts_of_one_order_are_one_order(shop: Shop) -> None:
    """Whichever client comes first starts it; all get its outcome."""

    async def place() -> str | None:
        handle = await shop.start(order_id="o1", id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING)
        return (await handle.result()).payment_intent

    payments = await asyncio.gather(*(place() for _ in range(20)))

    assert len(set(payments)) == 1
    assert await shop.events("o1") == ["pending", "capturing", "processing"]
    assert await shop.stock() == (98, 0)
    await assert_invariants(shop, "o1")


async def test_thirty_orders_for_ten_units(shop: Shop) -> None:
    """Whole orders: ten are placed, twenty are out of stock, and no unit is left over or missing."""
    await shop.set_stock(10)
    outcomes = await asyncio.gather(*(shop.place(an_order(items=ONE_UNIT), f"o{n}") for n in range(30)))

    assert Counter(outcome.error_code for outcome in outcomes) == {None: 10, "out_of_stock": 20}
    assert await shop.stock() == (0, 0)
    for n in range(30):
        await assert_invariants(shop, f"o{n}", TEN)
