"""Messages about orders: e-mail to customers, events for analytics, alerts to operators."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import httpx
import structlog
from pydantic import SecretStr
from temporalio import activity

from gateways import slack
from gateways.http import post_json, raise_for_refusal, raise_unless_accepted
from gateways.notification_store import GIVEN_UP, keep_notification, read_end
from gateways.order_refunds import read_claim, read_refunded_lines
from gateways.order_store import read_charges, read_items, row_as_it_is, write_event
from gateways.parcel_store import Goods, read_goods
from gateways.postgres import FLUSH_LATER, Database
from gateways.refund_store import read_refunded
from orders.delivery import BUSINESS_DAYS, estimated_delivery
from orders.errors import Unavailable
from orders.models import (
    KEPT,
    UNFINISHED,
    Alert,
    ErrorCode,
    Notification,
    NotificationKind,
    OrderCharge,
    OrderRow,
    RefundKey,
)
from orders.money import to_json_number

if TYPE_CHECKING:
    from gateways.postgres import Connection

# What a customer may read: the row's own text names external services and their codes.
COULD_NOT: Final = "your order could not be processed"
WHY_NOT: Final[dict[ErrorCode | None, str]] = {
    ErrorCode.FULFILLMENT_REFUSED: "your order could not be shipped to this address",
    ErrorCode.AUTHORIZATION_EXPIRED: "the authorization of your payment ended before your order was complete",
}

DEPENDS_ON_STATUS: Final = frozenset({NotificationKind.CONFIRMATION, NotificationKind.ANALYTICS})

log = structlog.get_logger()


class Notifications:
    """Each notification arrives at most once for an order: we record it, and the receiver knows its idempotency key.

    Raises, in all activities:
        Unavailable: the receiver or PostgreSQL.
        Permanent: the receiver refuses the message.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (one for each external service)
        self,
        database: Database,
        http: httpx.AsyncClient,
        shop_id: str,
        email: str,
        analytics: str,
        webhook: SecretStr,
        link: Callable[[str], str],
    ) -> None:
        """`link` is the page of a workflow id in the Web UI."""
        self._database = database
        self._shop_id = shop_id
        self._http = http
        self._email = email.rstrip("/")
        self._analytics = analytics.rstrip("/")
        self._webhook = webhook
        self._link = link

    @activity.defn
    async def send_email(self, notification: Notification) -> str:
        """Write to the customer. Returns `sent`, or `dropped` if the order's status no longer calls for the message."""
        return await self._deliver(notification, "email", f"{self._email}/send")

    @activity.defn
    async def track_order(self, notification: Notification) -> str:
        """Send analytics the event that the order was placed. Returns the same as `send_email`."""
        return await self._deliver(notification, "analytics", f"{self._analytics}/events")

    @activity.defn
    async def give_up_notification(self, notification: Notification) -> None:
        """Record that a notification could not be delivered in time, unless it has been delivered after all."""
        async with self._database.transaction() as connection:
            if await keep_notification(connection, notification, GIVEN_UP, "out of time"):
                await write_event(connection, notification.order_id, f"gave up the notification {notification.name}")

    @activity.defn
    async def post_alert(self, alert: Alert) -> None:
        """Alert operators in the log and in Slack: what is wrong, the run's page, and what to type."""
        run = alert.run or activity.info().workflow_id
        link = self._link(run) if run else ""
        log.warning("alert", order_id=alert.order_id, key=alert.key, text=alert.text, link=link, command=alert.command)
        command = f"`{slack.escape(alert.command)}`" if alert.command else ""
        lines = filter(None, (f":warning: {slack.escape(alert.text)}", command, link))
        await slack.post(self._http, self._webhook, {"text": "\n".join(lines)}, {"Idempotency-Key": alert.key})

    async def _deliver(self, notification: Notification, service: str, url: str) -> str:
        delivery = await _delivery(notification)
        async with self._database.transaction() as connection:
            # A lock would not hold until the message arrives: a cancel may overtake one that is on its way.
            row = await row_as_it_is(connection, notification.order_id)
            done = await read_end(connection, notification)
            body = await _body(connection, row, notification, delivery)
        if done:
            return done
        if reason := _why_not(row, notification):
            await self._keep(notification, "dropped", reason)
            return "dropped"
        key = f"{self._shop_id}:{notification.order_id}:{notification.name}"
        response = await post_json(self._http, service, url, body, {"Idempotency-Key": key})
        raise_for_refusal(service, response)
        raise_unless_accepted(service, response)
        await self._keep(notification, "sent", "")
        return "sent"

    async def _keep(self, notification: Notification, state: str, detail: str) -> None:
        """Record what became of a notification. A crash of PostgreSQL may lose the record of the last second.

        That is no new case: a worker may die after the delivery, before the record. Then the confirmation is sent again
        by the next attempt, or by the run that reconcile-orders starts, under the key that the receiver knows.
        """
        async with self._database.transaction() as connection:
            await connection.execute(FLUSH_LATER)
            await keep_notification(connection, notification, state, detail)


def _why_not(row: OrderRow, notification: Notification) -> str | None:
    """Why the notification is dropped; None: the order's status calls for it.

    Raises:
        Unavailable: that is not decided yet, because the order is unfinished.
    """
    if notification.kind not in DEPENDS_ON_STATUS:
        return None
    if row.status in UNFINISHED and row.parked_step is None:
        raise Unavailable(f"the order is {row.status}", type="order_undecided", expected=True)
    return None if row.status in KEPT else f"the order is {row.status}"


async def _delivery(notification: Notification) -> dict[str, object]:
    """When the order should arrive; without a date where the holidays of its destination are not known."""
    if notification.delivery is None:
        return {}
    day = await asyncio.to_thread(estimated_delivery, notification.delivery)
    return {"estimatedDelivery": day and day.isoformat(), "businessDays": BUSINESS_DAYS[notification.delivery.priority]}


async def _body(
    connection: "Connection", row: OrderRow, notification: Notification, delivery: Mapping[str, object]
) -> dict[str, object]:
    items = await read_items(connection, row)
    charges = await read_charges(connection, row.id)
    if notification.kind is NotificationKind.ANALYTICS:
        properties = {"orderId": row.id, **_price(row, charges), **_sums(row, charges), "items": len(items)}
        return {"event": notification.kind, "userId": row.customer_id, "properties": properties}
    data: dict[str, object] = {"orderNumber": row.id}
    match notification.kind:
        case NotificationKind.CONFIRMATION:
            named = [_named(row, each) for each in charges]
            data |= {"items": items, "charges": named, **_price(row, charges), **delivery}
        case NotificationKind.CANCELLED:
            refunded = to_json_number(await read_refunded(connection, row.id), row.currency)
            data |= {"refundAmount": refunded, "currency": row.currency}
        case NotificationKind.REFUNDED:
            data |= await _refund(connection, row, notification.about)
        case NotificationKind.SHIPPED:
            data |= _parcel(await read_goods(connection, row.id), notification.about)
        case NotificationKind.FAILED:
            data["reason"] = WHY_NOT.get(row.error_code, COULD_NOT)
    return {"to": notification.to, "template": notification.kind, "data": data}


async def _refund(connection: "Connection", row: OrderRow, refund_id: str) -> dict[str, object]:
    """What is refunded, and of which units."""
    key = RefundKey(order_id=row.id, refund_id=refund_id)
    claim = await read_claim(connection, key)
    lines = await read_refunded_lines(connection, key)
    return {
        "refundId": refund_id,
        "refundAmount": to_json_number(claim.amount if claim else 0, row.currency),
        "currency": row.currency,
        "lines": [line.model_dump(include={"product_id", "quantity"}) for line in lines],
    }


def _parcel(goods: Goods, shipment_id: str) -> dict[str, object]:
    """A parcel as the customer reads it. `complete`: nothing else is to come."""
    parcel = next(each for each in goods.parcels if each.id == shipment_id)
    return {
        "shipmentId": shipment_id,
        "items": [{"productId": product, "quantity": units} for product, units in goods.lines_of(parcel).items()],
        "carrier": parcel.carrier,
        "tracking": parcel.tracking,
        "trackingUrl": parcel.tracking_url,
        "complete": goods.have_left,
    }


def _named(row: OrderRow, charge: OrderCharge) -> dict[str, object]:
    """A charge as the customer reads it."""
    return charge.model_dump() | {"amount": to_json_number(charge.amount, row.currency), "currency": row.currency}


def _price(row: OrderRow, charges: Sequence[OrderCharge]) -> dict[str, object]:
    """What the products cost, and what the order costs."""
    subtotal = row.total - sum(each.amount for each in charges)
    return {
        "subtotal": to_json_number(subtotal, row.currency),
        "total": to_json_number(row.total, row.currency),
        "currency": row.currency,
    }


def _sums(row: OrderRow, charges: Sequence[OrderCharge]) -> dict[str, float]:
    """The sum of the charges of each type that the order has."""
    sums: Counter[str] = Counter()
    for each in charges:
        sums[each.type] += each.amount
    return {type_: to_json_number(amount, row.currency) for type_, amount in sums.items()}
