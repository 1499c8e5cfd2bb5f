"""Compare a page of orders with what an external service says of each: an odd item stops only itself."""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from temporalio import activity

from gateways.order_store import read_rows
from orders.errors import Permanent, Unavailable
from orders.models import OrderRow

if TYPE_CHECKING:
    from gateways.postgres import Database

ATTEMPTS: Final = 3  # until an item that fails while others succeed counts as odd
PAGE: Final = 20  # orders in one attempt, with up to two calls each
MAX_SECONDS: Final = 15  # of one attempt, which times out after 30: it returns what it has checked by then

# `xmin` is the version of a row: every UPDATE makes another one, also one that clears a mark which was not set.
READ_VERSIONS: Final = "SELECT id, xmin::text AS version FROM orders WHERE id = ANY($1::text[])"

# Unless the row was changed meanwhile: then the check was of something else. A condition on the row itself is checked
# again after a wait for its lock, one on another table is not.
MARK_CHECKED: Final = """
    UPDATE orders o SET {column} = now() FROM unnest($1::text[], $2::text[], $3::text[]) AS c (id, status, version)
    WHERE o.id = c.id AND o.status = c.status AND o.xmin::text = c.version
"""

FoundT = TypeVar("FoundT")


async def check_orders(
    database: "Database",
    rows: Sequence[OrderRow],
    compare: Callable[[OrderRow], Awaitable[FoundT | None]],
    unread: Callable[[OrderRow, Permanent | Unavailable], FoundT],
    column: Literal["payment_checked_at", "shipment_checked_at"],
) -> tuple[tuple[FoundT, ...], str | None]:
    """What is wrong with the orders of a page, and the id after which the next page begins; None: there is none.

    Args:
        database: where the correct orders are marked.
        rows: the page, at most PAGE orders.
        compare: says what is wrong with an order; None: nothing is.
        unread: says so of an order that cannot be read.
        column: what marks the correct ones.

    Raises:
        Unavailable: PostgreSQL, or an outage of the external service.
    """
    versions = await _read_versions(database, [row.id for row in rows])
    found: dict[str, FoundT] = {}
    seen: list[OrderRow] = []
    errors: list[Permanent | Unavailable] = []
    until = time.monotonic() + MAX_SECONDS
    for row in rows:
        if time.monotonic() > until:
            break
        seen.append(row)
        try:
            wrong = await compare(row)
        except (Permanent, Unavailable) as error:
            errors.append(error)
            wrong = unread(row, error)
        if wrong is not None:
            found[row.id] = wrong
    raise_outage(errors, len(seen))
    right = [row for row in seen if row.id not in found]
    async with database.transaction() as connection:
        mark = MARK_CHECKED.format(column=column)
        ids = [row.id for row in right]
        await connection.execute(mark, ids, [row.status for row in right], [versions[each] for each in ids])
        now = await read_rows(connection, found)
    # An order whose status has changed meanwhile is checked again by the next run.
    still = tuple(found[row.id] for row in seen if row.id in found and now[row.id].status is row.status)
    more = len(rows) == PAGE or len(seen) < len(rows)
    return still, seen[-1].id if seen and more else None


async def _read_versions(database: "Database", order_ids: Sequence[str]) -> dict[str, str]:
    """The versions of the rows, before the external service is asked."""
    async with database.transaction() as connection:
        return {each["id"]: each["version"] for each in await connection.fetch(READ_VERSIONS, order_ids)}


def raise_outage(errors: Collection[BaseException], asked: int) -> None:
    """Tell an outage from odd items, by the errors of a page of `asked` items.

    Raises:
        Unavailable: no item can be read, or those that cannot may be read by the next attempt.
        BaseException: one of the errors is none of the project's: a bug, or the end of the attempt.
    """
    for error in errors:
        if not isinstance(error, Unavailable | Permanent):
            raise error
    outages = [error for error in errors if isinstance(error, Unavailable)]
    if outages and (len(errors) == asked or activity.info().attempt < ATTEMPTS):
        raise outages[0]
