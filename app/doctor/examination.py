"""What `starter.py doctor` asks: every check of the settings, PostgreSQL, Temporal, Stripe and the other services.

It ends in every case: what cannot be asked is skipped with a reason, and an answer that does not come is a problem. No
finding holds a secret: checks say names, and quote nothing of a setting's value.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Literal

from temporalio.client import Client

from app.doctor.payloads import check_codec_server, check_keys, check_newest_order
from app.doctor.postgres import postgres_checks
from app.doctor.services import open_services, service_checks
from app.doctor.settings import SETTINGS_CHECKS
from app.doctor.stripe import STRIPE_CHECKS, open_stripe
from app.doctor.temporal import temporal_checks
from app.startup_checks import CannotAsk, CannotStart, Check, SubjectT, open_database
from config.settings import Settings, read_settings
from config.temporal import connect
from orders.errors import InvalidInput, OrderError
from orders.models import Model

CHECK_SECONDS: Final = 20  # for one check
AFTER_SETTINGS: Final = ("PostgreSQL", "Temporal", "Stripe", "services")

State = Literal["ok", "problem", "skipped"]


class Finding(Model):
    """What one check found. `text` is the answer, the problem and what to do, or why nothing was asked."""

    area: str
    check: str
    state: State
    text: str


async def examine(*, send: bool = False) -> list[Finding]:
    """Every finding, area by area. `send` allows what operators see, or what costs: a message, an embedding."""
    try:
        settings = read_settings()
    except InvalidInput as error:
        wrong = [_finding("settings", "values", "problem", each) for each in error.problems]
        return wrong + [_finding(area, "all", "skipped", "correct the settings first") for area in AFTER_SETTINGS]
    services = (*service_checks(send=send), Check("codec server", check_codec_server))
    areas = await asyncio.gather(
        _area("settings", _as_they_are(settings), (*SETTINGS_CHECKS, Check("payload keys", check_keys))),
        _area("PostgreSQL", open_database(settings, checks=()), postgres_checks(settings)),
        _area("Temporal", _connected(), (*temporal_checks(settings), Check("newest order", check_newest_order))),
        _area("Stripe", open_stripe(settings), STRIPE_CHECKS),
        _area("services", open_services(settings), services),
    )
    return [finding for area in areas for finding in area]


async def _area(
    area: str, opening: AbstractAsyncContextManager[SubjectT], checks: Sequence[Check[SubjectT]]
) -> list[Finding]:
    """The findings of checks about one subject, one after the other: some need the subject to be at rest."""
    try:
        async with opening as subject:
            return [await _examined(area, check, subject) for check in checks]
    except (CannotStart, OrderError) as error:
        skipped = [_finding(area, check.name, "skipped", "see `connection`") for check in checks]
        return [_finding(area, "connection", "problem", str(error)), *skipped]


async def _examined(area: str, check: Check[SubjectT], subject: SubjectT) -> Finding:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return _finding(area, check.name, "ok", await check.ask(subject))
    except CannotAsk as reason:
        return _finding(area, check.name, "skipped", str(reason))
    except (CannotStart, OrderError) as error:
        return _finding(area, check.name, "problem", str(error))
    except TimeoutError:
        return _finding(area, check.name, "problem", f"there is no answer within {CHECK_SECONDS} seconds")
    except Exception as error:  # noqa: BLE001 (one check that is wrong must not hide the others)
        return _finding(area, check.name, "problem", f"the check itself fails, with {type(error).__name__}")


@asynccontextmanager
async def _as_they_are(settings: Settings) -> AsyncIterator[Settings]:
    yield settings


@asynccontextmanager
async def _connected() -> AsyncIterator[Client]:
    yield await connect()


def _finding(area: str, check: str, state: State, text: str) -> Finding:
    return Finding(area=area, check=check, state=state, text=text)
