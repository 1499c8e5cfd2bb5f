"""Products with low stock, and the messages about them to the operators who reorder.

`inventory` counts how often a product recovered: came back above its reorder level. A product that is low again after
that is alerted again. An attempt leases a product before it posts a message about it, so that no other attempt does,
and marks it as sent afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import accumulate
from typing import Final, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import httpx
from pydantic import SecretStr
from temporalio import activity

from gateways.http import CLIENT_ERRORS
from gateways.postgres import Database
from gateways.slack import compose, plain, post
from orders.errors import Permanent, Unavailable
from orders.money import DECIMALS, to_json_number
from orders.stock import LowStockItem, Posted, StockReport

LEASE: Final = timedelta(seconds=60)  # longer than an attempt may take
RETRY_LEASE: Final = timedelta(seconds=1)
WEBHOOK_GONE: Final = {404, 410}  # HTTP statuses: it or its channel does not exist; the next run tries again
MAX_LIST: Final = 1024 * 1024  # bytes; Temporal accepts payloads of up to 2 MiB

FIND_LOW: Final = """
    SELECT i.product_id, p.name AS product_name, i.quantity, i.reorder_level, p.price, p.currency,
        count(*) OVER () AS low
    FROM inventory i JOIN products p ON p.id = i.product_id
    WHERE i.quantity <= i.reorder_level
    ORDER BY i.quantity, i.product_id
    LIMIT $1
"""

UNSENT: Final = """
    FROM inventory i
    JOIN products p ON p.id = i.product_id
    LEFT JOIN stock_alerts a ON a.product_id = i.product_id
    WHERE i.quantity <= i.reorder_level
    AND (a.sent_at IS NULL OR a.sent_at <= now() - $1::interval OR a.recoveries < i.recoveries)
"""

# The scarcest products first. Rows are locked in product order, as everywhere; orders lock none of them. The condition
# is repeated for a row that another attempt has leased or sent since this statement began to read.
LEASE_UNSENT: Final = f"""
    WITH due AS (
        SELECT i.product_id, p.name, i.quantity, i.reorder_level, i.recoveries {UNSENT}
        AND (a.leased_until IS NULL OR a.leased_until <= now())
        ORDER BY i.quantity, i.product_id
        LIMIT $2
    ), leased AS (
        INSERT INTO stock_alerts AS a (product_id, recoveries, lease, leased_until)
        SELECT product_id, recoveries, $3::uuid, now() + $4::interval FROM due ORDER BY product_id
        ON CONFLICT (product_id) DO UPDATE
        SET recoveries = excluded.recoveries,
            sent_at = CASE WHEN a.recoveries = excluded.recoveries THEN a.sent_at END,
            lease = excluded.lease,
            leased_until = excluded.leased_until
        WHERE (a.sent_at IS NULL OR a.sent_at <= now() - $1::interval OR a.recoveries < excluded.recoveries)
        AND (a.leased_until IS NULL OR a.leased_until <= now())
        RETURNING a.product_id
    )
    SELECT product_id, name, quantity, reorder_level FROM due JOIN leased USING (product_id)
    ORDER BY quantity, product_id
"""  # noqa: S608 (a constant of ours)

IS_ANY_UNSENT: Final = f"SELECT EXISTS (SELECT {UNSENT})"

END_LEASE: Final = """
    WITH leased AS (
        SELECT product_id FROM stock_alerts WHERE lease = $1 ORDER BY product_id FOR UPDATE
    )
    UPDATE stock_alerts a
    SET sent_at = CASE WHEN a.product_id = ANY($2::text[]) THEN now() ELSE a.sent_at END,
        lease = NULL,
        leased_until = NULL
    FROM leased WHERE a.product_id = leased.product_id
"""


class LowProduct(NamedTuple):
    """A product with low stock, in units."""

    product_id: str
    name: str
    quantity: int
    reorder_level: int

    @property
    def line(self) -> str:
        name = plain(self.name) or plain(self.product_id)
        return f"• {name}: {self.quantity} units (reorder level {self.reorder_level})"


class StockAlerts:
    """One message for each time that a product is low, and another one if it is still low after `realert`.

    Slack's webhook has no idempotency key. A message may be posted twice if Slack's answer is lost, if the worker or
    PostgreSQL dies before the message is marked as sent, or if an attempt takes longer than its lease.

    Raises, in all activities:
        Unavailable: PostgreSQL or Slack.
        Permanent: Slack refuses the message, or the webhook does not exist.
    """

    def __init__(self, database: Database, http: httpx.AsyncClient, slack: SecretStr, realert: timedelta) -> None:
        self._database = database
        self._http = http
        self._slack = slack
        self._realert = realert

    @activity.defn
    async def find_low_stock(self, limit: int) -> StockReport:
        """All products with low stock; at most `limit` of them are listed."""
        async with self._database.transaction() as connection:
            records = await connection.fetch(FIND_LOW, limit)
        items = list(_first_of([_item(record) for record in records]))
        return StockReport(low_stock_items=items, unlisted=records[0]["low"] - len(items) if records else 0)

    @activity.defn
    async def post_low_stock(self, limit: int) -> Posted | None:
        """Post one message about the scarcest unsent products, at most `limit`. None: there are none left.

        Every attempt reads the stock again, so that a message delayed by an outage is correct when it arrives.

        Raises:
            Unavailable: also while another attempt has leased what is left: it may still fail.
        """
        lease = uuid4()
        if not (low := await self._lease(lease, limit)):
            return None
        body, named = compose("⚠️ Low Stock Alert", "Low Stock Items", (product.line for product in low))
        try:
            await post(self._http, self._slack, body, {}, CLIENT_ERRORS | WEBHOOK_GONE)
        except (Unavailable, Permanent):
            with suppress(Unavailable):  # a lease also ends by itself
                await self._end(lease, [])
            raise
        await self._end(lease, low[:named])
        return Posted(products=named)

    async def _lease(self, lease: UUID, limit: int) -> list[LowProduct]:
        async with self._database.transaction() as connection:
            records = await connection.fetch(LEASE_UNSENT, self._realert, limit, lease, LEASE)
            if not records and await connection.fetchval(IS_ANY_UNSENT, self._realert):
                raise Unavailable(
                    "another run has leased the rest", type="low_stock_leased", retry_after=RETRY_LEASE, expected=True
                )
        return [LowProduct(**record) for record in records]

    async def _end(self, lease: UUID, sent: Sequence[LowProduct]) -> None:
        """End the lease, and mark as sent those of its products that were `sent`."""
        async with self._database.transaction() as connection:
            await connection.execute(END_LEASE, lease, [product.product_id for product in sent])


def _item(record: asyncpg.Record) -> LowStockItem:
    currency = record["currency"]
    return LowStockItem(
        product_id=record["product_id"],
        product_name=record["product_name"],
        quantity=record["quantity"],
        reorder_level=record["reorder_level"],
        price=to_json_number(record["price"], currency) if currency in DECIMALS else None,
        currency=currency,
    )


def _first_of(items: Sequence[LowStockItem]) -> Iterator[LowStockItem]:
    """As many of them as fit into one payload."""
    sizes = accumulate(len(item.model_dump_json().encode()) for item in items)
    return (item for item, size in zip(items, sizes, strict=True) if size <= MAX_LIST)
