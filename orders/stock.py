"""What check-and-alert-inventory answers: the low products, in the names of the reference's columns."""

from collections.abc import Sequence
from typing import Final

from pydantic import ConfigDict

from orders.models import Model

MAX_STOCK: Final = 1_000_000_000  # units of one product, at restock; what orders give back is never refused


class LowStockItem(Model):
    """A product at or below its reorder level, in units.

    `price` is an amount of `currency` with its decimals, or None for a currency that orders.money does not know.
    """

    model_config = ConfigDict(alias_generator=None)  # snake_case on the wire, as in the reference

    product_id: str
    product_name: str
    quantity: int
    reorder_level: int
    price: float | None
    currency: str


class StockReport(Model):
    """Every low product, the scarcest first. `unlisted` counts the low products for which the answer has no room.

    `alerted` counts the products that this run alerted operators of. `undelivered` says why it could not do so for all.
    """

    low_stock_items: Sequence[LowStockItem]
    unlisted: int = 0
    alerted: int = 0
    undelivered: str | None = None


class Posted(Model):
    """One message to the operators who reorder. `products` counts the products that it names."""

    products: int
