"""starter.py catalogue: all lines or none, twice is once, and no unit that an order holds is lost."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from tests.integration.cli.conftest import Said, Starter
from tests.support.shop import eventually

HEADER = "id,name,price,currency,description,reorder_level,stock\n"
LOGINS = """
    DROP ROLE IF EXISTS keeper, counter;
    CREATE ROLE keeper LOGIN PASSWORD 'canary' IN ROLE orders_catalogue;
    CREATE ROLE counter LOGIN PASSWORD 'canary' IN ROLE orders_app;
"""
WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    opened = await asyncpg.connect(database_url)
    await opened.execute(LOGINS)
    yield opened
    await opened.close()


@pytest.fixture
def keeper(database_url: str, connection: object, starter: Starter) -> Starter:  # noqa: ARG001 (it makes the login)
    """The command line of who keeps the catalogue, and may do nothing else."""
    login = database_url.replace("orders:orders", "keeper:canary")

    async def run(*arguments: str, stdin: str | bytes = b"", **changes: str) -> Said:
        return await starter("catalogue", *arguments, stdin=stdin, **{"DATABASE_URL": login, **changes})

    return run


async def product(connection: Any, product_id: str) -> tuple[Any, ...]:
    """Price, currency, reorder level, units that can be ordered and units that are held."""
    row = await connection.fetchrow(
        "SELECT price, currency, reorder_level, quantity, reserved FROM products JOIN inventory ON id = product_id "
        "WHERE id = $1 AND name = product_name",
        product_id,
    )
    return tuple(row)


async def test_products_are_created_and_changed(keeper: Starter, connection: Any) -> None:
    """A dry run changes nothing, the stock of a product that exists stays, and a second import does nothing."""
    lines = HEADER + "1,Walnut box,31.00,usd,,12,7\nnew,Größe L,0.07,eur,Neu,,25\n"
    dry = await keeper("import", "-", "--dry-run", stdin=lines)
    assert dry.status == 0, dry
    assert "1 product created, 1 changed" in dry.out
    assert "price: 29.99 usd → 31.00 usd" in dry.out
    assert "no: leave out --dry-run" in dry.out
    assert await product(connection, "1") == (2999, "usd", 10, 100, 0)

    said = await keeper("import", "-", "--json", stdin=lines)
    assert (said.status, said.json["applied"], said.json["created"], said.json["changed"]) == (0, True, 1, 1)
    assert [each["field"] for each in said.json["changes"][0]["fields"]] == ["name", "price", "reorder_level"]
    assert await product(connection, "1") == (3100, "usd", 12, 100, 0)
    assert await product(connection, "new") == (7, "eur", 0, 25, 0)
    assert (
        await connection.fetchval("SELECT description FROM products WHERE id = '1'")
        == "Six compartments, oiled walnut."
    )

    again = await keeper("import", "-", "--json", stdin=lines)
    assert (again.json["created"], again.json["changed"], again.json["unchanged"]) == (0, 0, 2)


async def test_a_stock_that_is_set_leaves_what_orders_hold(keeper: Starter, connection: Any) -> None:
    """It counts the units that are not sold. Less than orders hold is refused, with every other line."""
    await connection.execute("UPDATE inventory SET quantity = 95, reserved = 5 WHERE product_id = '1'")
    held = await keeper("import", "-", "--set-stock", stdin=HEADER + "x,Pen,1,usd,,,1\n1,Box,31,usd,,,4\n")
    assert held.status == 2, held
    assert held.err == "line 3, stock: unfinished orders hold 5 units of product 1: must be at least 5\n"
    assert await connection.fetchval("SELECT count(*) FROM products WHERE id = 'x' OR price = 3100") == 0

    said = await keeper("import", "-", "--set-stock", stdin=HEADER + "1,Walnut desk organiser,29.99,usd,,,20\n")
    assert (said.status, "stock: 100 → 20" in said.out) == (0, True), said
    assert await product(connection, "1") == (2999, "usd", 10, 15, 5)


async def test_an_order_that_is_placed_meanwhile(keeper: Starter, connection: Any) -> None:
    """The import waits for its row, and counts what it holds by then."""
    async with connection.transaction():
        await connection.execute("UPDATE inventory SET quantity = 93, reserved = 7 WHERE product_id = '1'")
        importing = asyncio.ensure_future(
            keeper("import", "-", "--set-stock", stdin=HEADER + "1,Walnut desk organiser,29.99,usd,,,20\n")
        )
        await eventually(lambda: connection.fetchval(WAITS), "the import waits for the order")
    assert (await importing).status == 0
    assert await product(connection, "1") == (2999, "usd", 10, 13, 7)


async def test_what_is_exported_changes_nothing(keeper: Starter, connection: Any) -> None:
    """Also with its stock, while orders hold some of it."""
    await connection.execute("UPDATE inventory SET quantity = 95, reserved = 5 WHERE product_id = '1'")
    exported = await keeper("export")
    assert exported.out.splitlines()[1].startswith("1,Walnut desk organiser,29.99,usd,")
    said = await keeper("import", "-", "--set-stock", "--json", stdin=exported.out)
    assert (said.json["created"], said.json["changed"], said.json["unchanged"]) == (0, 0, 5)


async def test_a_file_that_is_older_than_a_sale_sets_no_stock(keeper: Starter, connection: Any) -> None:
    """Exported at 100, three sold: the line is refused. A count without `sold` is set, and the report says so."""
    exported = (await keeper("export")).out.replace("29.99", "31.00")
    await connection.execute("UPDATE inventory SET quantity = 95, reserved = 2, sold = sold + 3 WHERE product_id = '1'")
    said = await keeper("import", "-", "--set-stock", stdin=exported)
    assert said.status == 2, said
    assert said.err == (
        "line 2, sold: is 0, but 3 units of product 1 are sold by now: the stock of this file is out of date, export "
        "the catalogue again\n"
    )
    assert await product(connection, "1") == (2999, "usd", 10, 95, 2)
    assert (await keeper("import", "-", stdin=exported)).status == 0, "without the stock it is imported"
    assert await product(connection, "1") == (3100, "usd", 10, 95, 2)

    counted = await keeper("import", "-", "--set-stock", stdin=HEADER + "1,Walnut desk organiser,31,usd,,,90\n")
    assert "1 product: units that were sold after the count are for sale again" in counted.out
    assert await product(connection, "1") == (3100, "usd", 10, 88, 2)


async def test_bad_files_and_logins_are_refused(keeper: Starter, database_url: str) -> None:
    """A file before anything is connected; a login with the grant that it lacks."""
    said = await keeper(
        "import", "-", stdin="id;name;price;currency\n", DATABASE_URL="postgresql://u:canary@127.0.0.1:1/o"
    )
    assert (said.status, said.err.partition(":")[0]) == (2, "line 1")
    absent = await keeper("import", "absent.csv")
    assert (absent.status, absent.err) == (2, "absent.csv: No such file or directory\n")

    login = database_url.replace("orders:orders", "counter:canary")
    said = await keeper("import", "-", stdin=HEADER + "1,Box,31,usd,,,\n", DATABASE_URL=login)
    assert said.status == 4, said
    assert said.err.strip().endswith("run GRANT orders_catalogue TO counter as an administrator")
