"""What the warehouse can never ship of orders, as the tables `shortages` keep it, and whether that is refunded."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from gateways.order_refunds import read_money_left
from gateways.order_store import read_rows, write_event
from gateways.reminders import not_alerted_today
from orders.models import CLOSED, GONE, KEPT, RefundKey
from orders.names import refund_step
from orders.parcels import SHORTAGE_REFUND, Shortage
from orders.refunds import STANDING

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection

READ_SHORTED: Final = """
    SELECT product_id, sum(quantity)::integer AS quantity FROM shortage_lines WHERE order_id = $1 GROUP BY product_id
"""

KEEP_SHORTAGE: Final = """
    WITH kept AS (
        INSERT INTO shortages (order_id, number, restock)
        SELECT $1, 1 + count(*), $4 FROM shortages WHERE order_id = $1 RETURNING order_id, number
    )
    INSERT INTO shortage_lines (order_id, number, product_id, quantity)
    SELECT kept.order_id, kept.number, l.* FROM kept, unnest($2::text[], $3::integer[]) AS l
    RETURNING number
"""

# The fragments below are of a shortage `s`. Values of subqueries: joins, and EXISTS that becomes one, would read the
# rows of all orders.
KEY: Final = "concat('shortage:', s.order_id, ':', s.number)"  # of the alert about it
EMPTY_KEY: Final = "'empty:' || s.order_id"  # of the alert about all of its order

READ_SHORTAGE: Final = f"""
    SELECT s.order_id, s.number, s.restock, {KEY} AS key, (
        SELECT json_object_agg(l.product_id, l.quantity) FROM shortage_lines l
        WHERE (l.order_id, l.number) = (s.order_id, s.number)
    ) AS lines
    FROM shortages s
"""  # noqa: S608 (a constant of ours)

# Of an order `o`: at least so much is claimed, or was refunded in the dashboard or by a cancel. A part that an operator
# has paid is left out, as a refund in the dashboard may have paid it: `_with_money` counts exactly.
SPENT_AT_LEAST: Final = """(
    SELECT coalesce(sum(r.amount), 0) FROM order_refunds r
    WHERE r.order_id = o.id AND r.status <> 'withdrawn' AND (
        SELECT max(w.id) FROM resolutions w
        WHERE (w.order_id, w.step, w.action) = (r.order_id, 'refund:' || r.refund_id, 'resolved')
    ) IS NULL
) + (
    SELECT coalesce(sum(h.amount), 0) FROM refunds h
    WHERE (h.order_id, h.payment_intent_id) = (o.id, o.payment_intent_id)
      AND h.refund_id IS NULL AND h.status = ANY($4::text[])
)"""

# Of a shortage: something of the payment of its order is left. A free order has units to write off all the same.
HAS_MONEY: Final = f"""(
    SELECT o.status = ANY($2::text[]) AND (o.total = 0 OR o.total > {SPENT_AT_LEAST})
    FROM orders o WHERE o.id = s.order_id
)"""  # noqa: S608 (a constant of ours)

# The status of the claim of its refund; null: it was never claimed.
CLAIM: Final = f"""(
    SELECT r.status FROM order_refunds r WHERE (r.order_id, r.refund_id) = (s.order_id, '{SHORTAGE_REFUND}' || s.number)
)"""  # noqa: S608 (a constant of ours)

# An operator has said skip or resolved.
IS_DECIDED: Final = f"""(
    SELECT max(w.id) FROM resolutions w
    WHERE (w.order_id, w.step) = (s.order_id, '{refund_step(SHORTAGE_REFUND)}' || s.number) AND w.action <> 'retry'
) IS NOT NULL"""  # noqa: S608 (a constant of ours)


def _units_of_refunds(counted: str) -> str:
    """The sum over the refunds `r` of a product of a shortage, whose lines are `u`, of the units that are `counted`."""
    return f"""(
        SELECT coalesce(sum((
            SELECT {counted} FROM order_refunds r WHERE (r.order_id, r.refund_id) = (u.order_id, u.refund_id)
        )), 0) FROM order_refund_lines u WHERE (u.order_id, u.product_id) = (l.order_id, l.product_id)
    )"""  # noqa: S608 (constants of ours)


# Units whose money is back, or on its way.
PAID_BACK: Final = _units_of_refunds("CASE WHEN r.status <> 'withdrawn' THEN u.quantity END")

# Units that cannot be refunded again, as order_refunds.READ_UNITS_LEFT counts them.
REFUNDED: Final = _units_of_refunds(
    "CASE WHEN r.status <> 'withdrawn' THEN u.quantity WHEN r.restocked THEN u.restock END"
)

# Some line of a shortage has more units than are left to refund: refund-order would refuse it.
IS_REFUSED: Final = f"""(
    SELECT bool_or(l.quantity + {REFUNDED} > (
        SELECT i.quantity FROM order_items i WHERE (i.order_id, i.product_id) = (l.order_id, l.product_id)
    )) FROM shortage_lines l WHERE (l.order_id, l.number) = (s.order_id, s.number)
)"""  # noqa: S608 (constants of ours)

# It is not known that all of its units are paid back: other refunds of a product may be of other units.
IS_OWED: Final = f"""(NOT {IS_REFUSED} OR (
    SELECT bool_or({PAID_BACK} < (
        SELECT sum(t.quantity) FROM shortage_lines t WHERE (t.order_id, t.product_id) = (l.order_id, l.product_id)
    )) FROM shortage_lines l WHERE (l.order_id, l.number) = (s.order_id, s.number)
))"""  # noqa: S608 (constants of ours)

FIND_UNREFUNDED: Final = f"""
    {READ_SHORTAGE}
    WHERE s.settled_at = 'infinity' AND s.at < now() - $1::interval
      AND {HAS_MONEY} AND {CLAIM} IS NULL AND NOT {IS_DECIDED} AND NOT {IS_REFUSED}
    ORDER BY s.at LIMIT $3
"""

# Not refunded for an hour: nobody has claimed the refund, or it was withdrawn, because less was left than was claimed.
FIND_OWED: Final = f"""
    {READ_SHORTAGE}
    WHERE s.settled_at = 'infinity' AND s.at < now() - greatest($1::interval, interval '1 hour')
      AND {HAS_MONEY} AND coalesce({CLAIM}, 'withdrawn') = 'withdrawn' AND NOT {IS_DECIDED} AND {IS_OWED}
      AND {not_alerted_today(KEY)}
    ORDER BY s.at LIMIT $3
"""

# No cancel refunds what is left of them: something has left, as the warehouse says, and no parcel with units of them.
FIND_EMPTY: Final = f"""
    SELECT DISTINCT s.order_id, {EMPTY_KEY} AS key FROM shortages s
    WHERE s.settled_at > now() - interval '7 days' AND s.at < now() - $1::interval
      AND (SELECT o.status = ANY($2::text[]) AND o.total > {SPENT_AT_LEAST} FROM orders o WHERE o.id = s.order_id)
      AND (SELECT max(p.shipped_at) FROM shipments p WHERE p.order_id = s.order_id) IS NULL
      AND (
          SELECT bool_and(i.quantity = (
              SELECT coalesce(sum(l.quantity), 0) FROM shortage_lines l
              WHERE (l.order_id, l.product_id) = (i.order_id, i.product_id)
          )) FROM order_items i WHERE i.order_id = s.order_id
      )
      AND {not_alerted_today(EMPTY_KEY)}
    ORDER BY s.order_id LIMIT $3
"""  # noqa: S608 (constants of ours)

# A closed order is refunded as a whole. Any other one counts once it has left: a cancel that is refused can take weeks,
# and nothing is refunded meanwhile. What took the money may fail for a month: then the shortage is owed after all.
SETTLE: Final = f"""
    UPDATE shortages s SET settled_at = now()
    WHERE s.settled_at = 'infinity' AND CASE
        WHEN (SELECT o.status FROM orders o WHERE o.id = s.order_id) = ANY($1::text[]) THEN true
        WHEN (SELECT o.status FROM orders o WHERE o.id = s.order_id) <> ALL($3::text[]) THEN false
        WHEN {CLAIM} = 'claimed' THEN false
        WHEN {CLAIM} = 'made' OR {IS_DECIDED} THEN true
        ELSE s.at < now() - interval '30 days' AND NOT ({HAS_MONEY} AND {IS_OWED})
    END
"""  # noqa: S608 (constants of ours)

REOPEN: Final = f"""
    UPDATE shortages SET settled_at = 'infinity' WHERE order_id = $1 AND '{SHORTAGE_REFUND}' || number = $2
"""  # noqa: S608 (a constant of ours)


async def read_shorted(connection: "Connection", order_id: str) -> dict[str, int]:
    """The units of an order that can never leave, by product."""
    return {row["product_id"]: row["quantity"] for row in await connection.fetch(READ_SHORTED, order_id)}


async def keep_shortage(
    connection: "Connection", order_id: str, lines: Mapping[str, int], *, restock: bool
) -> Shortage:
    """Write down units that can never leave, and whether they are back in stock.

    The order row must be locked: see order_store.lock_row.
    """
    number = await connection.fetchval(KEEP_SHORTAGE, order_id, [*lines], [*lines.values()], restock)
    shortage = Shortage(order_id, number, lines, restock)
    await write_event(connection, order_id, f"the warehouse can never ship {shortage.text}")
    return shortage


async def settle_shortages(connection: "Connection") -> None:
    """Look no more at the shortages about which nothing is left to do."""
    await connection.execute(SETTLE, CLOSED, KEPT, GONE, STANDING)


async def reopen_shortage(connection: "Connection", refund: RefundKey) -> None:
    """Look again at the shortage whose refund was withdrawn; a refund of anything else changes nothing."""
    await connection.execute(REOPEN, refund.order_id, refund.refund_id)


async def find_unrefunded(connection: "Connection", after: timedelta, limit: int) -> list[Shortage]:
    """Shortages of paid orders, older than `after`, whose refund does not exist and would not be refused."""
    found = await connection.fetch(FIND_UNREFUNDED, after, KEPT, limit, STANDING)
    return [_shortage(each) for each in await _with_money(connection, found)]


async def find_owed(connection: "Connection", after: timedelta, limit: int) -> list[tuple[str, Shortage]]:
    """Shortages of paid orders that are not refunded for long, whatever the reason, with the keys of their alerts.

    Those that operators were alerted of today are left out.
    """
    found = await connection.fetch(FIND_OWED, after, KEPT, limit, STANDING)
    return [(each["key"], _shortage(each)) for each in await _with_money(connection, found)]


async def find_empty(connection: "Connection", after: timedelta, limit: int) -> list[tuple[str, str]]:
    """Orders that can neither leave nor be cancelled, and are not all refunded: the key of the alert, and the order.

    Those that operators were alerted of today are left out.
    """
    found = await connection.fetch(FIND_EMPTY, after, GONE, limit, STANDING)
    return [(each["key"], each["order_id"]) for each in await _with_money(connection, found)]


async def _with_money(connection: "Connection", found: Sequence["asyncpg.Record"]) -> list["asyncpg.Record"]:
    """Those of orders of whose payment something is left to refund, or which were free."""
    rows = await read_rows(connection, {each["order_id"] for each in found})
    left = {row.id: await read_money_left(connection, row) for row in rows.values()}
    return [each for each in found if left[each["order_id"]] > 0 or rows[each["order_id"]].is_free]


def _shortage(row: "asyncpg.Record") -> Shortage:
    return Shortage(row["order_id"], row["number"], json.loads(row["lines"]), row["restock"])
