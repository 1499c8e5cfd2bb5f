"""The commands about products: check-inventory, recommend, index-products, restock."""

import sys
import uuid
from typing import Annotated, Final

import typer
from rich.progress import Progress

from app.cli.command import Environment, Exit, Result, command, console, progress, repeating, waiting
from app.cli.layout import show
from app.cli.show import json_of, show_index, show_recommendations, show_stock
from app.startup_checks import open_database
from client.reports import check_inventory, index_products, recommend_products, view_index
from client.runs import view_timeline
from orders.errors import InvalidInput, NotFound
from orders.models import Model
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS, INDEX_RUN, PRODUCT_RECOMMENDATIONS
from orders.parsing import parse_customer, parse_restock
from orders.stock import MAX_STOCK

RESTOCK: Final = """
    UPDATE inventory SET quantity = quantity + $2 WHERE product_id = $1 AND quantity + $2 <= $3
    RETURNING product_id, product_name, quantity, reorder_level
"""

app = typer.Typer()


@command(app, "check-inventory")
async def check(environment: Environment) -> Result:
    """Find the products that are low, and alert those who reorder, once about each."""
    session = await environment.connect()
    run = f"{CHECK_INVENTORY}:{uuid.uuid4().hex[:12]}"
    async with progress(session, run, view_timeline):
        report = await check_inventory(session.client, run)
    return session.result(run, report, show_stock, Exit.NEEDS_OPERATOR if report.undelivered else Exit.DONE)


@command(app, "recommend")
async def recommend(
    environment: Environment,
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="The customer's id.", show_default=False)],
) -> Result:
    """Recommend products to a customer."""
    parse_customer({"customerId": customer})  # refused before anything is connected
    session = await environment.connect()
    run = f"{PRODUCT_RECOMMENDATIONS}:{uuid.uuid4().hex[:12]}"
    async with progress(session, run, view_timeline):
        outcome = await recommend_products(session.client, run, customer)
    return session.result(run, outcome, lambda out, found, link: show_recommendations(out, customer, found, link))


@command(app, "index-products")
async def index(environment: Environment) -> Result:
    """Embed new and changed products, so that they can be recommended; joins the run that is under way, if any."""
    session = await environment.connect()
    async with waiting(session, INDEX_RUN):
        with Progress(console=console(sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(INDEX_PRODUCTS, total=None)

            async def show_progress() -> None:
                seen = await view_index(session.client)
                if seen and not seen.finished:  # else it is the run before this one
                    bar.update(task, completed=seen.embedded, total=seen.products)

            async with repeating(show_progress):
                end = await index_products(session.client)
    return session.result(INDEX_RUN, end, show_index)


class Stock(Model):
    """The stock of a product, in units; it is low at `reorder_level`."""

    product_id: str
    product_name: str
    quantity: int
    reorder_level: int


@command(app, "restock")
async def restock(
    environment: Environment,
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help="The product's id.", show_default=False)],
    quantity: Annotated[int, typer.Argument(metavar="QUANTITY", help="How many units.", show_default=False)],
) -> Result:
    """Add units to a product's stock, for trying things out: directly in PostgreSQL (DATABASE_URL)."""
    request = parse_restock({"productId": product, "quantity": quantity})
    async with open_database(environment.settings) as database, database.transaction() as connection:
        row = await connection.fetchrow(RESTOCK, request.product_id, request.quantity, MAX_STOCK)
        units = await connection.fetchval("SELECT quantity FROM inventory WHERE product_id = $1", request.product_id)
    if units is None:
        raise NotFound(f"the inventory has no product {request.product_id}")
    if row is None:
        raise InvalidInput([f"quantity: product {product} has {units} units; at most {MAX_STOCK} can be in stock"])
    stock = Stock(**row)
    facts = {"units": str(stock.quantity), "reorder level": str(stock.reorder_level)}
    return Result(
        json_of(stock), lambda out: show(out, f"{stock.product_id} ({stock.product_name}) is restocked", facts)
    )
