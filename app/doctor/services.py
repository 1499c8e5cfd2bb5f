"""Whether the other external services can be reached. What operators would see, or what costs, is asked on demand."""

import re
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx

from app.clients import http_of, warehouse_of
from app.startup_checks import CannotAsk, CannotStart, Check
from config.settings import Settings
from gateways import slack
from gateways.http import reach
from gateways.openai import MAX_ANSWER, LanguageModel, openai_client
from orders.errors import Permanent, Unavailable
from orders.recommendations import IndexTarget

SLACK_HOST: Final = "hooks.slack.com"
SLACK_PATH: Final = re.compile(r"/(services|workflows|triggers)/\S{10,}")
TEST_MESSAGE: Final = "A test by `starter.py doctor --send`: nothing is wrong."


class Services(NamedTuple):
    """The way to the external services."""

    settings: Settings
    http: httpx.AsyncClient


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    async with http_of(settings, settings.http_timeout_seconds, MAX_ANSWER) as http:
        yield Services(settings, http)


def service_checks(*, send: bool) -> Sequence[Check[Services]]:
    return (
        Check("warehouse", check_warehouse),
        Check("e-mail", check_email),
        Check("analytics", check_analytics),
        Check("Slack", partial(check_slack, send=send)),
        Check("language model", partial(check_model, send=send)),
    )


async def check_warehouse(services: Services) -> str:
    """It must say of an order that there is not that it does not know it."""
    warehouse = warehouse_of(services.settings, services.http, shop_id="doctor")
    order_id = f"doctor-{uuid.uuid4().hex[:12]}"
    with naming("FULFILLMENT_API", "FULFILLMENT_KEY"):
        shipment = await warehouse.read_shipment(order_id)
    if shipment:
        raise CannotStart(
            f"it has a shipment of {order_id}, which no shop has placed: docs/warehouse.md has its answers"
        )
    return "takes the key, and knows no order that was never placed"


async def check_email(services: Services) -> str:
    return await _reachable(services, "EMAIL_SERVICE_URL", services.settings.email_service_url)


async def check_analytics(services: Services) -> str:
    return await _reachable(services, "ANALYTICS_URL", services.settings.analytics_url)


async def check_slack(services: Services, *, send: bool) -> str:
    webhook = services.settings.slack_webhook
    parts = urlsplit(webhook.get_secret_value())
    if parts.hostname == SLACK_HOST and not SLACK_PATH.fullmatch(parts.path):
        raise CannotStart("SLACK_WEBHOOK is no incoming webhook: copy it from the page of your app at api.slack.com")
    if not send:
        return f"{await _reachable(services, 'SLACK_WEBHOOK', webhook.get_secret_value())}; --send posts a message"
    with naming("SLACK_WEBHOOK"):
        await slack.post(services.http, webhook, {"text": TEST_MESSAGE}, {})
    return "a test message is in the channel"


async def check_model(services: Services, *, send: bool) -> str:
    settings = services.settings
    if not settings.openai_api_key.get_secret_value():
        raise CannotAsk("OPENAI_API_KEY is empty: products are recommended without a model")
    if not send:
        answer = await _reachable(services, "OPENAI_BASE_URL", settings.openai_base)
        return f"{answer}; --send embeds one word, which costs"
    client = openai_client(services.http, settings.openai_api_key.get_secret_value(), settings.openai_base)
    model = LanguageModel(client, model=settings.recommendation_model, max_tokens=settings.recommendation_max_tokens)
    target = IndexTarget(model=settings.embedding_model, dimensions=settings.embedding_dimensions)
    with naming("OPENAI_API_KEY", "OPENAI_BASE_URL", "EMBEDDING_MODEL", "EMBEDDING_DIMENSIONS"):
        (vector,) = await model.embed(["doctor"], target)
    return f"{target.model} embeds a word in {len(vector)} dimensions"


async def _reachable(services: Services, setting: str, url: str) -> str:
    """Any answer of the host will do: nothing is sent, and no key."""
    with naming(setting):
        await reach(services.http, setting, url)
    return "its host answers"


@contextmanager
def naming(*settings: str) -> Iterator[None]:
    """Add to a failure what to look at."""
    try:
        yield
    except (Permanent, Unavailable) as error:
        raise CannotStart(f"{error.message}: check {', '.join(settings)}, and the network between") from None
