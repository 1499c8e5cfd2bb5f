"""The idempotency keys under which Stripe has saved an error, so that the next attempt uses another one."""

from typing import Final

from gateways.postgres import Database

SPEND: Final = """
    INSERT INTO spent_keys AS s (call, spent) VALUES ($1, $2)
    ON CONFLICT (call) DO UPDATE SET spent = greatest(s.spent, excluded.spent)
    RETURNING spent
"""


class SpentKeys:
    """Counts the spent keys of each call. There are as many keys as it takes: no outage uses up the last one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def spend(self, call: str, number: int) -> int:
        """Record that the keys of the call up to `number` are spent. Returns the number of the next key.

        Raises:
            Unavailable: PostgreSQL.
        """
        async with self._database.transaction() as connection:
            spent: int = await connection.fetchval(SPEND, call, number)
        return spent + 1
