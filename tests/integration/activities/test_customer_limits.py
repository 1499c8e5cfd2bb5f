"""One customer cannot hold all of the stock with orders that are not finished."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities.inventory import Inventory
from deploy.local.postgres import Postgres
from orders.models import ErrorCode, Order, Status
from sandbox.server import serve
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients, order_of
from tests.support.invariants import check_stock
from tests.support.servers import copy_database, reset_database
from tests.support.shop import settings_for

SEVEN_OF_ONE = [{"productId": "1", "quantity": 3}, {"productId": "2", "quantity": 4}]


@pytest.fixture(scope="module")
async def module_bench(postgres: Postgres) -> AsyncIterator[ActivityBench]:
    async with copy_database(postgres) as url, serve() as sandbox:
        settings = settings_for(url, sandbox, customer_max_held_orders=3, customer_max_held_units=10)
        async with open_clients(settings) as clients, open_activity_bench(settings, sandbox, clients) as opened:
            yield opened


@pytest.fixture
async def limited(module_bench: ActivityBench) -> ActivityBench:
    """A shop where a customer may have three unfinished orders, and ten units in them."""
    module_bench.world.reset()
    await reset_database(module_bench.pool)
    return module_bench


def an_order_of(customer: str, order_id: str, quantity: int = 1, **changes: Any) -> Order:
    items = [{"productId": "1", "quantity": quantity}]
    return order_of(order_id, **{"customerId": customer, "items": items} | changes)


async def test_the_refusal_names_the_limit(limited: ActivityBench) -> None:
    """Orders and units each have a limit; another customer is not concerned, and nothing is held."""
    for number in range(3):
        assert (await limited.reserve(an_order_of("ann", f"a{number}"))).status is Status.PENDING
    refused = await limited.reserve(an_order_of("ann", "a3"))
    assert (refused.status, refused.error_code) == (Status.REJECTED, ErrorCode.CUSTOMER_LIMIT)
    assert refused.error == "the customer has 3 unfinished orders, the most is 3"

    assert (await limited.reserve(an_order_of("bob", "b0", items=SEVEN_OF_ONE))).status is Status.PENDING
    refused = await limited.reserve(an_order_of("bob", "b1", 4))
    assert refused.error == "the customer orders 4 units and has 7 in unfinished orders, the most is 10"
    assert (await limited.reserve(an_order_of("bob", "b2", 3))).status is Status.PENDING

    refused = await limited.reserve(an_order_of("cid", "c0", 11))
    assert refused.error == "the customer orders 11 units, the most is 10"
    await check_stock(limited)


async def test_a_repeat_is_answered_as_before(limited: ActivityBench) -> None:
    """An order counts once, and what it holds itself does not refuse it."""
    order = an_order_of("ann", "a0", 10)
    first = await limited.reserve(order)
    assert await limited.reserve(order) == first
    assert first.status is Status.PENDING


@pytest.mark.parametrize("end", ["paid", "undone"])
async def test_what_is_finished_does_not_count(limited: ActivityBench, end: str) -> None:
    """What was bought, or given back, makes room."""
    order = an_order_of("cus_123", "a0", 10)
    if end == "paid":
        await limited.bring(order, "finalize")
    else:
        await limited.reserve(order)
        await limited.claim_undo(order)
        await limited.do(Inventory.release_stock, order.id)
    assert (await limited.reserve(an_order_of("cus_123", "a1", 10))).status is Status.PENDING


async def test_many_at_once_keep_the_limit(limited: ActivityBench) -> None:
    """Orders of two customers at two workers, decided in batches: each has exactly as many as it may."""
    orders = [an_order_of(customer, f"{customer}-{number}") for number in range(12) for customer in ("ann", "bob")]
    workers = [limited, limited.another_worker()]
    rows = await asyncio.gather(*(workers[number // 2 % 2].insist(order) for number, order in enumerate(orders)))
    held = Counter(row.customer_id for row in rows if row.status is Status.PENDING)
    assert held == {"ann": 3, "bob": 3}
    assert {row.error_code for row in rows} == {None, ErrorCode.CUSTOMER_LIMIT}
    await check_stock(limited)
