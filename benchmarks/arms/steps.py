"""The seven steps of an order, which are the product's activities, for arms that keep no run in Temporal.

Five in a row, then the answer, then two together. Each is harmless to repeat, by the order id.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from temporalio.client import Client

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.notifications import Notifications
from activities.payments import Payments
from app.clients import http_of, stripe_of
from app.startup_checks import open_database
from app.wiring import activities_of
from benchmarks.arms.arm import Payload
from config.settings import Settings
from gateways.order_store import read_shop_id
from orders.models import Notification, NotificationKind, Order
from orders.parsing import parse_order, read_json


class Call(NamedTuple):
    """A step: its activity, what that gets of an order, and what is read of its result if the order goes well."""

    activity: Callable[..., Any]
    argument: Callable[[Order], Any]
    expected: str
    answer: Callable[[Any], object] = str


def _email(order: Order) -> Notification:
    return Notification(order_id=order.id, kind=NotificationKind.CONFIRMATION, to=order.customer_email)


def _analytics(order: Order) -> Notification:
    return Notification(order_id=order.id, kind=NotificationKind.ANALYTICS)


CALLS: Final[Mapping[str, Call]] = {
    "reserve": Call(Inventory.reserve_stock, lambda order: order.reservation, "pending", lambda row: row.status),
    "authorize": Call(Payments.authorize_payment, lambda order: order.payment, "authorized", lambda paid: paid.state),
    "fulfill": Call(
        Fulfillment.request_fulfillment, lambda order: order.fulfillment, "accepted", lambda asked: asked.state
    ),
    "capture": Call(Payments.capture_payment, lambda order: order.id, "True"),
    "finalize": Call(Inventory.finalize_order, lambda order: order.id, "processing", lambda row: row.status),
    "email": Call(Notifications.send_email, _email, "sent"),
    "analytics": Call(Notifications.track_order, _analytics, "sent"),
}

FORWARD: Final = ("reserve", "authorize", "fulfill", "capture", "finalize")
AFTERWARDS: Final = ("email", "analytics")

# Takes an order one step further, and answers where it is then.
Step = Callable[[Order], Awaitable[str]]


def order_of(order_id: str, payload: Payload) -> Order:
    """The order, as the product parses it."""
    return parse_order(order_id, read_json(json.dumps(payload)))


@asynccontextmanager
async def open_steps(settings: Settings) -> AsyncIterator[Mapping[str, Step]]:
    """The steps by name, with the connections and clients that a worker of the product has."""
    unused = await Client.connect("127.0.0.1:1", lazy=True)  # no step asks Temporal
    async with open_database(settings) as database, http_of(settings, settings.http_timeout_seconds) as http:
        shop_id = await read_shop_id(database)
        activities = activities_of(settings, unused, database, shop_id, http, stripe_of(settings, http), None)
        by_name = {each.__name__: each for each in activities}
        yield {name: partial(_step, by_name[call.activity.__name__], name, call) for name, call in CALLS.items()}


async def _step(activity: Callable[[Any], Awaitable[Any]], name: str, call: Call, order: Order) -> str:
    """The step's answer. Raises RuntimeError if it is not that of an order that goes well."""
    answer = str(call.answer(await activity(call.argument(order))))
    if answer != call.expected:
        raise RuntimeError(f"{name} of {order.id}: {answer}")
    return answer
