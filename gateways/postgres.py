"""PostgreSQL: one pool, one way to run a transaction, and its errors as Unavailable."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from orders.errors import Unavailable
from orders.tracing import is_traced, record_span

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

COMMAND_SECONDS: Final = 5.0  # one statement
ACQUIRE_SECONDS: Final = 5.0
STATEMENTS: Final = 100  # prepared ones that a connection keeps

# For transactions that lock a row of many orders: who waits holds a connection that others need. So an attempt gives up
# early, and Temporal repeats it.
LOCK_SECONDS: Final = 0.3
LIMIT_LOCKS: Final = f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"

# For statements about as many rows as there are orders in a batch: planning them each time costs more than it gains.
PLAN_ONCE: Final = "SET LOCAL plan_cache_mode = force_generic_plan"

# For a transaction whose loss in a crash does no harm: its commit does not wait for the disk.
FLUSH_LATER: Final = "SET LOCAL synchronous_commit = off"

# As many attempts as get a connection in time even if each waits for two locks, the order's and the product's.
ATTEMPTS_PER_CONNECTION: Final = int(ACQUIRE_SECONDS / (2 * LOCK_SECONDS))

NANOSECONDS: Final = 1e9  # in a second

OUTAGE: Final = "database_unavailable"
LOCKED: Final = "database_locked"
REFUSED: Final = "database_refused"

# Errors that are an outage. Any other error is a bug, a missing migration or a missing privilege.
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
    asyncpg.InvalidCachedStatementError,  # a migration changed a table; the driver has forgotten its statements by now
)


async def _keep_as_it_is(_connection: asyncpg.Connection) -> None:
    """Replaces the pool's reset query: we leave no session state behind, so it would be a round trip for nothing."""


async def _trace_statements(connection: asyncpg.Connection) -> None:
    """Each statement of an order becomes a part of its trace: its text, which holds no values, and never its values."""
    if is_traced():
        connection.add_query_logger(_record_statement)


def _record_statement(statement: "LoggedQuery") -> None:
    end = time.time_ns()
    text = " ".join(statement.query.split())
    record_span(
        f"sql {text.partition(' ')[0].rstrip(';')}",
        end - int(statement.elapsed * NANOSECONDS),
        end,
        {"statement": text, "error": type(statement.exception).__name__ if statement.exception else ""},
    )


async def open_pool(url: str, size: int, *, keep_statements: bool = True) -> "Pool":
    """A pool of `size` connections.

    Without `keep_statements` it names no prepared statement, for a pgbouncer that does not track them.

    Raises:
        OSError, asyncpg.PostgresError: PostgreSQL cannot be reached, or refuses the connection.
    """
    pool: Pool = await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        timeout=ACQUIRE_SECONDS,
        command_timeout=COMMAND_SECONDS,
        statement_cache_size=STATEMENTS if keep_statements else 0,
        init=_trace_statements,
        reset=_keep_as_it_is,
        server_settings={"application_name": "order-sagas"},
    )
    return pool


class Database:
    """PostgreSQL, for activities: transactions."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        """One transaction on one connection, committed at the end of the block.

        Raises:
            Unavailable: PostgreSQL could not be reached or gave up (OUTAGE), a lock was not free in time (LOCKED), or
                PostgreSQL refused (REFUSED); the transaction may have been committed.
                Even a violated constraint does not end a run: its cause is a bug or a missing migration, and the same
                transaction succeeds once that is corrected.
        """
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Connection"]:
        """One connection for several transactions. Raises Unavailable, as `transaction` does."""
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                yield connection
        except TRANSIENT as error:
            kind = LOCKED if isinstance(error, asyncpg.LockNotAvailableError) else OUTAGE
            raise Unavailable(f"database: {type(error).__name__}", type=kind) from None
        except asyncpg.PostgresError as error:
            # Only names: PostgreSQL's message quotes values.
            where = getattr(error, "constraint_name", None) or ""
            raise Unavailable(f"database: {type(error).__name__} {where}".strip(), type=REFUSED) from None
