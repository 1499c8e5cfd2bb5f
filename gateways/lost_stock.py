"""The units of an order that is undone which do not come back: refunded without a restock, or short at the warehouse.

They stay `sold`, as `written_off` units of the reservation, so that the sum of a product's units never changes.
"""

from typing import TYPE_CHECKING, Final

from gateways.postgres import LIMIT_LOCKS

if TYPE_CHECKING:
    from gateways.postgres import Connection

# Of a reservation `r`. A refund that was made, and is withdrawn because it failed later, has lost its units all the
# same. What the warehouse is short of is lost whether it is refunded or not, and its refund is of the same units.
LOST: Final = """least(r.quantity - r.returned, greatest((
    SELECT coalesce(sum(l.quantity - l.restock), 0)
    FROM order_refund_lines l JOIN order_refunds f USING (order_id, refund_id)
    WHERE (l.order_id, l.product_id) = (r.order_id, r.product_id) AND (f.status <> 'withdrawn' OR f.restocked)
), (
    SELECT coalesce(sum(l.quantity), 0) FROM shortage_lines l JOIN shortages s USING (order_id, number)
    WHERE (l.order_id, l.product_id) = (r.order_id, r.product_id) AND NOT s.restock
)))::integer"""

FIND_RECOUNTED: Final = f"""
    SELECT product_id FROM reservations r WHERE order_id = $1 AND state = 'released' AND written_off <> {LOST}
"""  # noqa: S608 (a constant of ours)

LOCK_STOCK: Final = """
    SELECT product_id FROM inventory WHERE product_id = ANY($1::text[]) ORDER BY product_id FOR UPDATE
"""

# Units that are lost once more may be sold again already: then there is nothing to take back.
RECOUNT: Final = f"""
    WITH back AS (
        SELECT r.product_id, greatest(r.written_off - {LOST}, -i.quantity)::integer AS units
        FROM reservations r JOIN inventory i USING (product_id)
        WHERE r.order_id = $1 AND r.state = 'released' AND r.product_id = ANY($2::text[])
    ), counted AS (
        UPDATE reservations r SET written_off = r.written_off - back.units FROM back
        WHERE (r.order_id, r.product_id) = ($1, back.product_id)
    )
    UPDATE inventory i SET quantity = i.quantity + back.units, sold = greatest(0, i.sold - back.units)
    FROM back WHERE i.product_id = back.product_id
"""  # noqa: S608 (a constant of ours)


async def recount_lost(connection: "Connection", order_id: str) -> None:
    """Count again what an undone order has lost, after a refund of it was withdrawn or stands after all.

    The order row must be locked: see order_store.lock_row.
    """
    products = [row["product_id"] for row in await connection.fetch(FIND_RECOUNTED, order_id)]
    if products:
        await connection.execute(LIMIT_LOCKS)
        await connection.fetch(LOCK_STOCK, products)
        await connection.execute(RECOUNT, order_id, products)
