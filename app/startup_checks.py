"""What a program checks before it starts: the schema, the search attributes, and where crash points may be used."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from app.database_problems import CONNECT_ERRORS, missing_grant, problem_of
from config.settings import LOOPBACK, Settings
from gateways.postgres import REFUSED, Database, open_pool
from gateways.temporal import CREATE_ATTRIBUTE
from orders.errors import Unavailable
from orders.names import SEARCH_ATTRIBUTES

MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"

# No row before the first migration. The catalogue can be read by every login.
PRIVILEGES: Final = """
    SELECT quote_ident(current_user) AS login,
           has_schema_privilege(relnamespace, 'USAGE') AND has_table_privilege(oid, 'UPDATE') AS may_write
    FROM pg_class WHERE relname = 'orders' AND relnamespace = to_regnamespace('public')
"""


class CannotStart(Exception):
    """Something that the program needs is missing; the message says what and where."""


@asynccontextmanager
async def open_database(settings: Settings, kind: type[Database] = Database) -> AsyncIterator[Database]:
    """The database that the settings name, with all migrations applied.

    Raises:
        CannotStart: PostgreSQL cannot be used, or a migration or a GRANT is missing.
    """
    url = settings.database_url.get_secret_value()
    try:
        pool = await open_pool(url, settings.database_pool_size, keep_statements=settings.database_prepared_statements)
    except CONNECT_ERRORS as error:
        raise CannotStart(problem_of(error, url)) from error
    async with pool:
        database = kind(pool)
        await check_migrations(database)
        yield database


async def check_migrations(database: Database) -> None:
    """Refuse a database that this version's programs cannot use.

    Raises:
        CannotStart: naming the GRANT that the login lacks, or the migrations that are missing.
    """
    wanted = {version_of(path) for path in MIGRATIONS.glob("*.sql")}
    try:
        async with database.transaction() as connection:
            login, may_write = await connection.fetchrow(PRIVILEGES) or (None, None)
            if login and not may_write:
                raise CannotStart(missing_grant(login))
            applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    except Unavailable as error:
        if error.type != REFUSED:
            raise CannotStart(f"PostgreSQL at DATABASE_URL cannot be used: {error.message}") from error
        applied = set()
    if missing := sorted(wanted - applied):
        raise CannotStart(f"PostgreSQL lacks the migrations {', '.join(missing)}: run `make migrate`")


def version_of(migration: Path) -> str:
    return migration.name.partition("_")[0]


async def check_search_attributes(client: Client) -> None:
    """Refuse a namespace where a search attribute is not registered: it would fail every workflow task for ever.

    Raises:
        CannotStart: naming the search attributes that are missing, or why Temporal does not list them.
    """
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        answer = await client.operator_service.list_search_attributes(request, retry=True)
    except RPCError as error:
        raise CannotStart(f"Temporal does not list its search attributes: {error}") from error
    if missing := sorted(SEARCH_ATTRIBUTES.keys() - answer.custom_attributes.keys()):
        raise CannotStart(
            f"Temporal lacks the search attributes {', '.join(missing)}: create each with {CREATE_ATTRIBUTE}"
        )


def check_temporal_is_here(client: Client) -> None:
    """Refuse CRASH_AT where Temporal is on another machine: a worker that kills itself must not take its tasks.

    Raises:
        CannotStart: Temporal is not on this machine.
    """
    if urlsplit(f"//{client.service_client.config.target_host}").hostname not in LOOPBACK:
        raise CannotStart("CRASH_AT kills workers: Temporal must be on this machine, TEMPORAL_ADDRESS is not")
