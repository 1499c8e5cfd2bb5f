"""How much unfinished orders of one customer hold, so that one customer cannot hold all that there is."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from orders.holds import Held
from orders.models import UNFINISHED

if TYPE_CHECKING:
    from gateways.postgres import Connection

# Orders of one customer are counted one after another, also by other workers; in the same order everywhere.
LOCK_CUSTOMERS: Final = """
    SELECT pg_advisory_xact_lock(key) FROM (
        SELECT DISTINCT hashtextextended(customer, 0) AS key FROM unnest($1::text[]) AS customer ORDER BY key
    ) AS keys
"""

READ_HELD: Final = """
    SELECT o.customer_id, count(DISTINCT o.id) AS orders, sum(r.quantity) AS units
    FROM orders o JOIN reservations r ON r.order_id = o.id
    WHERE o.customer_id = ANY($1::text[]) AND o.status = ANY($2::text[]) AND r.state = 'held'
    GROUP BY o.customer_id
"""


async def read_held(connection: "Connection", customers: Iterable[str]) -> dict[str, Held]:
    """What each customer holds, if anything. Until the transaction ends, nobody else gets an answer about them."""
    ids = list(customers)
    await connection.execute(LOCK_CUSTOMERS, ids)
    records = await connection.fetch(READ_HELD, ids, UNFINISHED)
    return {record["customer_id"]: Held(record["orders"], record["units"]) for record in records}
