"""Brings the database at DATABASE_URL to the newest schema: `make migrate`.

It connects with the driver of the other programs, so that an address that works for one works for all of them.
"""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from app.database_problems import CONNECT_ERRORS, problem_of
from app.startup_checks import MIGRATIONS, CannotStart, version_of
from config.settings import read_database_settings
from gateways.postgres import ACQUIRE_SECONDS
from orders.errors import InvalidInput

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

UP: Final = "-- migrate:up"
DOWN: Final = "-- migrate:down"

# One at a time: two programs that migrate at once would apply the same migration.
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('schema_migrations'))"
CREATE: Final = "CREATE TABLE IF NOT EXISTS schema_migrations (version varchar(128) PRIMARY KEY)"
APPLIED: Final = "SELECT version FROM schema_migrations"
KEEP: Final = "INSERT INTO schema_migrations (version) VALUES ($1)"

NO_PGVECTOR: Final = (
    "PostgreSQL lacks the extension pgvector: install it on the server (Debian: postgresql-{version}-pgvector), and if "
    "this login may not create it, run CREATE EXTENSION vector in this database as an administrator"
)


async def migrate(url: str) -> list[str]:
    """Apply the migrations that the database lacks, in order; returns their names.

    Raises:
        CannotStart: PostgreSQL cannot be used, or a migration fails; the ones before it stay applied.
    """
    try:
        connection = await asyncpg.connect(url, timeout=ACQUIRE_SECONDS, statement_cache_size=0)
    except CONNECT_ERRORS as error:
        raise CannotStart(problem_of(error, url)) from error
    try:
        return [path.name for path in sorted(MIGRATIONS.glob("*.sql")) if await _apply(connection, path)]
    finally:
        await connection.close()


async def _apply(connection: "Connection", path: Path) -> bool:
    """Apply one migration and keep its version, in one transaction; False: it was applied before.

    Raises:
        CannotStart: the migration fails.
    """
    version = version_of(path)
    try:
        async with connection.transaction():
            await connection.execute(LOCK)
            await connection.execute(CREATE)
            if version in {row["version"] for row in await connection.fetch(APPLIED)}:
                return False
            await connection.execute(_up(path))
            await connection.execute(KEEP, version)
    except asyncpg.PostgresError as error:
        raise CannotStart(_failure(error, path, connection)) from error
    return True


def _up(path: Path) -> str:
    return path.read_text().partition(UP)[2].partition(DOWN)[0]


def _failure(error: asyncpg.PostgresError, path: Path, connection: "Connection") -> str:
    if "vector" in str(error) and isinstance(
        error, asyncpg.FeatureNotSupportedError | asyncpg.UndefinedFileError | asyncpg.InsufficientPrivilegeError
    ):
        return NO_PGVECTOR.format(version=connection.get_server_version().major)
    return f"the migration {path.name} fails: {error.args[0]}"


async def main() -> int:
    try:
        applied = await migrate(read_database_settings().database_url.get_secret_value())
    except (InvalidInput, CannotStart) as error:
        sys.stderr.write(f"make migrate: {error}\n")
        return 1
    sys.stdout.write("".join(f"Applied {name}\n" for name in applied) or "The schema is up to date.\n")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
