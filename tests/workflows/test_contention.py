"""Many orders at once for little stock: no unit is sold twice, and no order waits for ever."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from temporalio.common import WorkflowIDConflictPolicy

from orders.errors import Unavailable
from orders.models import Order, OrderRow
from sandbox.server import Running
from sandbox.world import World
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients, order_of
from tests.support.invariants import SEEDED, assert_invariants, check_stock
from tests.support.shop import Shop, an_order, settings_for

TEN = SEEDED | {"1": 10}
ONE_UNIT = [{"productId": "1", "quantity": 1}]


@pytest.fixture
async def bench(database_url: str) -> AsyncIterator[ActivityBench]:
    """Without a sandbox: only stock moves here."""
    nowhere = Running("http://127.0.0.1:1", World())
    settings = settings_for(database_url, nowhere)
    async with open_clients(settings) as clients, open_activity_bench(settings, nowhere, clients) as opened:
        yield opened


async def insist(bench: ActivityBench, order: Order) -> OrderRow:
    """Reserve as Temporal does: on a slow machine some attempts wait for a connection longer than they may."""
    while True:
        with suppress(Unavailable):
            return await bench.reserve(order)


async def test_two_hundred_reservations_of_ten_units_hold_exactly_ten(bench: ActivityBench) -> None:
    """Ten orders hold one unit each, and the others are out of stock."""
    await bench.set_stock(10)
    rows = await asyncio.gather(*(insist(bench, order_of(f"o{n}", items=ONE_UNIT)) for n in range(200)))

    assert Counter((row.status, row.error_code) for row in rows) == {
        ("pending", None): 10,
        ("rejected", "out_of_stock"): 190,
    }
    assert await bench.stock() == (0, 10)
    await check_stock(bench, TEN)


async def test_carts_in_opposite_order_do_not_deadlock(bench: ActivityBench) -> None:
    """Rows are locked in product order, whatever the order of the cart; no attempt fails."""
    cart = [{"productId": product, "quantity": 1} for product in ("1", "2", "3", "4")]
    orders = [order_of(f"o{n}", items=cart if n % 2 else cart[::-1]) for n in range(30)]
    rows = await asyncio.gather(*(bench.reserve(order) for order in orders))
    await asyncio.gather(*(bench.claim_undo(order) for order in orders[::2]))

    assert {row.status for row in rows} == {"pending"}
    await check_stock(bench)


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
