"""What the sweeps read does not grow with the orders of the past: rows are counted, not seconds."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from activities.inventory import Inventory
from activities.order_recovery import OrderRecovery
from activities.parcels import Parcels
from activities.reconciliation import Reconciliation
from activities.shipments import Shipments
from activities.verification import Verification
from audit.evidence import read_snapshot
from deploy.local.postgres import Postgres
from gateways.gauge_store import read_numbers
from orders.reconciliation import Page
from sandbox.server import serve
from tests.proof.second_opinion import MISCOUNTED
from tests.support.activity_bench import ActivityBench, ObservedDatabase, open_activity_bench, open_clients
from tests.support.servers import copy_database
from tests.support.shop import settings_for

if TYPE_CHECKING:
    from gateways.postgres import Connection

PAST: Final = 5_000  # orders of the last months
MAX_READ: Final = 1_000  # rows that one activity may read
OFTEN: Final = 8  # a prepared statement that was executed five times may get a plan that knows no parameter

# The catalogue and its stock grow with the products, not with the orders.
ROWS_READ: Final = """
    SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint FROM pg_stat_xact_user_tables
    WHERE relname NOT IN ('products', 'inventory', 'reservation_totals', 'stock_alerts', 'product_embeddings')
"""

ADD_PAST: Final = """
    INSERT INTO orders (id, customer_id, request_hash, status, total, currency, capture_mode, terms, payment_intent_id,
        payment_checked_at, shipment_checked_at, cancelled_at, fulfillment_requested_at, created_at)
    SELECT 'o' || n, 'c' || n, '', CASE n % 2 WHEN 0 THEN 'cancelled' ELSE 'delivered' END, 100, 'usd', 'manual', '{}',
        'pi_' || n, now(), now(), CASE n % 2 WHEN 0 THEN now() END, at, at
    FROM generate_series(1, $1::integer) n,
        LATERAL (SELECT now() - interval '3 days' - n * interval '25 minutes') t (at);
"""
ADD_RECENT: Final = """
    INSERT INTO orders (id, customer_id, request_hash, status, total, currency, capture_mode, terms, created_at,
        fulfillment_requested_at, shipment_checked_at)
    SELECT 'recent' || n, 'c' || n, '', 'rejected', 100, 'usd', 'manual', '{}', now() - interval '2 hours',
        now() - interval '2 hours', now()
    FROM generate_series(1, 30) n
"""
ADD_DETAILS: Final = (
    "INSERT INTO order_items SELECT id, '1', 1, 100 FROM orders",
    """INSERT INTO reservations SELECT id, '1', 1, CASE status WHEN 'delivered' THEN 'sold' ELSE 'released' END
    FROM orders""",
    """INSERT INTO order_events (order_id, from_status, to_status, actor, why)
    SELECT o.id, t.from_status, t.to_status, '', '' FROM orders o
    CROSS JOIN (VALUES ('absent', 'pending'), ('pending', 'capturing'), ('capturing', 'processing'))
        t (from_status, to_status)""",
    """INSERT INTO refunds (id, order_id, payment_intent_id, amount, status, attempt, at, checked_at)
    SELECT 're_' || id, id, payment_intent_id, 100, 'succeeded', 1, now() - interval '1 year', now() - interval '1 year'
    FROM orders WHERE payment_intent_id IS NOT NULL""",
    """INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, status, at)
    SELECT id, 'shorted-1', '', 50, 'made', created_at FROM orders WHERE status = 'delivered'""",
    "INSERT INTO order_refund_lines SELECT id, 'shorted-1', '1', 1, 1 FROM orders WHERE status = 'delivered'",
    """INSERT INTO shipments (order_id, id, at, shipped_at, delivered_at)
    SELECT id, 'p1', created_at, created_at, created_at FROM orders WHERE status = 'delivered'""",
    "INSERT INTO shipment_lines SELECT id, 'p1', '1', 1 FROM orders WHERE status = 'delivered'",
    "INSERT INTO shortages SELECT id, 1, false, created_at, created_at FROM orders WHERE status = 'delivered'",
    "INSERT INTO shortage_lines SELECT id, 1, '1', 1 FROM orders WHERE status = 'delivered'",
    # Units that were refunded already, of orders that were not refunded as a whole.
    "UPDATE orders SET total = 1000 WHERE id IN ('o1', 'o3', 'o5')",
    """INSERT INTO shortages SELECT id, 2, false, now() - interval '2 hours'
    FROM orders WHERE id IN ('o1', 'o3', 'o5')""",
    "INSERT INTO shortage_lines SELECT order_id, number, '1', 1 FROM shortages WHERE number = 2",
    "INSERT INTO notifications SELECT id, 'order_confirmation', 'sent' FROM orders",
    "INSERT INTO reminders SELECT 'payment:' || id FROM orders",
    "ANALYZE",
)

SWEEPS: Final[tuple[tuple[Callable[..., Awaitable[Any]], Any], ...]] = (
    (Verification.find_verifiable, 100),
    (Verification.check_stock, 100),
    (Reconciliation.check_payments, ""),
    (Reconciliation.find_orphans, ""),
    (Reconciliation.find_refunds, 100),
    (Reconciliation.find_stuck_refunds, 100),
    (Shipments.check_shipments, ""),
    (OrderRecovery.find_orders_without_run, Page(at=datetime(1970, 1, 1, tzinfo=UTC))),
    (OrderRecovery.find_refunds_without_run, Page(at=datetime(1970, 1, 1, tzinfo=UTC))),
    (OrderRecovery.find_unconfirmed_orders, Page(at=datetime(1970, 1, 1, tzinfo=UTC))),
    (Parcels.notify_parcels, 100),
    (Parcels.refund_shortages, 100),
    (Parcels.find_parcel_problems, 100),
    (Inventory.release_leftovers, 100),
)


class CountingDatabase(ObservedDatabase):
    """Counts the rows that its transactions read."""

    rows_read = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        async with super().transaction() as connection:
            before = await connection.fetchval(ROWS_READ)  # what the session has not reported yet counts too
            yield connection
            self.rows_read += await connection.fetchval(ROWS_READ) - before


@pytest.fixture(scope="module")
async def grown(postgres: Postgres) -> AsyncIterator[ActivityBench]:
    """A shop with many orders in the time that is verified, some of today, and none under way."""
    async with copy_database(postgres) as url, serve() as sandbox:
        settings = settings_for(url, sandbox, verify_window_seconds=30 * 24 * 3600)
        async with (
            open_clients(settings) as clients,
            open_activity_bench(settings, sandbox, clients, CountingDatabase) as bench,
        ):
            await _sweep_often(bench)  # an empty shop: its plans must not outlive it
            await bench.pool.execute(ADD_PAST, PAST, timeout=60)
            await bench.pool.execute(ADD_RECENT)
            for statement in ADD_DETAILS:
                await bench.pool.execute(statement, timeout=60)
            yield bench


async def _sweep_often(bench: ActivityBench) -> None:
    for activity, argument in SWEEPS:
        for _ in range(OFTEN):
            await bench.do(activity, argument)


@pytest.mark.parametrize(("activity", "argument"), SWEEPS, ids=lambda each: getattr(each, "__name__", ""))
async def test_a_sweep_does_not_read_every_order(
    grown: ActivityBench, activity: Callable[..., Awaitable[Any]], argument: object
) -> None:
    """A sweep that reads every order of the past is slower each day, and one day does not end in its time.

    Also once its statements were prepared long ago.
    """
    for _ in range(OFTEN):
        before = counting(grown).rows_read
        await grown.do(activity, argument)
        assert counting(grown).rows_read - before < MAX_READ


async def test_the_evidence_of_some_orders_is_all_that_is_read(grown: ActivityBench) -> None:
    """The check of a page of orders reads their rows alone."""
    before = counting(grown).rows_read
    async with grown.database.transaction() as connection:
        snapshot = await read_snapshot(connection, ["o1", "o2"], stock=False)
    assert len(snapshot.orders) == 2
    assert counting(grown).rows_read - before < MAX_READ


async def test_the_gauges_do_not_read_every_order(grown: ActivityBench) -> None:
    """They are read every few seconds, by every web process."""
    for _ in range(OFTEN):
        before = counting(grown).rows_read
        await read_numbers(grown.database)
        assert counting(grown).rows_read - before < MAX_READ


def counting(bench: ActivityBench) -> CountingDatabase:
    assert isinstance(bench.database, CountingDatabase)
    return bench.database


async def test_the_sums_follow_every_change_of_a_reservation(bench: ActivityBench) -> None:
    """Also a change of its product or its quantity, and its end."""
    await bench.pool.execute(ADD_RECENT)
    changes = (
        "INSERT INTO reservations SELECT id, '1', 2, 'held' FROM orders",
        "INSERT INTO reservations SELECT id, '2', 1, 'sold' FROM orders",
        "UPDATE reservations SET state = 'sold' WHERE order_id IN ('recent1', 'recent2')",
        "UPDATE reservations SET state = 'released' WHERE order_id IN ('recent2', 'recent3')",
        "UPDATE reservations SET quantity = 5 WHERE order_id = 'recent4'",
        "UPDATE reservations SET product_id = '3' WHERE (order_id, product_id) = ('recent5', '1')",
        "DELETE FROM reservations WHERE order_id = 'recent6'",
    )
    for change in changes:
        await bench.pool.execute(change)
        assert await bench.pool.fetch(MISCOUNTED) == []
    assert await bench.pool.fetchval("SELECT held FROM reservation_totals WHERE product_id = '3'") == 2
