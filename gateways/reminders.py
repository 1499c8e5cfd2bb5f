"""When operators were last alerted of a problem, as the table `reminders` keeps it: once a day is enough."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateways.postgres import Connection


def not_alerted_today(key: str) -> str:
    """The condition for problems that operators were not alerted of within a day; `key` is an expression of SQL.

    A query with a limit needs it: else those that were reported take the place of others.
    """
    return f"NOT EXISTS (SELECT FROM reminders m WHERE m.key = {key} AND m.at > now() - interval '1 day')"


FIND_UNREPORTED: Final = f"""
    SELECT key FROM unnest($1::text[]) AS p (key) WHERE {not_alerted_today("p.key")}
"""  # noqa: S608 (a constant of ours)

REMIND: Final = "INSERT INTO reminders (key) VALUES ($1) ON CONFLICT (key) DO UPDATE SET at = now()"


async def find_unreported(connection: "Connection", keys: Sequence[str]) -> list[str]:
    """Those of the keys that operators were not alerted of within a day."""
    return [record["key"] for record in await connection.fetch(FIND_UNREPORTED, keys)]


async def mark_alerted(connection: "Connection", key: str) -> None:
    """Record that operators are alerted of the problem."""
    await connection.execute(REMIND, key)
