"""The orders of a customer who wants to be forgotten: which there are, and the erasure of what is personal in them.

The schema's function forget_orders knows what is personal.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from orders.models import CLOSED, GONE, UNSHIPPED, Status

if TYPE_CHECKING:
    from gateways.postgres import Database

OVER: Final = CLOSED | (GONE - UNSHIPPED)  # nothing personal is needed any more: neither an address nor a payment

FIND: Final = """
    SELECT o.id, o.status,
           EXISTS (SELECT FROM order_refunds r WHERE r.order_id = o.id AND r.status = 'claimed') AS is_refunding
    FROM orders o WHERE o.customer_id = $1 ORDER BY o.created_at, o.id
"""
FORGET: Final = "SELECT forget_orders($1, $2, $3)"


class OwnOrder(NamedTuple):
    """An order of the customer. `is_refunding`: a refund of a part of it is claimed, and not made."""

    id: str
    status: Status
    is_refunding: bool

    @property
    def why_left(self) -> str | None:
        """Why nothing of it can be erased yet; None: it is over."""
        if self.status not in OVER:
            return f"it is {self.status}"
        return "a refund of a part of it is not made" if self.is_refunding else None


async def find_orders_of(database: "Database", customer_id: str) -> list[OwnOrder]:
    """All orders of the customer, the oldest first.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        found = await connection.fetch(FIND, customer_id)
    return [OwnOrder(row["id"], Status(row["status"]), row["is_refunding"]) for row in found]


async def forget_orders(database: "Database", customer_id: str, order_ids: Sequence[str], by: str) -> int:
    """Erase what is personal of these orders, as far as they are over, in one transaction. Returns how many they were.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        return len(await connection.fetchval(FORGET, customer_id, order_ids, by))
