"""Messages about orders: e-mail, analytics and alerts. None of them can fail an order."""

from typing import TYPE_CHECKING, Final

import httpx
import structlog
from pydantic import SecretStr
from temporalio import activity

from activities.database import Database
from activities.http import accept, post_json
from activities.order_rows import existing_row, read_items, write_event
from orders.errors import Unavailable
from orders.models import Alert, Notice, NoticeKind, OrderRow, Status
from orders.money import to_json_number

if TYPE_CHECKING:
    from activities.database import Connection

KEEP_NOTICE: Final = """
    INSERT INTO notices (order_id, kind, state, detail) VALUES ($1, $2, $3, $4)
    ON CONFLICT (order_id, kind) DO UPDATE SET state = excluded.state, detail = excluded.detail
    WHERE notices.state = 'given_up' AND excluded.state <> 'given_up'
    RETURNING state
"""

READ_NOTICE: Final = "SELECT state FROM notices WHERE order_id = $1 AND kind = $2 AND state <> 'given_up'"

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
    """Each notice is delivered at most once per order and kind: by our record, and by the receiver's key.

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
    async def send_email(self, notice: Notice) -> str:
        """Write to the customer; `sent`, or `dropped` when the order's state no longer calls for it."""
        return await self._deliver(notice, "email", f"{self._email}/send")

    @activity.defn
    async def track_order(self, notice: Notice) -> str:
        """Tell analytics that the order was placed."""
        return await self._deliver(notice, "analytics", f"{self._analytics}/events")

    @activity.defn
    async def give_up_notice(self, notice: Notice) -> None:
        """Record, once, that a notice could not be delivered in time; not if it was after all."""
        async with self._database.transaction() as connection:
            if await connection.fetchval(KEEP_NOTICE, notice.order_id, notice.kind, "given_up", "out of time"):
                await write_event(connection, notice.order_id, f"gave up the notice {notice.kind}")

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

    async def _deliver(self, notice: Notice, service: str, url: str) -> str:
        async with self._database.transaction() as connection:
            row = await existing_row(connection, notice.order_id)
            done: str | None = await connection.fetchval(READ_NOTICE, notice.order_id, notice.kind)
            body = await _body(connection, row, notice)
        if done:
            return done
        if not _is_due(row, notice.kind):
            await self._keep(notice, "dropped", f"the order is {row.status}")
            return "dropped"
        response = await post_json(
            self._http, service, url, body, {"Idempotency-Key": f"{notice.order_id}:{notice.kind}"}
        )
        accept(service, response)
        await self._keep(notice, "sent", "")
        return "sent"

    async def _keep(self, notice: Notice, state: str, detail: str) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(KEEP_NOTICE, notice.order_id, notice.kind, state, detail)


def _is_due(row: OrderRow, kind: NoticeKind) -> bool:
    """Whether the row still calls for the notice.

    Raises:
        Unavailable: the row has not come to rest; look again.
    """
    if kind in (NoticeKind.CANCELLED, NoticeKind.FAILED):
        return True
    if row.status in UNDECIDED and row.parked_step is None:
        raise Unavailable(f"the order is {row.status}", type="order_undecided", expected=True)
    return row.status in CONFIRMED


async def _body(connection: "Connection", row: OrderRow, notice: Notice) -> dict[str, object]:
    items = await read_items(connection, row)
    total = to_json_number(row.total, row.currency)
    if notice.kind is NoticeKind.ANALYTICS:
        properties = {"orderId": row.id, "total": total, "items": len(items)}
        return {"event": notice.kind, "userId": row.customer_id, "properties": properties}
    data: dict[str, object] = {"orderNumber": row.id}
    match notice.kind:
        case NoticeKind.CONFIRMATION:
            delivery = notice.estimated_delivery.isoformat() if notice.estimated_delivery else None
            data |= {"items": items, "total": total, "estimatedDelivery": delivery}
        case NoticeKind.CANCELLED:
            refunded = await connection.fetchval(READ_REFUNDED, row.id)
            data["refundAmount"] = to_json_number(refunded, row.currency)
        case NoticeKind.FAILED:
            data["reason"] = row.error
    return {"to": notice.to, "template": notice.kind, "data": data}
