"""What worker and web process need of PostgreSQL, and of the way to it."""

from functools import partial
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from app.doctor.clocks import agree, now
from app.startup_checks import DATABASE_CHECKS, CannotAsk, CannotStart, Check
from config.settings import LOOPBACK, Settings
from gateways import postgres_facts
from gateways.postgres import Database

CHECKED: Final = {"verify-full", "verify-ca"}  # the values of sslmode that check the server's certificate


def postgres_checks(settings: Settings) -> tuple[Check[Database], ...]:
    return (
        Check("server", check_server),
        Check("TLS", partial(check_tls, url=settings.database_url.get_secret_value())),
        *DATABASE_CHECKS,
        Check("least privilege", partial(check_least_privilege, is_live=settings.is_live)),
        Check("pgvector", check_pgvector),
        Check("durability", check_durability),
        Check("connections", partial(check_connections, needed=settings.database_pool_size)),
        Check("prepared statements", partial(check_statements, settings=settings)),
        Check("clock", check_clock),
    )


async def check_server(database: Database) -> str:
    server = await postgres_facts.describe(database)
    return f"PostgreSQL {server.version}, database {server.database}, login {server.login}"


async def check_tls(_: Database, url: str) -> str:
    """Across a network the address must say whether the connection is encrypted, and whom it trusts."""
    parts = urlsplit(url)
    mode = dict(parse_qsl(parts.query)).get("sslmode")
    if mode in CHECKED:
        return f"encrypted, and the server's certificate is checked ({mode})"
    if not parts.hostname or (parts.hostname in LOOPBACK and "," not in parts.netloc):
        return "none: the server is on this machine"
    if mode == "disable":
        return "none, as sslmode=disable says: nobody may listen in on the way"
    if mode == "require":
        return "encrypted, but anybody may be the server: sslmode=verify-full checks its certificate"
    raise CannotStart(
        "DATABASE_URL does not say whether it must be encrypted: write sslmode=verify-full&sslrootcert=… with the file "
        "of the server's CA, or sslmode=disable if nobody can listen in on the way"
    )


async def check_least_privilege(database: Database, *, is_live: bool) -> str:
    """A program that owns the tables could rewrite what has happened, and so could who takes it over."""
    if not await postgres_facts.may_rewrite(database):
        return "the login cannot rewrite what has happened"
    text = "the login owns the tables, or is a superuser"
    if is_live:
        raise CannotStart(f"{text}: create one that has no more than the role orders_app (docs/production.md, step 1)")
    return f"{text}: not with a live key"


async def check_pgvector(database: Database) -> str:
    version = (await postgres_facts.describe(database)).vector
    if version is None:
        raise CannotStart(
            "this database lacks the extension pgvector: install it on the server, then run CREATE EXTENSION vector in "
            "this database as an administrator"
        )
    return version


async def check_durability(database: Database) -> str:
    server = await postgres_facts.describe(database)
    if server.read_only:
        raise CannotStart("the server is a standby, or read-only: DATABASE_URL must name the primary server")
    if server.synchronous_commit == "off":
        raise CannotStart(
            "synchronous_commit is off, so a crash loses orders whose commit was answered: set it to on for this login"
        )
    return f"commits wait for the disk (synchronous_commit {server.synchronous_commit})"


async def check_connections(database: Database, *, needed: int) -> str:
    server = await postgres_facts.describe(database)
    text = f"{server.used} of {server.room} are in use; each worker and web process takes up to {needed}"
    if server.room - server.used < needed:
        raise CannotStart(f"{text}: raise max_connections, lower DATABASE_POOL_SIZE, or close connections of others")
    return text


async def check_statements(database: Database, *, settings: Settings) -> str:
    if not settings.database_prepared_statements:
        return "not kept, as DATABASE_PREPARED_STATEMENTS says"
    if settings.database_pool_size == 1:
        raise CannotAsk("it takes two connections, and DATABASE_POOL_SIZE is 1")
    if not await postgres_facts.keeps_statements(database):
        raise CannotStart(
            "a pgbouncer in front does not track prepared statements: set its max_prepared_statements (pgbouncer 1.21 "
            "or newer), or DATABASE_PREPARED_STATEMENTS=false"
        )
    return "kept from one transaction to the next"


async def check_clock(database: Database) -> str:
    before = now()
    theirs = await postgres_facts.server_time(database)
    return agree(theirs, before, now())
