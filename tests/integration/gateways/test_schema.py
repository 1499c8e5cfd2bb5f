"""The schema repeats sets of statuses that orders/models.py defines, and queries with these sets use its indexes."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import pytest

from activities.order_recovery import FIND_UNCONFIRMED, FIND_UNFINISHED
from activities.reconciliation import FIND_UNCHECKED
from activities.shipments import FIND_DUE
from activities.verification import FIND_ORDERS
from gateways.held_stock import READ_HELD
from orders.models import BEING_UNDONE, CLOSED, KEPT, SETTLED, UNFINISHED, UNSHIPPED, WITH_PAYMENT, Status
from tests.support.activity_bench import ActivityBench, order_of

# Every CHECK and every partial index of the table orders that lists statuses.
LISTS: Final = {
    "orders_status_check": set(Status),
    "orders_closing_check": CLOSED,
    "orders_with_payment": WITH_PAYMENT,
    "orders_being_undone": BEING_UNDONE,
    "orders_unfinished": UNFINISHED,
    "orders_unfinished_of_customer": UNFINISHED,
    "orders_unchecked": SETTLED,
    "orders_requested": CLOSED | UNSHIPPED,
    "orders_placed": KEPT,
}

READ_CONDITIONS: Final = """
    SELECT conname AS name, pg_get_constraintdef(oid) AS condition
    FROM pg_constraint WHERE conrelid = 'orders'::regclass AND contype = 'c'
    UNION ALL
    SELECT indexrelid::regclass::text, pg_get_expr(indpred, indrelid)
    FROM pg_index WHERE indrelid = 'orders'::regclass AND indpred IS NOT NULL
"""

ADD_SETTLED: Final = """
    INSERT INTO orders (id, customer_id, request_hash, status, total, currency, capture_mode, terms, payment_intent_id,
        payment_checked_at, created_at)
    SELECT 'o' || n, 'c', '', 'processing', 100, 'usd', 'manual', '{}', 'pi' || n, now(), now() - interval '1 day'
    FROM generate_series(1, 5000) n
"""

HOUR: Final = timedelta(hours=1)
SWEEPS: Final[dict[str, tuple[str, tuple[Any, ...]]]] = {
    "orders_unfinished_of_customer": (READ_HELD, (["somebody"], UNFINISHED)),
    "orders_unfinished": (FIND_UNFINISHED, (HOUR, datetime(1970, 1, 1, tzinfo=UTC), "", 100, UNFINISHED)),
    "orders_unchecked": (FIND_UNCHECKED, (HOUR, "", 20, SETTLED)),
    "orders_created": (FIND_ORDERS, (HOUR, 10_001, UNFINISHED)),
    "orders_requested": (FIND_DUE, (HOUR, "", 20, CLOSED, UNSHIPPED)),
    "orders_placed": (FIND_UNCONFIRMED, (HOUR, KEPT, datetime(1970, 1, 1, tzinfo=UTC), "", 100)),
}


async def test_the_schema_lists_the_statuses_of_the_code(bench: ActivityBench) -> None:
    """A new status, or one that moves to another set, is not forgotten in a CHECK or in the predicate of an index."""
    listed = {}
    for record in await bench.pool.fetch(READ_CONDITIONS):
        words = set(re.findall(r"'([a-z]+)'::text", record["condition"]))
        if len(words) > 1 and words & set(Status):
            listed[record["name"]] = words
    assert listed == LISTS


@pytest.mark.parametrize("currency", ["USD", "usd ", "us", "", "ＵＳＤ"])  # noqa: RUF001 (wide letters)
@pytest.mark.parametrize("table", ["products", "orders"])
async def test_a_currency_is_in_lower_case(bench: ActivityBench, table: str, currency: str) -> None:
    """As Stripe and the edge write it: an order in `usd` would not find a product in `USD`."""
    await bench.bring(order_of(), "reserve")
    with pytest.raises(asyncpg.CheckViolationError, match=f"{table}_currency_in_lower_case"):
        await bench.pool.execute(f"UPDATE {table} SET currency = $1", currency)  # noqa: S608


async def test_the_transitions_lead_through_the_statuses_of_the_code(bench: ActivityBench) -> None:
    """Every status can be reached, and only closed and delivered orders keep theirs for ever."""
    rows = await bench.pool.fetch("SELECT from_status, to_status FROM order_transitions")
    assert {row["to_status"] for row in rows} == set(Status)
    assert {row["from_status"] for row in rows} == {"absent", *Status} - CLOSED - {Status.DELIVERED}
    assert {row["to_status"] for row in rows if row["from_status"] == "absent"} == CLOSED | {Status.PENDING}


@pytest.mark.parametrize("index", SWEEPS)
async def test_a_sweep_reads_its_index(bench: ActivityBench, index: str) -> None:
    """PostgreSQL plans with the value of the parameter, so it sees that the statuses are those of the predicate."""
    await bench.pool.execute(ADD_SETTLED)
    await bench.pool.execute("ANALYZE orders")
    statement, arguments = SWEEPS[index]
    plan = await bench.pool.fetch(f"EXPLAIN {statement}", *arguments)
    assert index in "\n".join(row[0] for row in plan)
