"""What the database says of orders, for people: see orders.order_report."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gateways.order_store import read_charges
from gateways.parcel_store import READ as READ_PARCELS
from gateways.warning_store import read_warnings
from orders.models import BEING_UNDONE, Status
from orders.money import MAX_AMOUNT, MIN_AMOUNT
from orders.order_report import (
    KeptRefund,
    KeptResolution,
    KeptWarning,
    ListedOrder,
    OrderReport,
    ParkedStep,
    SentNotification,
    SentParcel,
)

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Database

COLUMNS: Final = """
    o.id, o.status, o.total, o.currency, o.created_at, o.parked_step, o.parked_reason, o.parked_by,
    o.total > 0 OR EXISTS (SELECT FROM order_items l WHERE l.order_id = o.id) AS priced,
    (
        SELECT max(e.at) FROM order_events e
        WHERE e.order_id = o.id AND starts_with(e.why, concat('parked at ', o.parked_step, ':'))
    ) AS parked_since
"""

LIST: Final = f"""
    SELECT {COLUMNS} FROM orders o
    WHERE ($1::text IS NULL OR o.status = $1) AND ($2::text IS NULL OR o.customer_id = $2)
    ORDER BY o.created_at DESC, o.id LIMIT $3
"""  # noqa: S608 (a constant of ours)

LIST_NAMED: Final = f"SELECT {COLUMNS} FROM orders o WHERE o.id = ANY($1::text[])"  # noqa: S608 (a constant of ours)

LIST_PARKED: Final = f"""
    SELECT {COLUMNS} FROM orders o
    WHERE o.status = ANY($1::text[]) AND o.parked_step IS NOT NULL ORDER BY o.created_at LIMIT $2
"""  # noqa: S608 (a constant of ours)

READ: Final = f"""
    SELECT {COLUMNS}, o.customer_id, o.capture_mode, o.payment_intent_id AS payment_intent, o.fulfillment_id,
           o.fulfillment_requested_at IS NOT NULL AS fulfillment_requested, o.error_code, o.error, o.placed_at
    FROM orders o WHERE o.id = $1
"""  # noqa: S608 (a constant of ours)

MOST_IN_STOCK: Final = """
    SELECT p.id, p.price, p.currency FROM products p JOIN inventory i ON i.product_id = p.id
    JOIN unnest($1::text[], $2::bigint[]) AS payable (currency, least) ON payable.currency = p.currency
    WHERE i.quantity >= $4 AND p.price BETWEEN payable.least AND $3 ORDER BY i.quantity DESC, p.id LIMIT 1
"""

READ_REFUNDS: Final = """
    SELECT status, sum(amount)::bigint AS amount FROM refunds
    WHERE order_id = $1 AND payment_intent_id = $2 GROUP BY status
"""

READ_NOTIFICATIONS: Final = """
    SELECT concat_ws(':', kind, nullif(about, '')) AS kind, state, detail, at FROM notifications
    WHERE order_id = $1 ORDER BY at, kind
"""

READ_PARTIAL_REFUNDS: Final = """
    SELECT refund_id, amount, status, refusal, reason, restocked, at,
           (
               SELECT coalesce(sum(l.restock), 0) FROM order_refund_lines l
               WHERE (l.order_id, l.refund_id) = (r.order_id, r.refund_id)
           ) AS restock
    FROM order_refunds r WHERE order_id = $1 ORDER BY at, refund_id
"""

READ_RESOLUTIONS: Final = "SELECT step, action, reason, actor, at FROM resolutions WHERE order_id = $1 ORDER BY id"


async def read_report(database: "Database", order_id: str) -> OrderReport | None:
    """All that is known of one order; None: it has no row.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(READ, order_id)
        if row is None:
            return None
        refunds = await connection.fetch(READ_REFUNDS, order_id, row["payment_intent"])
        return OrderReport(
            **dict(row),
            parked=_parked(row),
            refunds={each["status"]: each["amount"] for each in refunds},
            charges=tuple(await read_charges(connection, order_id)),
            partial_refunds=tuple(
                KeptRefund(**dict(each)) for each in await connection.fetch(READ_PARTIAL_REFUNDS, order_id)
            ),
            parcels=tuple(
                SentParcel(**dict(each) | {"lines": json.loads(each["lines"] or "{}")})
                for each in await connection.fetch(READ_PARCELS, order_id)
            ),
            notifications=tuple(
                SentNotification(**dict(each)) for each in await connection.fetch(READ_NOTIFICATIONS, order_id)
            ),
            warnings=tuple(KeptWarning(**dict(each)) for each in await read_warnings(connection, order_id)),
            resolutions=tuple(
                KeptResolution(**dict(each)) for each in await connection.fetch(READ_RESOLUTIONS, order_id)
            ),
        )


async def list_orders(
    database: "Database", *, status: Status | None = None, customer: str | None = None, limit: int = 50
) -> list[ListedOrder]:
    """The newest orders, or those of one status, or of one customer.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        return [_listed(row) for row in await connection.fetch(LIST, status, customer, limit)]


async def find_parked(
    database: "Database", order_ids: Sequence[str], limit: int
) -> tuple[dict[str, ListedOrder], list[ListedOrder], bool]:
    """Those of the orders that exist, by their ids; the orders that are parked, whichever they are, oldest first.

    The last value tells whether more are parked than `limit`.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        named = [_listed(row) for row in await connection.fetch(LIST_NAMED, order_ids)]
        parked = [_listed(row) for row in await connection.fetch(LIST_PARKED, BEING_UNDONE, limit + 1)]
    return {each.id: each for each in named}, parked[:limit], len(parked) > limit


async def find_sellable(database: "Database", units: int) -> tuple[str, int, str] | None:
    """The product of which most units are in stock, its price in minor units, its currency; None: there is none.

    At least `units` are in stock, and the payment provider takes the price of one.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(MOST_IN_STOCK, [*MIN_AMOUNT], [*MIN_AMOUNT.values()], MAX_AMOUNT, units)
    return (row["id"], row["price"], row["currency"]) if row else None


def _listed(row: "asyncpg.Record") -> ListedOrder:
    return ListedOrder(**{name: row[name] for name in ListedOrder.model_fields if name in row}, parked=_parked(row))


def _parked(row: "asyncpg.Record") -> ParkedStep | None:
    if row["parked_step"] is None:
        return None
    return ParkedStep(
        step=row["parked_step"],
        reason=row["parked_reason"] or "",
        run=row["parked_by"] or "",
        since=row["parked_since"],
    )
