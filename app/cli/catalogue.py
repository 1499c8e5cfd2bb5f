"""The commands about the catalogue: import, export."""

import io
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.console import Console

from app.cli.command import EXIT_CODES, Environment, Result, command
from app.cli.layout import Row, count_of, show, table
from app.cli.show import json_of
from app.startup_checks import CATALOGUE_CHECKS, SCHEMA_CHECKS, open_database
from gateways.catalogue_store import import_catalogue
from gateways.catalogue_store import read_catalogue as read_products
from orders.catalogue import COLUMNS, ImportReport, ProductChange, ProductLine, read_catalogue, write_catalogue
from orders.errors import InvalidInput

MAX_SHOWN: Final = 20  # changes
COUNTED: Final = "units that were sold after the count are for sale again; the column sold of an export checks that"

app = typer.Typer(
    no_args_is_help=True,
    help=f"The products, their prices and their stock, as CSV with the columns {', '.join(COLUMNS)}.",
    epilog=EXIT_CODES,
)


@command(app, "import")
async def import_(
    environment: Environment,
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV in UTF-8; - reads standard input.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    set_stock: Annotated[
        bool,
        typer.Option("--set-stock", help="Also set the stock of products that exist, as exported or counted just now."),
    ] = False,
) -> Result:
    """Create products, or change them to what the file says: all of them, or none. DATABASE_URL: role orders_catalogue.

    An empty cell leaves what is there. A product that is not in the file stays. `stock` counts the units that are not
    sold, so those that unfinished orders hold too; of a product that exists it is written only with --set-stock. A line
    whose `sold` is not what is sold by now is then refused: its stock is out of date. One without `sold` counts as
    counted just now: what was sold since the count would be for sale again.
    """
    products = _read(file)
    async with open_database(environment.settings, checks=CATALOGUE_CHECKS) as database:
        report = await import_catalogue(database, products, set_stock=set_stock, dry_run=dry_run)
    return Result(json_of(report), lambda out: _show(out, report))


@command(app, "export")
async def export(environment: Environment) -> Result:
    """Write the catalogue to standard output, as CSV that `catalogue import` reads."""
    async with open_database(environment.settings, checks=SCHEMA_CHECKS) as database:
        products = await read_products(database)

    def write(_: Console) -> None:
        text = io.StringIO()
        write_catalogue(products, text)
        sys.stdout.write(text.getvalue())

    return Result(products, write)


def _read(file: str) -> list[ProductLine]:
    try:
        with ExitStack() as stack:
            source: BinaryIO = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
            return read_catalogue(source)
    except (OSError, ValueError) as error:
        raise InvalidInput([f"{file}: {getattr(error, 'strerror', None) or error}"]) from None


def _show(out: Console, report: ImportReport) -> None:
    if shown := report.changes[:MAX_SHOWN]:
        table(out, ("line", "product", "change"), [_row(each) for each in shown])
    more = report.created + report.changed - len(shown)
    facts = {
        "not shown": count_of(more, "more change") if more else None,
        "unchanged": str(report.unchanged),
        "stock as counted": f"{count_of(report.counted, 'product')}: {COUNTED}" if report.counted else None,
        "applied": "yes" if report.applied else "no: leave out --dry-run to apply them",
    }
    show(out, f"{count_of(report.created, 'product')} created, {report.changed} changed", facts)


def _row(change: ProductChange) -> Row:
    fields = tuple(f"{each.field}: {each.before} → {each.after}" for each in change.fields)
    return Row((str(change.line), change.product_id, "new" if change.is_new else fields))
