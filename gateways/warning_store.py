"""Disputes, early fraud warnings and reviews of payments, as the table `payment_warnings` keeps them."""

from typing import TYPE_CHECKING, Final

from gateways.order_store import write_event
from orders.models import OrderRow, PaymentWarning

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection

# Statuses that do not change any more: of a dispute, of an early fraud warning, of a review.
OVER: Final = frozenset({"won", "lost", "warning_closed", "prevented", "not_actionable", "closed"})

# A caller that read an earlier status comes too late.
KEEP: Final = """
    INSERT INTO payment_warnings AS w (id, order_id, kind, status, reason, amount) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (id) DO UPDATE SET status = excluded.status
    WHERE w.status <> excluded.status AND w.status <> ALL($7::text[])
    RETURNING id
"""

READ: Final = "SELECT id, kind, status, reason, amount, at FROM payment_warnings WHERE order_id = $1 ORDER BY at"

# All that are open, until an operator settles them, and first of all those whose status was never reported.
FIND: Final = """
    SELECT w.id, w.order_id, w.kind, w.status, w.reason, w.amount, o.currency, o.status AS order_status,
           w.status <> ALL($2::text[]) AS open, r.key IS NOT NULL AS reported
    FROM payment_warnings w JOIN orders o ON o.id = w.order_id
    LEFT JOIN reminders r ON r.key = concat('warning:', w.id, ':', w.status)
    WHERE (w.status <> ALL($2::text[]) OR r.key IS NULL)
      AND NOT EXISTS (SELECT FROM resolutions s WHERE s.order_id = w.order_id AND s.step = 'warning:' || w.id)
    ORDER BY r.key IS NOT NULL, w.at LIMIT $1
"""


async def keep_warning(connection: "Connection", row: OrderRow, warning: PaymentWarning) -> bool:
    """Write what Stripe says of the warning, under the locked row of its order. False: that is known already."""
    kept = await connection.fetchval(
        KEEP, warning.id, row.id, warning.kind, warning.status, warning.reason, warning.amount, OVER
    )
    if kept:
        await write_event(connection, row.id, f"{warning.kind} {warning.id} {warning.status} ({warning.reason})")
    return kept is not None


async def find_warnings(connection: "Connection", limit: int) -> list["asyncpg.Record"]:
    """Warnings that operators must know of: those that are open, and those whose end was not reported."""
    return await connection.fetch(FIND, limit, OVER)


async def read_warnings(connection: "Connection", order_id: str) -> list["asyncpg.Record"]:
    """The warnings about the payment of an order, oldest first."""
    return await connection.fetch(READ, order_id)
