"""The orders of a customer who wants to be forgotten: which there are, and the erasure of what is personal in them.

The schema's function forget_orders knows what is personal.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from orders.models import CLOSED, GONE, UNSHIPPED, Status

if TYPE_CHECKING:
    from gateways.postgres import Database

OVER: Final = CLOSED | (GONE - UNSHIPPED)  # nothing personal is needed any more: neither an address nor a payment

FIND: Final = "SELECT id, status FROM orders WHERE customer_id = $1 ORDER BY created_at, id"
FORGET: Final = "SELECT forget_orders($1, $2, $3)"


class OwnOrder(NamedTuple):
    """An order of the customer."""

    id: str
    status: Status

    @property
    def is_over(self) -> bool:
        return self.status in OVER


async def find_orders_of(database: "Database", customer_id: str) -> list[OwnOrder]:
    """All orders of the customer, the oldest first.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        return [OwnOrder(row["id"], Status(row["status"])) for row in await connection.fetch(FIND, customer_id)]


async def forget_orders(database: "Database", customer_id: str, order_ids: Sequence[str], by: str) -> int:
    """Erase what is personal of these orders, as far as they are over, in one transaction. Returns how many they were.

    Raises:
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        return len(await connection.fetchval(FORGET, customer_id, order_ids, by))
