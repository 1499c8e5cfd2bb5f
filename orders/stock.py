"""What check-and-alert-inventory says: the shortages, in the names of the reference's own columns."""

from collections.abc import Sequence

from pydantic import ConfigDict

from orders.models import Model


class LowStockItem(Model):
    """A product at or below its reorder level, in units. `price` is a decimal amount of `currency`."""

    model_config = ConfigDict(alias_generator=None)  # snake_case on the wire, as in the reference

    product_id: str
    product_name: str
    quantity: int
    reorder_level: int
    price: float
    currency: str


class StockReport(Model):
    """Every low item, told before or not; `alerted` were told by this run. `undelivered` says why others were not."""

    low_stock_items: Sequence[LowStockItem]
    alerted: int = 0
    undelivered: str | None = None


class Posted(Model):
    """One message to the people who reorder: how many products it named. None: there is nothing left to tell."""

    products: int
