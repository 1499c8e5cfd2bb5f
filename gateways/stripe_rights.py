"""What a Stripe API key may read, asked one right at a time. Nothing is written, and no object is kept."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Final

import stripe

from gateways.http import header
from gateways.stripe_errors import translate

# The rights that orders need, by their names in Stripe's dashboard, each with a read that needs it.
READS: Final[Mapping[str, Callable[[stripe.StripeClient], Awaitable[stripe.StripeObject]]]] = {
    "PaymentIntents": lambda client: client.v1.payment_intents.list_async({"limit": 1}),
    "Charges and Refunds": lambda client: client.v1.refunds.list_async({"limit": 1}),
    "Disputes": lambda client: client.v1.disputes.list_async({"limit": 1}),
    "Radar": lambda client: client.v1.radar.early_fraud_warnings.list_async({"limit": 1}),
    "Reviews": lambda client: client.v1.reviews.list_async({"limit": 1}),
}


class KeyRefused(Exception):
    """Stripe refuses the key itself."""


class RightMissing(Exception):
    """The key may not read this."""


async def read(client: stripe.StripeClient, right: str) -> datetime | None:
    """Read what needs this right; the time of the answer by Stripe's clock, None if the answer has none.

    Raises:
        KeyRefused, RightMissing: see there.
        Unavailable, Permanent: as gateways.stripe raises them.
    """
    try:
        answer = await READS[right](client)
    except stripe.AuthenticationError:
        raise KeyRefused from None
    except stripe.PermissionError:
        raise RightMissing from None
    except stripe.StripeError as error:
        raise translate(error) from None
    date = header(answer.last_response.headers, "date") if answer.last_response else ""
    try:
        return parsedate_to_datetime(date)
    except ValueError:
        return None
