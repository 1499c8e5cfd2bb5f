"""What PostgreSQL says about itself, about this login, and about the way to it."""

from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from gateways.postgres import REFUSED, Database
from orders.errors import Unavailable

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection

APPLIED: Final = "SELECT version FROM schema_migrations"

# All that the migrations grant to the role, this login must be allowed, by that role or otherwise. Before the first
# migration nothing is granted. The catalogue can be read by every login.
RIGHTS: Final = """
    SELECT quote_ident(current_user) AS login,
           coalesce(has_schema_privilege(to_regnamespace('public'), 'USAGE'), true) AND NOT EXISTS (
               SELECT FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.relnamespace = to_regnamespace('public') AND c.relkind = 'r'
                 AND a.grantee = to_regrole($1) AND NOT has_table_privilege(c.oid, a.privilege_type)
           ) AS suffice
"""

# Whoever owns the table of the events can rewrite them.
MAY_REWRITE: Final = """
    SELECT r.rolsuper OR EXISTS (
        SELECT FROM pg_class c
        WHERE c.oid = to_regclass('public.order_events') AND pg_has_role(c.relowner, 'USAGE')
    ) FROM pg_roles r WHERE r.rolname = current_user
"""

SERVER: Final = """
    SELECT current_setting('server_version') AS version, current_user AS login, current_database() AS database,
           pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean AS read_only,
           current_setting('synchronous_commit') AS synchronous_commit,
           (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS room,
           (SELECT sum(numbackends)::int FROM pg_stat_database WHERE datid <> 0) AS used
"""

STATEMENT: Final = "SELECT 'a statement that is prepared once'"


class Rights(NamedTuple):
    """`login` is quoted as SQL needs it; `suffice`: it is allowed all that the role is."""

    login: str
    suffice: bool


class Server(NamedTuple):
    """The server behind the address. `vector` is the version of pgvector in this database, None: it is not there.

    `used` counts the connections of all logins, which pg_stat_activity shows to a few only.
    """

    version: str
    login: str
    database: str
    read_only: bool
    synchronous_commit: str
    vector: str | None
    room: int
    used: int


async def applied_migrations(database: Database) -> set[str] | None:
    """Their versions; None: there is no table of them, or this login may not read it. Raises Unavailable."""
    try:
        async with database.transaction() as connection:
            return {row["version"] for row in await connection.fetch(APPLIED)}
    except Unavailable as error:
        if error.type != REFUSED:
            raise
        return None


async def rights_of(database: Database, role: str) -> Rights:
    """Whether this login may do what the role may. Raises Unavailable."""
    async with database.transaction() as connection:
        return Rights(*await _row(connection, RIGHTS, role))


async def may_rewrite(database: Database) -> bool:
    """Whether this login could change what has happened. Raises Unavailable."""
    async with database.transaction() as connection:
        return bool(await connection.fetchval(MAY_REWRITE))


async def describe(database: Database) -> Server:
    """Raises Unavailable."""
    async with database.transaction() as connection:
        return Server(*await _row(connection, SERVER))


async def server_time(database: Database) -> datetime:
    """By the server's clock. Raises Unavailable."""
    async with database.transaction() as connection:
        now: datetime = await connection.fetchval("SELECT clock_timestamp()")
        return now


async def keeps_statements(database: Database) -> bool:
    """Whether a statement that one connection has prepared can be used in its next transaction too.

    Behind a pgbouncer that does not track prepared statements it cannot, once another transaction has taken the
    server's connection. So this holds that one, and asks again.

    Raises:
        Unavailable: PostgreSQL is out of reach.
    """
    try:
        async with database.connection() as first:
            async with first.transaction():
                await first.fetchval(STATEMENT)
            async with database.transaction() as other:
                await other.fetchval("SELECT 1")
                async with first.transaction():
                    await first.fetchval(STATEMENT)
    except Unavailable as error:
        if error.type != REFUSED:
            raise
        return False
    return True


async def _row(connection: "Connection", query: str, *arguments: str) -> "asyncpg.Record":
    row = await connection.fetchrow(query, *arguments)
    assert row  # noqa: S101 (such a query has one row)
    return row
