"""What a program checks before it starts. Each is here once: programs refuse to start by it, doctor reports it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

import structlog
from temporalio.client import Client

from app.database_problems import (
    APP_ROLE,
    CATALOGUE_ROLE,
    CONNECT_ERRORS,
    PRIVACY_ROLE,
    READER_ROLE,
    missing_grant,
    problem_of,
)
from config.settings import (
    LOOPBACK,
    SANDBOX_FULFILLMENT_WEBHOOK_SECRET,
    SANDBOX_STRIPE_WEBHOOK_SECRET,
    Settings,
)
from gateways.postgres import Database, open_pool
from gateways.postgres_facts import applied_migrations, rights_of
from gateways.temporal import CREATE_ATTRIBUTE
from gateways.temporal_facts import NotForUs, has_keyword
from orders.errors import NoAnswer, Unavailable
from orders.names import SEARCH_ATTRIBUTES

MIGRATIONS: Final = Path(__file__).parents[1] / "migrations"

SubjectT = TypeVar("SubjectT")

log = structlog.get_logger()


class CannotStart(Exception):
    """Something that the program needs is missing; the message says what and where."""


class CannotAsk(Exception):
    """What a check is about cannot be asked from here; the message says why, and what to look at instead."""


class Check(NamedTuple, Generic[SubjectT]):
    """One thing that is asked of settings, a database or a client.

    `ask` answers what it found, in a few words. It raises CannotStart for a problem, and CannotAsk.
    """

    name: str
    ask: Callable[[SubjectT], Awaitable[str]]


async def require(checks: Sequence[Check[SubjectT]], subject: SubjectT) -> None:
    """Pass all checks. What cannot be asked is logged, and is no reason not to start.

    Raises:
        CannotStart: the first problem.
    """
    for check in checks:
        try:
            await check.ask(subject)
        except CannotAsk as reason:
            log.warning("not checked", check=check.name, reason=str(reason))


@asynccontextmanager
async def open_database(
    settings: Settings, kind: type[Database] = Database, checks: Sequence[Check[Database]] | None = None
) -> AsyncIterator[Database]:
    """The database that the settings name, after its checks: by default those of a program that places orders.

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
        try:
            await require(DATABASE_CHECKS if checks is None else checks, database)
        except Unavailable as error:
            raise CannotStart(f"PostgreSQL at DATABASE_URL cannot be used: {error.message}") from error
        yield database


async def check_public_secrets(settings: Settings) -> str:
    """With a live Stripe key, refuse the sandbox's signing secrets: they are in this repository."""
    given = {
        "STRIPE_WEBHOOK_SECRET": (settings.stripe_webhook_secret, SANDBOX_STRIPE_WEBHOOK_SECRET),
        "FULFILLMENT_WEBHOOK_SECRET": (settings.fulfillment_webhook_secret, SANDBOX_FULFILLMENT_WEBHOOK_SECRET),
    }
    public = [name for name, (secret, known) in given.items() if known in secret.get_secret_value()]
    if settings.is_live and public:
        verb = "is" if len(public) == 1 else "are"
        raise CannotStart(f"{' and '.join(public)} {verb} the sandbox's, but STRIPE_SECRET_KEY is a live key")
    return f"{' and '.join(public)}: the sandbox's, as long as no real money is charged" if public else "your own"


async def check_rights(database: Database, role: str) -> str:
    rights = await rights_of(database, role)
    if not rights.suffice:
        raise CannotStart(missing_grant(rights.login, role))
    return f"the login {rights.login} may do all that {role} may"


async def check_migrations(database: Database) -> str:
    """Refuse a database without the schema of this version's programs."""
    wanted = {version_of(path) for path in MIGRATIONS.glob("*.sql")}
    applied = await applied_migrations(database) or set()
    if missing := sorted(wanted - applied):
        raise CannotStart(f"PostgreSQL lacks the migrations {', '.join(missing)}: run `make migrate`")
    later = sorted(applied - wanted)
    return f"all {len(wanted)} applied" + (f"; of a later version: {', '.join(later)}" if later else "")


async def check_search_attributes(client: Client) -> str:
    """Refuse a namespace without a search attribute: it would fail every workflow task for ever."""
    names = sorted(SEARCH_ATTRIBUTES)
    try:
        missing = [name for name in names if not await has_keyword(client, name)]
    except NotForUs as reason:
        raise CannotAsk(
            f"Temporal does not answer ({reason}): see to it that the namespace {client.namespace} has "
            f"{', '.join(names)}, of type Keyword"
        ) from None
    except NoAnswer as error:
        raise CannotStart(str(error)) from error
    if missing:
        raise CannotStart(
            f"Temporal lacks the search attributes {', '.join(missing)}, of type Keyword: create each with "
            f"{CREATE_ATTRIBUTE}"
        )
    return ", ".join(names)


SETTINGS_CHECKS: Final = (Check("signing secrets", check_public_secrets),)

SCHEMA_CHECKS: Final = (Check("migrations", check_migrations),)
DATABASE_CHECKS: Final = (
    Check("rights", partial(check_rights, role=APP_ROLE)),
    *SCHEMA_CHECKS,
)
READER_CHECKS: Final = (  # for commands that only read
    Check("rights", partial(check_rights, role=READER_ROLE)),
    *SCHEMA_CHECKS,
)
CATALOGUE_CHECKS: Final = (  # for the import of the catalogue
    Check("rights", partial(check_rights, role=CATALOGUE_ROLE)),
    *SCHEMA_CHECKS,
)
PRIVACY_CHECKS: Final = (  # for the erasure of personal data
    Check("rights", partial(check_rights, role=PRIVACY_ROLE)),
    *SCHEMA_CHECKS,
)
TEMPORAL_CHECKS: Final = (Check("search attributes", check_search_attributes),)


def version_of(migration: Path) -> str:
    return migration.name.partition("_")[0]


def check_temporal_is_here(client: Client) -> None:
    """Refuse CRASH_AT where Temporal is on another machine: a worker that kills itself must not take its tasks.

    Raises:
        CannotStart: Temporal is not on this machine.
    """
    if urlsplit(f"//{client.service_client.config.target_host}").hostname not in LOOPBACK:
        raise CannotStart("CRASH_AT kills workers: Temporal must be on this machine, TEMPORAL_ADDRESS is not")
