"""What check-and-alert-inventory says: the shortages, in the names of the reference's own columns."""

from collections.abc import Sequence

from pydantic import ConfigDict

from orders.models import Model


class LowStockItem(Model):
    """A product at or below its reorder level, in units.

    `price` is a decimal amount of `currency`, or None where the decimals of that currency are not known here.
    """

    model_config = ConfigDict(alias_generator=None)  # snake_case on the wire, as in the reference

    product_id: str
    product_name: str
    quantity: int
    reorder_level: int
    price: float | None
    currency: str


class StockReport(Model):
    """Every low item, told before or not, the scarcest first; `unlisted` more are low than one answer has room for.

    `alerted` were told by this run. `undelivered` says why others were not.
    """

    low_stock_items: Sequence[LowStockItem]
    unlisted: int = 0
    alerted: int = 0
    undelivered: str | None = None


class Posted(Model):
    """One message to the people who reorder: how many products it named."""

    products: int
