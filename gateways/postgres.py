"""PostgreSQL: one pool, one way to run a transaction, and its errors in our words."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from orders.errors import Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

COMMAND_SECONDS: Final = 5.0  # one statement
ACQUIRE_SECONDS: Final = 5.0

REFUSED: Final = "database_refused"

# An outage. Everything else that PostgreSQL says is a bug, a missing migration or a missing right.
TRANSIENT: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.CannotConnectNowError,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.TooManyConnectionsError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)


async def _keep_as_it_is(_connection: asyncpg.Connection) -> None:
    """In place of the pool's reset query, a round trip for nothing: we leave no session state behind."""


async def open_pool(url: str, size: int) -> "Pool":
    """A pool for `url`; no prepared statements by name, so that a pgbouncer in transaction mode may stand between.

    Raises:
        OSError, asyncpg.PostgresError: it cannot be reached, or refuses us.
    """
    pool: Pool = await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        timeout=ACQUIRE_SECONDS,
        command_timeout=COMMAND_SECONDS,
        statement_cache_size=0,
        reset=_keep_as_it_is,
        server_settings={"application_name": "order-sagas"},
    )
    return pool


class Database:
    """What activities see of PostgreSQL."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        """One transaction on one connection, committed at the end of the block.

        Raises:
            Unavailable: PostgreSQL could not be reached, gave up or refused; whether it committed is not known. Even a
                violated constraint is no reason to end a run: it is a bug, or a migration that is missing, and the
                same transaction goes through once that is mended.
        """
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                yield connection
        except TRANSIENT as error:
            raise Unavailable(f"database: {type(error).__name__}", type="database_unavailable") from None
        except asyncpg.PostgresError as error:
            # Only names: PostgreSQL's own message quotes the values.
            where = getattr(error, "constraint_name", None) or ""
            raise Unavailable(f"database: {type(error).__name__} {where}".strip(), type=REFUSED) from None
