"""Whether Stripe can be reached, takes the key, and gives it the rights that orders need. Nothing is written."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from stripe import StripeClient

from app.clients import http_of, stripe_of
from app.doctor.clocks import agree, now
from app.startup_checks import CannotAsk, CannotStart, Check
from config.settings import Settings
from gateways.stripe_rights import READS, KeyRefused, RightMissing, read
from orders.errors import Permanent, Unavailable

FIRST: Final = next(iter(READS))  # the right that is asked to see whether Stripe answers


@asynccontextmanager
async def open_stripe(settings: Settings) -> AsyncIterator[StripeClient]:
    """Raises CannotStart: Stripe is out of reach, or refuses the key."""
    async with http_of(settings, settings.http_timeout_seconds) as http:
        client = stripe_of(settings, http)
        try:
            await read(client, FIRST)
        except RightMissing:
            pass  # a check names it
        except KeyRefused:
            raise CannotStart("it refuses STRIPE_SECRET_KEY: the key was rolled, or is of another account") from None
        except (Permanent, Unavailable) as error:
            raise CannotStart(f"{error.message}: check STRIPE_API_BASE, and the network between") from None
        yield client


async def check_right(client: StripeClient, right: str) -> str:
    try:
        await read(client, right)
    except RightMissing:
        raise CannotStart(f"STRIPE_SECRET_KEY may not read {right}: give it that right in the dashboard") from None
    return "can be read"


async def check_clock(client: StripeClient) -> str:
    """An event whose signature is older than WEBHOOK_TOLERANCE_SECONDS is refused."""
    before = now()
    try:
        theirs = await read(client, FIRST)
    except RightMissing:
        raise CannotAsk(f"the key may not read {FIRST}") from None
    if theirs is None:
        raise CannotAsk("its answer has no date")
    return agree(theirs, before, now(), whole_seconds=True)


async def check_writing(_: StripeClient) -> str:
    """A read cannot show that the key may write PaymentIntents, and Charges and Refunds."""
    raise CannotAsk("only a write can show it: the first order writes a PaymentIntent, and its cancel a refund")


STRIPE_CHECKS: Final = (
    *(Check(right, partial(check_right, right=right)) for right in READS),
    Check("writing", check_writing),
    Check("clock", check_clock),
)
