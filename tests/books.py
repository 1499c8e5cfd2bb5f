"""What must hold of stock, money, goods and letters once an order has come to rest, however it got there."""

from collections.abc import Mapping
from typing import Any, Final, Protocol

import asyncpg

from sandbox.world import World

SEEDED: Final = {"1": 100, "2": 40, "3": 40, "4": 40, "5": 1}

KEPT: Final = {"processing", "shipped", "delivered"}
CLOSED: Final = {"rejected", "failed", "cancelled"}
NO_MONEY: Final = {"captured": 0, "refunded": 0, "refund_pending": 0, "authorised": 0}

READ_STOCK: Final = """
    SELECT i.product_id, i.quantity, i.reserved,
        coalesce(sum(r.quantity) FILTER (WHERE r.state = 'held'), 0) AS held,
        coalesce(sum(r.quantity) FILTER (WHERE r.state = 'sold'), 0) AS sold
    FROM inventory i LEFT JOIN reservations r USING (product_id)
    GROUP BY i.product_id
"""

READ_RESERVATIONS: Final = "SELECT state FROM reservations WHERE order_id = $1"


class Accounts(Protocol):
    """Whose books can be checked: a shop with its database and its sandbox."""

    pool: "asyncpg.Pool[asyncpg.Record]"

    @property
    def world(self) -> World: ...


async def check_books(shop: Accounts, order_id: str, stocked: Mapping[str, int] = SEEDED) -> None:
    """Stock, money, goods and letters of an order at rest; `stocked` is what each product began with."""
    row = await shop.pool.fetchrow("SELECT * FROM orders WHERE id = $1", order_id)
    status = row["status"] if row else None
    books = shop.world.books()
    await check_stock(shop, stocked)
    await _check_reservations(shop, order_id, status)
    _check_money(books["orders"].get(order_id, NO_MONEY), row)
    _check_goods(books["fulfillment"], order_id, status)
    _check_letters(books["emails"], order_id)


async def check_stock(shop: Accounts, stocked: Mapping[str, int] = SEEDED) -> None:
    """Every unit is on the shelf, held for an order, or sold."""
    for product in await shop.pool.fetch(READ_STOCK):
        assert product["reserved"] == product["held"], f"reserved without an order: {product}"
        assert product["quantity"] + product["held"] + product["sold"] == stocked[product["product_id"]], product


async def _check_reservations(shop: Accounts, order_id: str, status: str | None) -> None:
    """What an order held is sold if it stands, and back on the shelf if it does not."""
    states = {each["state"] for each in await shop.pool.fetch(READ_RESERVATIONS, order_id)}
    assert states <= {"sold" if status in KEPT else "released"}, f"{status}: {states}"


def _check_money(money: Mapping[str, Any], row: asyncpg.Record | None) -> None:
    """The customer has paid the total if the order stands, and nothing if it does not."""
    status = row["status"] if row else None
    assert status in {None, *KEPT, *CLOSED}, f"the order has not come to rest: {status}"
    kept = money["captured"] - money["refunded"] - money["refund_pending"]
    assert kept == (row["total"] if row and status in KEPT else 0), f"{status}: {money}"
    assert not money["authorised"], f"{status}, and money is held: {money}"


def _check_goods(shipments: list[dict[str, Any]], order_id: str, status: str | None) -> None:
    moving = [each for each in shipments if each["orderId"] == order_id and each["status"] != "cancelled"]
    assert len(moving) == (status in KEPT), f"{status}: {shipments}"


def _check_letters(emails: list[dict[str, Any]], order_id: str) -> None:
    templates = [email["template"] for email in emails if email["data"]["orderNumber"] == order_id]
    assert len(templates) == len(set(templates)), templates
