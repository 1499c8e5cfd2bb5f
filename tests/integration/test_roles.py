"""Least privilege: what each role of the database may do. All other tests show that orders_app may do enough."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from deploy.local.postgres import Postgres
from tests.support.servers import copy_database

READ = ["SELECT * FROM orders", "SELECT * FROM order_events", "SELECT * FROM inventory", "SELECT * FROM products"]

WRITE = [
    "INSERT INTO reminders (key) VALUES ('a')",
    "UPDATE inventory SET quantity = quantity + 1",
    "UPDATE orders SET error = 'none'",
]

NEVER = [
    "UPDATE order_events SET why = 'nothing'",
    "DELETE FROM order_events",
    "TRUNCATE order_events",
    "DELETE FROM orders",
    "DELETE FROM reservations",
    "DELETE FROM refunds",
    "UPDATE resolutions SET reason = 'none'",
    "UPDATE order_items SET price = 1",
    "UPDATE order_refund_lines SET quantity = 1",
    "UPDATE order_refund_charges SET amount = 1",
    "DELETE FROM order_refunds",
    "UPDATE products SET price = 1",
    "INSERT INTO order_transitions VALUES ('rejected', 'processing')",
    "DELETE FROM webhook_events",
    "CREATE TABLE mine (id text)",
    "DROP TABLE orders",
    "ALTER TABLE order_events DISABLE TRIGGER order_events_append_only",
]


@pytest.fixture(scope="module")
async def database_url(postgres: Postgres) -> AsyncIterator[str]:
    """One database for all statements: none changes what another one shows."""
    async with copy_database(postgres) as url:
        yield url


async def may(database_url: str, role: str, statement: str) -> bool:
    connection = await asyncpg.connect(database_url, server_settings={"role": role})
    try:
        await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await connection.close()
    return True


@pytest.mark.prove
@pytest.mark.parametrize("statement", [*READ, *WRITE])
async def test_the_app_reads_and_writes(database_url: str, statement: str) -> None:
    """It may do what placing and cancelling orders needs."""
    assert await may(database_url, "orders_app", statement)


@pytest.mark.parametrize("statement", NEVER)
async def test_the_app_rewrites_no_history(database_url: str, statement: str) -> None:
    """Nor the catalogue, nor the schema: a program that was attacked cannot hide what it did."""
    assert not await may(database_url, "orders_app", statement)


@pytest.mark.parametrize("statement", [*WRITE, *NEVER])
async def test_the_reader_writes_nothing(database_url: str, statement: str) -> None:
    """Dashboards and operators only read."""
    assert not await may(database_url, "orders_readonly", statement)


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM orders", "SELECT * FROM order_events", "DELETE FROM products", *WRITE[::2], *NEVER[:8]]
)
async def test_who_keeps_the_catalogue_sees_no_order(database_url: str, statement: str) -> None:
    """The role orders_catalogue changes products and their stock, and deletes none."""
    assert not await may(database_url, "orders_catalogue", statement)
    assert await may(database_url, "orders_catalogue", "UPDATE products SET price = price WHERE id = '1'")


@pytest.mark.parametrize("statement", READ)
async def test_the_reader_reads(database_url: str, statement: str) -> None:
    """It may read every table."""
    assert await may(database_url, "orders_readonly", statement)


@pytest.mark.parametrize("change", ["UPDATE order_events SET why = 'nothing'", "DELETE FROM order_events"])
async def test_not_even_the_owner_rewrites_the_events(database_url: str, change: str) -> None:
    """A trigger refuses the statement, at least by mistake."""
    connection = await asyncpg.connect(database_url)
    try:
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute(change)
    finally:
        await connection.close()
