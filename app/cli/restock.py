"""Units put on a shelf, straight in PostgreSQL: for trying things out. A real shop has its own way to do that."""

from typing import Final

import asyncpg

from config.settings import Settings
from gateways.postgres import Database, open_pool
from orders.errors import NoAnswer, NotFound
from orders.models import Model
from orders.parsing import RestockRequest

RESTOCK: Final = """
    UPDATE inventory SET quantity = quantity + $2 WHERE product_id = $1
    RETURNING product_id, product_name, quantity, reorder_level
"""


class PersistentDict(Model):
    """What may be sold of a product, in units, and at how many it runs short."""

    product_id: str
    product_name: str
    quantity: int
    reorder_level: int


async def restock(settings: Settings, request: RestockRequest) -> PersistentDict:
    """Put units on a product's shelf.

    Raises:
        NotFound: there is no such product.
        NoAnswer, Unavailable: PostgreSQL is out of reach, or refuses.
    """
    try:
        pool = await open_pool(settings.database_url.get_secret_value(), size=1)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        raise NoAnswer(f"PostgreSQL at DATABASE_URL cannot be used: {type(error).__name__}") from None
    async with pool, Database(pool).transaction() as connection:
        row = await connection.fetchrow(RESTOCK, request.product_id, request.quantity)
    if row is None:
        raise NotFound(f"the inventory knows no product {request.product_id}")
    return PersistentDict(**row)
