"""The order row: read it, lock it, move it from status to status, write its events."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from temporalio import activity

from orders.errors import Permanent
from orders.models import ErrorCode, OrderCharge, OrderRow, Status, Terms
from orders.money import to_json_number

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection, Database

COLUMNS: Final = """
    o.id, o.customer_id, o.status, o.total, o.currency, o.terms, o.payment_intent_id, o.fulfillment_id, o.closing,
    o.error_code, o.error, o.parked_step, o.parked_reason, o.parked_by, o.request_hash,
    o.placed_at IS NOT NULL AS placed,
    (
        SELECT r.status FROM refunds r WHERE (r.order_id, r.payment_intent_id) = (o.id, o.payment_intent_id)
        AND (r.refund_id IS NULL OR o.status = 'cancelled')
        ORDER BY r.refund_id IS NULL DESC, r.attempt DESC LIMIT 1
    ) AS refund_status,
    EXISTS (
        SELECT 1 FROM resolutions s WHERE s.order_id = o.id AND s.step = 'void_payment' AND s.action <> 'retry'
    ) AS settled_by_hand,
    EXISTS (
        SELECT 1 FROM order_refunds f JOIN resolutions s USING (order_id)
        WHERE f.order_id = o.id AND f.status <> 'withdrawn' AND s.step = 'refund:' || f.refund_id
        AND s.action = 'resolved'
    ) AS part_paid_by_hand,
    (SELECT count(*) FROM resolutions w WHERE w.order_id = o.id) AS resolution_count
"""

READ: Final = f"SELECT {COLUMNS} FROM orders o WHERE o.id = $1"  # noqa: S608 (a constant of ours)
LOCK: Final = f"{READ} FOR UPDATE OF o"
READ_MANY: Final = f"SELECT {COLUMNS} FROM orders o WHERE o.id = ANY($1::text[])"  # noqa: S608 (a constant of ours)

READ_SHOP_ID: Final = "SELECT id::text FROM shop"

COUNT_RETRIES: Final = "SELECT count(*) FROM resolutions WHERE order_id = $1 AND step = $2 AND action = 'retry'"

READ_LINES: Final = "SELECT product_id, quantity, price FROM order_items WHERE order_id = $1 ORDER BY product_id"

READ_CHARGES: Final = "SELECT type, name, amount FROM order_charges WHERE order_id = $1 ORDER BY position"

# The one statement that changes a status. A parked row waits for an operator: no late attempt moves it.
MOVE: Final = """
    WITH moved AS (
        UPDATE orders
        SET status = $3,
            closing = coalesce($4, closing),
            error_code = coalesce($5, error_code),
            error = coalesce($6, error),
            placed_at = CASE WHEN $3 = 'processing' THEN now() ELSE placed_at END,
            cancelled_at = CASE WHEN $3 = 'cancelled' THEN now() END,
            payment_checked_at = NULL,
            shipment_checked_at = NULL
        WHERE id = $1 AND status = $2 AND parked_step IS NULL
        RETURNING id
    )
    INSERT INTO order_events (order_id, from_status, to_status, actor, why)
    SELECT id, $2, $3, $7, $8 FROM moved
    RETURNING order_id
"""

WRITE_EVENT: Final = "INSERT INTO order_events (order_id, actor, why) VALUES ($1, $2, $3)"

# The next attempt after a lost answer comes within minutes, and writes nothing. The same event later is a new one.
WRITE_EVENT_ONCE: Final = """
    INSERT INTO order_events (order_id, actor, why) SELECT $1, $2, $3
    WHERE NOT EXISTS (
        SELECT 1 FROM order_events WHERE (order_id, actor, why) = ($1, $2, $3) AND at > now() - interval '10 minutes'
    )
"""

READ_RESOLUTION: Final = """
    SELECT action, reason, actor FROM resolutions
    WHERE order_id = $1 AND step = $2 AND action <> 'retry'
    ORDER BY id DESC LIMIT 1
"""


class FinalResolution(NamedTuple):
    """An operator's resolution that ends a step: `action` is `skip` or `resolved`, `text` is all of it for people."""

    action: str
    text: str


def to_row(record: "asyncpg.Record") -> OrderRow:
    fields = {name: record[name] for name in OrderRow.model_fields if name in record and name != "terms"}
    return OrderRow(**fields, terms=Terms.model_validate_json(record["terms"]))


async def read_row(connection: "Connection", order_id: str) -> OrderRow | None:
    record = await connection.fetchrow(READ, order_id)
    return to_row(record) if record else None


async def row_as_it_is(connection: "Connection", order_id: str) -> OrderRow:
    """The row of an order, not locked: it may have changed by the time the caller acts. For what decides nothing.

    A lock would be a commit that waits for the disk.

    Raises:
        Permanent: there is no such order.
    """
    return _present(await connection.fetchrow(READ, order_id), order_id)


async def read_rows(connection: "Connection", order_ids: Iterable[str]) -> dict[str, OrderRow]:
    """Those of the orders that exist, by their ids."""
    return {record["id"]: to_row(record) for record in await connection.fetch(READ_MANY, list(order_ids))}


async def read_shop_id(database: "Database") -> str:
    """The id of this shop: every payment that it creates carries it, and every idempotency key begins with it.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        return str(await connection.fetchval(READ_SHOP_ID))


async def lock_row(connection: "Connection", order_id: str) -> OrderRow:
    """The row of an order, locked until the transaction ends, as it is once others have let it go.

    A transaction that decides by the row takes the lock first; one that has changed it reads what came of that.

    Raises:
        Permanent: there is no such order.
    """
    return _present(await connection.fetchrow(LOCK, order_id), order_id)


def _present(record: "asyncpg.Record | None", order_id: str) -> OrderRow:
    if record is None:
        raise Permanent(f"order {order_id} does not exist", type="order_absent")
    return to_row(record)


async def read_items(connection: "Connection", row: OrderRow) -> list[dict[str, object]]:
    """The order's lines in the form that external services get."""
    return [
        {
            "productId": line["product_id"],
            "quantity": line["quantity"],
            "price": to_json_number(line["price"], row.currency),
            "currency": row.currency,
        }
        for line in await connection.fetch(READ_LINES, row.id)
    ]


async def read_charges(connection: "Connection", order_id: str) -> list[OrderCharge]:
    """What the order costs beside its lines, in the order in which the customer reads it."""
    return [OrderCharge(**dict(charge)) for charge in await connection.fetch(READ_CHARGES, order_id)]


async def move_row(  # noqa: PLR0913 (one transition has that many columns)
    connection: "Connection",
    order_id: str,
    before: Status,
    after: Status,
    why: str,
    *,
    closing: Status | None = None,
    error_code: ErrorCode | None = None,
    error: str | None = None,
) -> bool:
    """Move the row from one status to another and write the event. False: the row has another status, or is parked.

    Raises:
        asyncpg.ForeignKeyViolationError: order_transitions does not have this transition.
    """
    moved = await connection.fetchval(MOVE, order_id, before, after, closing, error_code, error, actor(), why)
    return moved is not None


async def write_event(connection: "Connection", order_id: str, why: str) -> None:
    """Write an event that changes no status."""
    await connection.execute(WRITE_EVENT, order_id, actor(), why)


async def write_event_once(connection: "Connection", order_id: str, why: str) -> None:
    """The same, for a caller whose second attempt nothing else stops from writing it again."""
    await connection.execute(WRITE_EVENT_ONCE, order_id, actor(), why)


async def read_resolution(connection: "Connection", order_id: str, step: str) -> FinalResolution | None:
    """The operator's last resolution that ends the step; None if there is none."""
    record = await connection.fetchrow(READ_RESOLUTION, order_id, step)
    if record is None:
        return None
    return FinalResolution(record["action"], f"{record['action']} by {record['actor']}: {record['reason']}")


async def count_retries(connection: "Connection", order_id: str, step: str) -> int:
    """How often an operator allowed the undo of a step once more: each business attempt has its own idempotency key."""
    count: int = await connection.fetchval(COUNT_RETRIES, order_id, step)
    return count


def actor() -> str:
    """Who acts, for order_events: the workflow id of the run that called the activity, or the web process."""
    return (activity.info().workflow_id or "?") if activity.in_activity() else "webhooks"
