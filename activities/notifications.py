"""Messages about orders: e-mail, analytics and alerts. None of them can fail an order."""

from typing import TYPE_CHECKING, Final

import httpx
import structlog
from pydantic import SecretStr
from temporalio import activity

from gateways.http import accept, post_json
from gateways.order_store import existing_row, read_items, write_event
from gateways.postgres import Database
from orders.errors import Unavailable
from orders.models import Alert, Notification, NotificationKind, OrderRow, Status
from orders.money import to_json_number

if TYPE_CHECKING:
    from gateways.postgres import Connection

KEEP_NOTIFICATION: Final = """
    INSERT INTO notifications (order_id, kind, state, detail) VALUES ($1, $2, $3, $4)
    ON CONFLICT (order_id, kind) DO UPDATE SET state = excluded.state, detail = excluded.detail
    WHERE notifications.state = 'given_up' AND excluded.state <> 'given_up'
    RETURNING state
"""

READ_NOTIFICATION: Final = "SELECT state FROM notifications WHERE order_id = $1 AND kind = $2 AND state <> 'given_up'"

READ_REFUNDED: Final = """
    SELECT coalesce(sum(r.amount), 0)
    FROM refunds r JOIN orders o ON (r.order_id, r.payment_intent_id) = (o.id, o.payment_intent_id)
    WHERE o.id = $1 AND r.status IN ('succeeded', 'pending')
"""

# Only an order in one of these states is confirmed; in these others it may yet come to one.
CONFIRMED: Final = {Status.PROCESSING, Status.SHIPPED, Status.DELIVERED}
UNDECIDED: Final = {Status.PENDING, Status.CAPTURING, Status.CANCELLING, Status.UNDOING}

log = structlog.get_logger()


class Notifications:
    """Each notification is delivered at most once per order and kind: by our record, and by the receiver's key.

    Raises, in all activities:
        Unavailable: the receiver or PostgreSQL.
        Permanent: the receiver refuses the message.
    """

    def __init__(
        self, database: Database, http: httpx.AsyncClient, email: str, analytics: str, slack: SecretStr
    ) -> None:
        self._database = database
        self._http = http
        self._email = email.rstrip("/")
        self._analytics = analytics.rstrip("/")
        self._slack = slack

    @activity.defn
    async def send_email(self, notification: Notification) -> str:
        """Write to the customer; `sent`, or `dropped` when the order's state no longer calls for it."""
        return await self._deliver(notification, "email", f"{self._email}/send")

    @activity.defn
    async def track_order(self, notification: Notification) -> str:
        """Tell analytics that the order was placed."""
        return await self._deliver(notification, "analytics", f"{self._analytics}/events")

    @activity.defn
    async def give_up_notification(self, notification: Notification) -> None:
        """Record, once, that a notification could not be delivered in time; not if it was after all."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(
                KEEP_NOTIFICATION, notification.order_id, notification.kind, "given_up", "out of time"
            ):
                await write_event(connection, notification.order_id, f"gave up the notification {notification.kind}")

    @activity.defn
    async def post_alert(self, alert: Alert) -> None:
        """Tell the people on call, in the log and in Slack."""
        log.warning("alert", order_id=alert.order_id, key=alert.key, text=alert.text)
        response = await post_json(
            self._http,
            "slack",
            self._slack.get_secret_value(),
            {"text": f":warning: {alert.text}"},
            {"Idempotency-Key": alert.key},
        )
        accept("slack", response)

    async def _deliver(self, notification: Notification, service: str, url: str) -> str:
        async with self._database.transaction() as connection:
            row = await existing_row(connection, notification.order_id)
            done: str | None = await connection.fetchval(READ_NOTIFICATION, notification.order_id, notification.kind)
            body = await _body(connection, row, notification)
        if done:
            return done
        if not _is_due(row, notification.kind):
            await self._keep(notification, "dropped", f"the order is {row.status}")
            return "dropped"
        response = await post_json(
            self._http, service, url, body, {"Idempotency-Key": f"{notification.order_id}:{notification.kind}"}
        )
        accept(service, response)
        await self._keep(notification, "sent", "")
        return "sent"

    async def _keep(self, notification: Notification, state: str, detail: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(KEEP_NOTIFICATION, notification.order_id, notification.kind, state, detail)


def _is_due(row: OrderRow, kind: NotificationKind) -> bool:
    """Whether the row still calls for the notification.

    Raises:
        Unavailable: the row has not come to rest; look again.
    """
    if kind in (NotificationKind.CANCELLED, NotificationKind.FAILED):
        return True
    if row.status in UNDECIDED and row.parked_step is None:
        raise Unavailable(f"the order is {row.status}", type="order_undecided", expected=True)
    return row.status in CONFIRMED


async def _body(connection: "Connection", row: OrderRow, notification: Notification) -> dict[str, object]:
    items = await read_items(connection, row)
    total = to_json_number(row.total, row.currency)
    if notification.kind is NotificationKind.ANALYTICS:
        properties = {"orderId": row.id, "total": total, "items": len(items)}
        return {"event": notification.kind, "userId": row.customer_id, "properties": properties}
    data: dict[str, object] = {"orderNumber": row.id}
    match notification.kind:
        case NotificationKind.CONFIRMATION:
            delivery = notification.estimated_delivery.isoformat() if notification.estimated_delivery else None
            data |= {"items": items, "total": total, "estimatedDelivery": delivery}
        case NotificationKind.CANCELLED:
            refunded = await connection.fetchval(READ_REFUNDED, row.id)
            data["refundAmount"] = to_json_number(refunded, row.currency)
        case NotificationKind.FAILED:
            data["reason"] = row.error
    return {"to": notification.to, "template": notification.kind, "data": data}
