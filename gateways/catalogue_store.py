"""The catalogue in PostgreSQL: what a file would change, the change itself, and the way back.

A file is first copied into a table of the transaction, and compared there. Only rows that differ are written, so an
import twice is an import once, and orders wait only for the products whose stock row changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from orders.catalogue import FieldChange, ImportReport, ProductChange, ProductLine
from orders.errors import InvalidInput
from orders.money import show

if TYPE_CHECKING:
    from gateways.postgres import Connection, Database

IMPORT_SECONDS: Final = 300.0  # for one statement about the whole catalogue
MAX_LISTED: Final = 1_000  # changes that a report lists
FIELDS: Final = ("name", "price", "description", "reorder_level", "stock")  # that a report compares

# An order that holds one of the rows is done in milliseconds.
LIMIT_LOCKS: Final = "SET LOCAL lock_timeout = '30s'"

CREATE: Final = """
    CREATE TEMPORARY TABLE imported (
        line integer, id text PRIMARY KEY, name text, price bigint, currency text, description text,
        reorder_level integer, stock bigint, sold bigint
    ) ON COMMIT DROP;
    CREATE TEMPORARY TABLE changes (
        line integer, id text, is_new boolean, is_product boolean, is_inventory boolean, sets_stock boolean,
        name text, price bigint, currency text, description text, reorder_level integer, stock bigint, sold bigint,
        old_name text, old_price bigint, old_currency text, old_description text, old_reorder_level integer,
        old_stock bigint
    ) ON COMMIT DROP;
"""

# `stock` counts the units that are not sold: those that can be ordered, and those that unfinished orders hold.
COMPARE: Final = """
    WITH wanted AS (
        SELECT i.line, i.id, p.id IS NULL AS is_new, v.product_id IS NULL AS is_unstocked,
               i.name, i.price, i.currency, coalesce(i.description, p.description, '') AS description,
               coalesce(i.reorder_level, v.reorder_level, 0) AS reorder_level,
               CASE WHEN v.product_id IS NULL OR $1 THEN coalesce(i.stock, v.quantity + v.reserved, 0)
                    ELSE v.quantity + v.reserved END AS stock, i.sold,
               p.name AS old_name, p.price AS old_price, p.currency AS old_currency,
               p.description AS old_description, v.reorder_level AS old_reorder_level,
               v.quantity + v.reserved AS old_stock, v.product_name AS old_product_name
        FROM imported i LEFT JOIN products p ON p.id = i.id LEFT JOIN inventory v ON v.product_id = i.id
    ), compared AS (
        SELECT *, (name, price, currency, description)
                  IS DISTINCT FROM (old_name, old_price, old_currency, old_description) AS is_product,
               (name, reorder_level, stock) IS DISTINCT FROM (old_product_name, old_reorder_level, old_stock)
                  AS is_inventory
        FROM wanted
    )
    INSERT INTO changes
    SELECT line, id, is_new, is_product, is_inventory, is_unstocked OR stock <> old_stock,
           name, price, currency, description, reorder_level, stock, sold,
           old_name, old_price, old_currency, old_description, old_reorder_level, old_stock
    FROM compared WHERE is_product OR is_inventory
"""

COUNT: Final = """
    SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new),
           count(*) FILTER (WHERE sets_stock AND old_stock IS NOT NULL AND sold IS NULL)
    FROM changes
"""
LIST: Final = "SELECT * FROM changes ORDER BY line LIMIT $1"

WRITE_PRODUCTS: Final = """
    INSERT INTO products AS p (id, name, price, currency, description)
    SELECT id, name, price, currency, description FROM changes WHERE is_product ORDER BY id
    ON CONFLICT (id) DO UPDATE
    SET name = excluded.name, price = excluded.price, currency = excluded.currency, description = excluded.description
"""

# In product order, as orders lock them.
LOCK_STOCK: Final = """
    SELECT v.product_id FROM inventory v JOIN changes c ON c.id = v.product_id WHERE c.is_inventory
    ORDER BY v.product_id FOR UPDATE OF v
"""

FIND_HELD: Final = """
    SELECT c.line, c.id, v.reserved FROM inventory v JOIN changes c ON c.id = v.product_id
    WHERE c.sets_stock AND c.stock < v.reserved ORDER BY c.line LIMIT $1
"""

FIND_SOLD: Final = """
    SELECT c.line, c.id, c.sold AS then, v.sold AS now FROM inventory v JOIN changes c ON c.id = v.product_id
    WHERE c.sets_stock AND c.sold <> v.sold ORDER BY c.line LIMIT $1
"""

WRITE_INVENTORY: Final = """
    WITH updated AS (
        UPDATE inventory v
        SET product_name = c.name, reorder_level = c.reorder_level,
            quantity = CASE WHEN c.sets_stock THEN c.stock - v.reserved ELSE v.quantity END
        FROM changes c WHERE c.id = v.product_id AND c.is_inventory
    )
    INSERT INTO inventory (product_id, product_name, quantity, reorder_level)
    SELECT id, name, stock, reorder_level FROM changes c
    WHERE is_inventory AND NOT EXISTS (SELECT FROM inventory v WHERE v.product_id = c.id) ORDER BY id
"""

READ: Final = """
    SELECT p.id, p.name, p.price, p.currency, p.description, coalesce(v.reorder_level, 0) AS reorder_level,
           coalesce(v.quantity + v.reserved, 0) AS stock, coalesce(v.sold, 0) AS sold
    FROM products p LEFT JOIN inventory v ON v.product_id = p.id ORDER BY p.id
"""


async def import_catalogue(
    database: "Database", products: Sequence[ProductLine], *, set_stock: bool, dry_run: bool
) -> ImportReport:
    """Write all products, or nothing. Of a product that exists the stock is written only with `set_stock`.

    Raises:
        InvalidInput: a stock would be less than unfinished orders hold, or units were sold since the file was exported.
        Unavailable: PostgreSQL.
    """
    async with database.transaction() as connection:
        await connection.execute(LIMIT_LOCKS)
        await connection.execute(CREATE)
        await connection.copy_records_to_table(
            "imported", records=products, columns=ProductLine._fields, timeout=IMPORT_SECONDS
        )
        await connection.execute("ANALYZE imported")
        await connection.execute(COMPARE, set_stock, timeout=IMPORT_SECONDS)
        ((created, changed, counted),) = await connection.fetch(COUNT)
        listed = await connection.fetch(LIST, MAX_LISTED)
        if not dry_run:
            await connection.execute(WRITE_PRODUCTS, timeout=IMPORT_SECONDS)
            await connection.execute(LOCK_STOCK, timeout=IMPORT_SECONDS)
        await _refuse_held(connection)
        await _refuse_sold(connection)
        if not dry_run:
            await connection.execute(WRITE_INVENTORY, timeout=IMPORT_SECONDS)
    return ImportReport(
        applied=not dry_run,
        created=created,
        changed=changed,
        unchanged=len(products) - created - changed,
        counted=counted,
        changes=tuple(_change(dict(row)) for row in listed),
    )


async def read_catalogue(database: "Database") -> list[dict[str, Any]]:
    """Every product with its stock, in the columns of a file. Raises Unavailable."""
    async with database.transaction() as connection:
        return [dict(row) for row in await connection.fetch(READ, timeout=IMPORT_SECONDS)]


async def _refuse_held(connection: "Connection") -> None:
    held = await connection.fetch(FIND_HELD, MAX_LISTED)
    if problems := [
        f"line {each['line']}, stock: unfinished orders hold {each['reserved']} units of product {each['id']}: must be "
        f"at least {each['reserved']}"
        for each in held
    ]:
        raise InvalidInput(problems)


async def _refuse_sold(connection: "Connection") -> None:
    """The stock of a file that is older than a sale would put the sold units on sale again."""
    sold = await connection.fetch(FIND_SOLD, MAX_LISTED)
    if problems := [
        f"line {each['line']}, sold: is {each['then']}, but {each['now']} units of product {each['id']} are sold by "
        "now: the stock of this file is out of date, export the catalogue again"
        for each in sold
    ]:
        raise InvalidInput(problems)


def _change(row: Mapping[str, Any]) -> ProductChange:
    fields = () if row["is_new"] else tuple(_fields(row))
    return ProductChange(product_id=row["id"], line=row["line"], is_new=row["is_new"], fields=fields)


def _fields(row: Mapping[str, Any]) -> Iterator[FieldChange]:
    for name in FIELDS:
        before, after = _shown(row, name, "old_"), _shown(row, name, "")
        if before != after:
            yield FieldChange(field=name, before=before, after=after)


def _shown(row: Mapping[str, Any], name: str, version: str) -> str:
    value = row[f"{version}{name}"]
    if name == "price":
        return show(value, row[f"{version}currency"])
    return "none" if value is None else str(value)
