"""Low stock: which products there are, and one message about each shortage to the people who reorder.

A shortage is known by its number, which `inventory` counts up whenever a product comes back above its reorder level.
Whoever tells of it leases it first, so that nobody else does, and marks it as told afterwards.
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

from gateways.http import CLIENT_ERRORS, accept, post_json
from gateways.postgres import Database
from gateways.slack import compose, plain
from orders.errors import Permanent, Unavailable
from orders.money import DECIMALS, to_json_number
from orders.stock import LowStockItem, Posted, StockReport

LEASE: Final = timedelta(seconds=60)  # longer than an attempt may take
LOOK_AGAIN: Final = timedelta(seconds=1)
GONE: Final = {404, 410}  # the webhook or its channel: the run says so at once, and the next one tries again
MAX_LIST: Final = 1024 * 1024  # bytes; Temporal takes payloads of up to 2 MiB

FIND_LOW: Final = """
    SELECT i.product_id, p.name AS product_name, i.quantity, i.reorder_level, p.price, p.currency,
        count(*) OVER () AS low
    FROM inventory i JOIN products p ON p.id = i.product_id
    WHERE i.quantity <= i.reorder_level
    ORDER BY i.quantity, i.product_id
    LIMIT $1
"""

UNTOLD_LOW: Final = """
    FROM inventory i
    JOIN products p ON p.id = i.product_id
    LEFT JOIN stock_alerts a ON a.product_id = i.product_id
    WHERE i.quantity <= i.reorder_level
    AND (a.sent_at IS NULL OR a.sent_at <= now() - $1::interval OR a.shortage < i.shortage)
"""

# The scarcest first. Rows are locked in product order, as everywhere, and none of them is one that orders lock. The
# condition is repeated for a row that somebody else has leased or told since this statement began to read.
LEASE_UNTOLD: Final = f"""
    WITH due AS (
        SELECT i.product_id, p.name, i.quantity, i.reorder_level, i.shortage {UNTOLD_LOW}
        AND (a.leased_until IS NULL OR a.leased_until <= now())
        ORDER BY i.quantity, i.product_id
        LIMIT $2
    ), leased AS (
        INSERT INTO stock_alerts AS a (product_id, shortage, lease, leased_until)
        SELECT product_id, shortage, $3::uuid, now() + $4::interval FROM due ORDER BY product_id
        ON CONFLICT (product_id) DO UPDATE
        SET shortage = excluded.shortage,
            sent_at = CASE WHEN a.shortage = excluded.shortage THEN a.sent_at END,
            lease = excluded.lease,
            leased_until = excluded.leased_until
        WHERE (a.sent_at IS NULL OR a.sent_at <= now() - $1::interval OR a.shortage < excluded.shortage)
        AND (a.leased_until IS NULL OR a.leased_until <= now())
        RETURNING a.product_id
    )
    SELECT product_id, name, quantity, reorder_level FROM due JOIN leased USING (product_id)
    ORDER BY quantity, product_id
"""  # noqa: S608 (a constant of ours)

IS_ANY_UNTOLD: Final = f"SELECT EXISTS (SELECT {UNTOLD_LOW})"

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


class Shortage(NamedTuple):
    """A product that runs short, in units."""

    product_id: str
    name: str
    quantity: int
    reorder_level: int

    @property
    def line(self) -> str:
        name = plain(self.name) or plain(self.product_id)
        return f"• {name}: {self.quantity} units (reorder level {self.reorder_level})"


class StockAlerts:
    """A shortage is told once, and again when it still goes on after `realert`.

    Slack's webhook knows no idempotency key. Where its answer is lost, where the worker or PostgreSQL dies between that
    answer and our record of it, or where an attempt is held up beyond its lease, the message may be posted again: at
    least once in these cases, exactly once in all others.

    Raises, in all activities:
        Unavailable: PostgreSQL or Slack.
        Permanent: Slack refuses the message, or the webhook is gone.
    """

    def __init__(self, database: Database, http: httpx.AsyncClient, slack: SecretStr, realert: timedelta) -> None:
        self._database = database
        self._http = http
        self._slack = slack
        self._realert = realert

    @activity.defn
    async def find_shortages(self, most: int) -> StockReport:
        """Every low product, told or not; at most so many of them are listed."""
        async with self._database.transaction() as connection:
            records = await connection.fetch(FIND_LOW, most)
        items = list(_first_of([_item(record) for record in records]))
        return StockReport(low_stock_items=items, unlisted=records[0]["low"] - len(items) if records else 0)

    @activity.defn
    async def post_shortages(self, most: int) -> Posted | None:
        """Post one message about the scarcest products that nobody was told of, at most so many; None: there are none.

        It reads the shelves anew, so that a message held up by an outage says what is the case when it gets through.

        Raises:
            Unavailable: also while somebody else is alerts the rest, who may yet fail.
        """
        lease = uuid4()
        if not (shortages := await self._lease(lease, most)):
            return None
        body, named = compose("⚠️ Low Stock Alert", "Low Stock Items", (shortage.line for shortage in shortages))
        try:
            accept(
                "slack",
                await post_json(self._http, "slack", self._slack.get_secret_value(), body, {}),
                CLIENT_ERRORS | GONE,
            )
        except (Unavailable, Permanent):
            with suppress(Unavailable):  # it lapses by itself
                await self._end(lease, [])
            raise
        await self._end(lease, shortages[:named])
        return Posted(products=named)

    async def _lease(self, lease: UUID, most: int) -> list[Shortage]:
        async with self._database.transaction() as connection:
            records = await connection.fetch(LEASE_UNTOLD, self._realert, most, lease, LEASE)
            if not records and await connection.fetchval(IS_ANY_UNTOLD, self._realert):
                raise Unavailable(
                    "another run is alerts the rest", type="shortages_leased", retry_after=LOOK_AGAIN, expected=True
                )
        return [Shortage(**record) for record in records]

    async def _end(self, lease: UUID, told: Sequence[Shortage]) -> None:
        """Give up the lease, and mark what was told of those that it held."""
        async with self._database.transaction() as connection:
            await connection.execute(END_LEASE, lease, [shortage.product_id for shortage in told])


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
    """As many as one payload has room for."""
    sizes = accumulate(len(item.model_dump_json().encode()) for item in items)
    return (item for item, size in zip(items, sizes, strict=True) if size <= MAX_LIST)
