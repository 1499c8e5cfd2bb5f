"""The second part of the demo: low stock, the product index, and recommendations for a customer."""

from collections.abc import Callable

from rich.console import Console
from temporalio.client import Client

from app.cli.layout import Cell, count_of, show
from client.reports import check_inventory, index_products, recommend_products
from orders.models import Model
from orders.names import CHECK_INVENTORY, INDEX_RUN, PRODUCT_RECOMMENDATIONS
from orders.recommendations import WANTED, RecommendationsOutcome, Source
from orders.stock import StockReport


class ProductsReport(Model):
    """The products that are low on stock, and the recommendations for one customer."""

    stock: StockReport
    customer_id: str
    recommendations: RecommendationsOutcome

    @property
    def passed(self) -> bool:
        """Whether all low stock was reported, and the language model chose the recommendations."""
        chosen = len(self.recommendations.recommendations) == WANTED and self.recommendations.source is Source.MODEL
        return chosen and self.stock.undelivered is None


async def show_products(
    client: Client, run: str, customer_id: str, console: Console, link: Callable[[str], str]
) -> ProductsReport:
    """Check the stock, index the products, recommend, and show the results.

    Raises:
        RunFailed: a run failed.
        NoAnswer: Temporal or the worker is unreachable.
    """
    check, recommend = f"{CHECK_INVENTORY}:demo-{run}", f"{PRODUCT_RECOMMENDATIONS}:demo-{run}"
    with console.status("checking the stock, indexing the products, recommending"):
        stock = await check_inventory(client, check)
        index = await index_products(client)
        outcome = await recommend_products(client, recommend, customer_id)
    low = ", ".join(f"{item.product_name} ({item.quantity} left)" for item in stock.low_stock_items)
    earlier = len(stock.low_stock_items) - stock.alerted
    alert = (
        stock.undelivered
        or f"{count_of(stock.alerted, 'alert')} in Slack now{f', {earlier} before' if earlier else ''}"
    )
    facts: dict[str, Cell | None] = {
        "low on stock": (low, alert, link(check)),
        "product index": (f"{count_of(index.products, 'product')}, {index.embedded} indexed now", link(INDEX_RUN)),
        f"recommended to {customer_id}": (
            *(f"{each.name}: {each.reason}" for each in outcome.recommendations),
            f"chosen by: {outcome.source}",
            link(recommend),
        ),
    }
    console.print()
    show(console, "stock and recommendations", facts)
    return ProductsReport(stock=stock, customer_id=customer_id, recommendations=outcome)
