"""The demo's second part: what the people who reorder and a customer see of the other two workflows."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from temporalio.client import Client

from client.reports import check_inventory, index_products, recommend_products
from orders.models import Model
from orders.names import CHECK_INVENTORY, INDEX_RUN, PRODUCT_RECOMMENDATIONS
from orders.recommendations import WANTED, RecommendationsOutcome, Source
from orders.stock import StockReport


class ShelvesReport(Model):
    """What was low, and what was recommended to whom."""

    stock: StockReport
    customer_id: str
    recommendations: RecommendationsOutcome

    @property
    def passed(self) -> bool:
        """Whether everybody heard of the low shelves, and the model had its say."""
        chosen = len(self.recommendations.recommendations) == WANTED and self.recommendations.source is Source.MODEL
        return chosen and self.stock.undelivered is None


async def look_at_shelves(
    client: Client, run: str, customer_id: str, console: Console, link: Callable[[str], str]
) -> ShelvesReport:
    """Check the stock, index the catalogue, recommend, and show what came of it.

    Raises:
        RunFailed: a run failed.
        NoAnswer: Temporal or the worker is out of reach.
    """
    check, recommend = f"{CHECK_INVENTORY}:demo-{run}", f"{PRODUCT_RECOMMENDATIONS}:demo-{run}"
    with console.status("checking the stock, indexing the catalogue, recommending"):
        stock = await check_inventory(client, check)
        index = await index_products(client)
        outcome = await recommend_products(client, recommend, customer_id)
    low = ", ".join(f"{item.product_name} ({item.quantity} left)" for item in stock.low_stock_items)
    told = f"Slack was told of {stock.alerted} of them" if stock.alerted else "Slack was told of them before"
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("\n[dim]low on stock[/dim]", f"\n{low}\n[dim]{told}: {link(check)}[/dim]")
    table.add_row(
        "[dim]catalogue[/dim]",
        f"{index.embedded} of {index.products} products embedded\n[dim]{link(INDEX_RUN)}[/dim]",
    )
    table.add_row(
        f"[dim]recommended to {customer_id}[/dim]",
        "\n".join(f"{each.name}: {each.reason}" for each in outcome.recommendations),
    )
    table.add_row("", f"[dim]chosen by: {outcome.source}, {link(recommend)}[/dim]")
    console.print(table)
    return ShelvesReport(stock=stock, customer_id=customer_id, recommendations=outcome)
