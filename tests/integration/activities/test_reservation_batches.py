"""Orders that are reserved together: each ends as if it were alone, and all of them cost as much as one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities import inventory
from activities.inventory import Inventory
from gateways.postgres import LOCKED, REFUSED
from orders.errors import Unavailable
from orders.models import ChargeType, Order, OrderCharge, OrderRow
from tests.support.activity_bench import ActivityBench, Gate, open_activity_bench, open_clients, order_of
from tests.support.invariants import SEEDED, check_stock
from tests.support.shop import PATIENCE, eventually, settings_for

FIRST = order_of("first", items=[{"productId": "4", "quantity": 1}])
INSERT_OTHERS = """
    INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms)
    VALUES ($1, 'c', '', 'failed', 'usd', 'manual', '{}')
"""


def one_of(product: str, order_id: str, quantity: int = 1, **changes: Any) -> Order:
    return order_of(order_id, items=[{"productId": product, "quantity": quantity}], **changes)


def spoiled(order: Order, **changes: Any) -> Order:
    """The order with a line or a field that no parser lets through, and that PostgreSQL refuses."""
    line = order.lines[0].model_copy(update={"quantity": changes.pop("quantity", 1)})
    fee = OrderCharge(type=ChargeType.FEE, amount=100_000)  # that the total is not below zero
    return order.model_copy(update={"lines": (line,), "charges": (fee,), **changes})


async def together(bench: ActivityBench, *orders: Order) -> list[Any]:
    """What becomes of the orders in one batch: another order is being reserved when they arrive."""
    attempts = [bench.do(Inventory.reserve_stock, order.reservation, run=order.id) for order in (FIRST, *orders)]
    return (await asyncio.gather(*attempts, return_exceptions=True))[1:]


async def test_a_batch_of_fifty_costs_as_many_statements_as_one_order(bench: ActivityBench) -> None:
    """Whatever becomes of them, and however many lines they have."""
    await bench.reserve(FIRST)
    bench.database.statements.clear()
    await bench.reserve(one_of("1", "alone"))
    alone = len(bench.database.statements)
    bench.database.statements.clear()
    carts = [{"productId": product, "quantity": 1} for product in ("1", "2", "3")]
    rows = await together(bench, *(order_of(f"o{n}", items=carts) for n in range(49)), one_of("99", "unknown"))

    assert alone == 5
    assert len(bench.database.statements) == 2 * alone  # the order that was being reserved when they arrived, and they
    assert Counter(row.error_code for row in rows) == {None: 40, "out_of_stock": 9, "unknown_product": 1}
    await check_stock(bench)


async def test_a_batch_runs_out_of_stock_in_the_order_of_arrival(bench: ActivityBench) -> None:
    """Each order finds what the ones before it leave, and none of them makes the transaction fail."""
    await bench.set_stock(5)
    await bench.reserve(FIRST)
    bench.database.statements.clear()
    rows = await together(bench, *(one_of("1", f"o{n}", quantity) for n, quantity in enumerate((2, 4, 2, 2, 1))))

    assert [row.error for row in rows] == [
        None,
        "product 1: 4 wanted, 3 available",
        None,
        "product 1: 2 wanted, 1 available",
        None,
    ]
    assert await bench.stock() == (0, 5)
    assert bench.database.statements.count(bench.database.statements[0]) == 2  # transactions, the first one's included


async def test_repeats_in_one_batch_agree(bench: ActivityBench) -> None:
    """The first payload counts, the others see by its hash that theirs is another one."""
    order, other = one_of("1", "o1"), one_of("2", "o1")
    rows = await together(bench, order, other, order, one_of("1", "o2"))

    assert rows[0] == rows[1] == rows[2] == await bench.reserve(order)
    assert rows[0].request_hash == order.request_hash != other.request_hash
    assert (await bench.stock(), await bench.stock("2")) == ((98, 2), (40, 0))
    assert await bench.events("o1") == ["pending"]


async def test_each_order_of_a_batch_has_its_own_event(bench: ActivityBench) -> None:
    """It names the run of the order, not that of the order that decided for all."""
    await together(bench, one_of("1", "o1"), one_of("99", "o2"))
    events = await bench.pool.fetch("SELECT order_id, actor, to_status, why FROM order_events ORDER BY order_id")
    assert [tuple(event) for event in events] == [
        ("first", "first", "pending", "stock reserved"),
        ("o1", "o1", "pending", "stock reserved"),
        ("o2", "o2", "rejected", "unknown_product"),
    ]


@pytest.mark.parametrize("changes", [{"quantity": -5}, {"customer_id": "a\0b"}], ids=["negative", "NUL"])
async def test_an_order_that_postgres_refuses_fails_alone(bench: ActivityBench, changes: dict[str, Any]) -> None:
    """The orders before and after it are reserved."""
    await bench.set_stock(1000)
    orders = [one_of("1", f"o{n}") for n in range(6)]
    orders[3] = spoiled(orders[3], **changes)
    rows = await together(bench, *orders)
    error = rows.pop(3)

    assert isinstance(error, Unavailable)
    assert error.type == REFUSED
    assert [getattr(row, "status", row) for row in rows] == ["pending"] * 5
    assert await bench.stock() == (1000 - 5, 5)
    assert await bench.status("o3") is None
    await check_stock(bench, SEEDED | {"1": 1000})


async def test_a_locked_product_holds_up_its_own_orders_only(
    bench: ActivityBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only the first batch waits for it: the next ones look first whether it is free."""
    monkeypatch.setattr(inventory, "REMEMBER_SECONDS", PATIENCE)
    await bench.reserve(FIRST)
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute("SELECT 1 FROM inventory WHERE product_id = '1' FOR UPDATE")
        for n in range(2):
            orders = [one_of("12"[number % 2], f"o{n}-{number}") for number in range(4)]
            busy, second, also_busy, fourth = await together(bench, *orders)
            assert [busy.type, also_busy.type] == ["stock_busy"] * 2
            assert [second.status, fourth.status] == ["pending"] * 2
        bench.database.statements.clear()
        with pytest.raises(Unavailable, match="stock_busy"):
            await bench.reserve(one_of("1", "o1"))
        assert len(bench.database.statements) == 1

    assert (await bench.reserve(one_of("1", "o1"))).status == "pending"
    await check_stock(bench)


async def test_a_product_that_was_locked_is_waited_for_again(
    bench: ActivityBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that only looked whether it is free would never get a row that others wait for."""
    monkeypatch.setattr(inventory, "REMEMBER_SECONDS", 0)
    monkeypatch.setattr(inventory, "LIMIT_LOCKS", f"SET LOCAL lock_timeout = '{PATIENCE}s'")
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute("SELECT 1 FROM inventory WHERE product_id = '1' FOR UPDATE")
        with monkeypatch.context() as soon:
            soon.setattr(inventory, "LIMIT_LOCKS", "SET LOCAL lock_timeout = '10ms'")
            with pytest.raises(Unavailable, match="stock_busy"):
                await bench.reserve(one_of("1", "o1"))
        attempt = asyncio.create_task(bench.reserve(one_of("1", "o1")))
        await eventually(lambda: waits_for_a_lock(bench), "the order waits for the product")
    assert (await attempt).status == "pending"


async def waits_for_a_lock(bench: ActivityBench) -> bool:
    found: bool = await bench.pool.fetchval("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")
    return found


async def test_an_order_that_another_session_writes_holds_up_no_other(bench: ActivityBench) -> None:
    """Nobody can see which order the batch waits for, so halves of it are tried."""
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute(INSERT_OTHERS, "o1")
        first, locked, third, fourth = await together(bench, *(one_of("1", f"o{n}") for n in range(4)))

    assert locked.type == LOCKED
    assert {first.status, third.status, fourth.status} == {"pending"}
    assert (await bench.reserve(one_of("1", "o1"))).status == "failed"
    assert await bench.stock() == (97, 3)


async def test_an_attempt_that_is_canceled_in_its_transaction_leaves_the_others(bench: ActivityBench) -> None:
    """Another attempt decides for those that are left."""
    gate = bench.database.gate = Gate(before=2)
    orders = [FIRST, *(one_of("1", f"o{n}") for n in range(4))]
    attempts = [asyncio.create_task(bench.reserve(order)) for order in orders]
    await gate.reached.wait()
    attempts[1].cancel()
    ends = await asyncio.gather(*attempts, return_exceptions=True)

    assert isinstance(ends.pop(1), asyncio.CancelledError)
    assert {row.status for row in ends if isinstance(row, OrderRow)} == {"pending"}
    assert await bench.status("o0") is None
    assert await bench.stock() == (97, 3)


# ------------------------------------------------------------------------------------------------------ several workers


@pytest.fixture
async def workers(bench: ActivityBench, database_url: str) -> AsyncIterator[list[ActivityBench]]:
    """Two workers of one shop, each with its own pool. A deadlock is found before a lock is given up."""
    settings = settings_for(f"{database_url}?deadlock_timeout=50ms", bench.sandbox)
    async with (
        open_clients(settings) as clients,
        open_activity_bench(settings, bench.sandbox, clients) as one,
        open_activity_bench(settings, bench.sandbox, clients) as two,
    ):
        yield [one, two]


async def test_two_workers_sell_exactly_what_is_there(workers: list[ActivityBench]) -> None:
    """Two hundred orders for 60 units, in carts of opposite order, asked twice, with some that PostgreSQL refuses."""
    await workers[0].set_stock(60)
    cart = [{"productId": product, "quantity": 1} for product in ("1", "2")]
    await workers[0].set_stock(10_000, "2")
    orders = [order_of(f"o{n}", items=cart if n % 2 else cart[::-1]) for n in range(200)]
    poison = {f"o{n}" for n in range(0, 200, 25)}
    asked = [spoiled(order, quantity=-1) if order.id in poison else order for order in orders]
    ends = await asyncio.gather(
        *(worker.reserve(order) for order in asked for worker in workers), return_exceptions=True
    )
    ends += await asyncio.gather(*(workers[0].insist(order) for order in orders if order.id not in poison))

    errors = [end for end in ends if not isinstance(end, OrderRow)]
    assert {(type(error), getattr(error, "type", "")) for error in errors} <= {
        (Unavailable, REFUSED),
        (Unavailable, "stock_busy"),
        (Unavailable, LOCKED),
    }
    outcomes = {(row.id, row.status) for row in ends if isinstance(row, OrderRow)}
    assert Counter(status for _, status in outcomes) == {"pending": 60, "rejected": 132}
    assert await workers[0].stock() == (0, 60)
    await check_stock(workers[0], SEEDED | {"1": 60, "2": 10_000})
