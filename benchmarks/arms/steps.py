"""The seven steps of an order, which are the product's activities, for arms that keep no run in Temporal.

Five in a row, then the answer, then two together. Each is harmless to repeat, by the order id.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.notifications import Notifications
from activities.payments import Payments
from app.clients import http_of, stripe_of, warehouse_of
from app.startup_checks import open_database
from app.wiring import terms_of
from benchmarks.arms.arm import Payload
from config.links import workflow_link
from config.settings import Settings
from gateways.order_store import read_shop_id
from gateways.spent_keys import SpentKeys
from gateways.stripe import StripeGateway
from orders.models import Notification, NotificationKind, Order
from orders.parsing import parse_order, read_json

FORWARD: Final = ("reserve", "authorize", "fulfill", "capture", "finalize")
AFTERWARDS: Final = ("email", "analytics")

# Takes an order one step further, and answers where it is then.
Step = Callable[[Order], Awaitable[str]]

EXPECTED: Final = {
    "reserve": "pending",
    "authorize": "authorized",
    "fulfill": "accepted",
    "capture": "True",
    "finalize": "processing",
    "email": "sent",
    "analytics": "sent",
}


def order_of(order_id: str, payload: Payload) -> Order:
    """The order, as the product parses it."""
    return parse_order(order_id, read_json(json.dumps(payload)))


@asynccontextmanager
async def open_steps(settings: Settings) -> AsyncIterator[Mapping[str, Step]]:
    """The steps by name, with the connections and clients that a worker of the product has."""
    async with open_database(settings) as database, http_of(settings, settings.http_timeout_seconds) as http:
        shop_id = await read_shop_id(database)
        inventory = Inventory(database, terms_of(settings))
        payments = Payments(database, StripeGateway(stripe_of(settings, http), shop_id, SpentKeys(database)))
        fulfillment = Fulfillment(
            database,
            warehouse_of(settings, http, shop_id),
            remembers_cancels=settings.fulfillment_remembers_cancels,
        )
        notifications = Notifications(
            database,
            http,
            shop_id,
            settings.email_service_url,
            settings.analytics_url,
            settings.slack_webhook,
            partial(workflow_link, settings.temporal_ui_url, "default"),
        )
        steps: dict[str, Step] = {
            "reserve": partial(_reserve, inventory),
            "authorize": partial(_authorize, payments),
            "fulfill": partial(_fulfill, fulfillment),
            "capture": partial(_capture, payments),
            "finalize": partial(_finalize, inventory),
            "email": partial(_email, notifications),
            "analytics": partial(_analytics, notifications),
        }
        yield {name: partial(_expecting, name, step) for name, step in steps.items()}


async def _expecting(name: str, step: Step, order: Order) -> str:
    """The step's answer. Raises RuntimeError if it is not that of an order that goes well."""
    if (answer := await step(order)) != EXPECTED[name]:
        raise RuntimeError(f"{name} of {order.id}: {answer}")
    return answer


async def _reserve(inventory: Inventory, order: Order) -> str:
    return (await inventory.reserve_stock(order.reservation)).status


async def _authorize(payments: Payments, order: Order) -> str:
    return (await payments.authorize_payment(order.payment)).state


async def _fulfill(fulfillment: Fulfillment, order: Order) -> str:
    return (await fulfillment.request_fulfillment(order.fulfillment)).state


async def _capture(payments: Payments, order: Order) -> str:
    return str(await payments.capture_payment(order.id))


async def _finalize(inventory: Inventory, order: Order) -> str:
    return (await inventory.finalize_order(order.id)).status


async def _email(notifications: Notifications, order: Order) -> str:
    kind = NotificationKind.CONFIRMATION
    return await notifications.send_email(Notification(order_id=order.id, kind=kind, to=order.customer_email))


async def _analytics(notifications: Notifications, order: Order) -> str:
    return await notifications.track_order(Notification(order_id=order.id, kind=NotificationKind.ANALYTICS))
