"""What follows from a parcel that has left: customers are notified, shortages refunded, operators alerted."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.client import Client

from gateways.notification_store import read_end
from gateways.order_refunds import amount_of
from gateways.order_store import lock_row, read_rows
from gateways.parcel_store import read_goods
from gateways.postgres import Database
from gateways.reminders import not_alerted_today
from gateways.run_inputs import find_customer_email
from gateways.run_starts import start_notify_shipment, start_shortage_refund
from gateways.shortage_store import find_empty, find_owed, find_unrefunded, settle_shortages
from orders.models import Model, Notification, NotificationKind
from orders.parcels import ParcelNotice, Shortage
from orders.reconciliation import Problem

if TYPE_CHECKING:
    import asyncpg

# What left longer ago is no news.
FIND_UNNOTIFIED: Final = """
    SELECT order_id, id FROM shipments s
    WHERE shipped_at BETWEEN now() - interval '1 day' AND now() - $1::interval
      AND NOT EXISTS (SELECT FROM notifications n WHERE (n.order_id, n.kind, n.about) = (s.order_id, $2, s.id))
    ORDER BY shipped_at LIMIT $3
"""

KEY: Final = "concat('parcel:', s.order_id, ':', s.id)"  # of the alert about a parcel

FIND_PROBLEMS: Final = f"""
    SELECT order_id, id, problem, {KEY} AS key FROM shipments s
    WHERE problem IS NOT NULL AND problem_at > now() - interval '7 days' AND {not_alerted_today(KEY)}
    ORDER BY problem_at LIMIT $1
"""  # noqa: S608 (a constant of ours)


class DueNotice(Model):
    """The message about a parcel, and for how many seconds it is tried."""

    notification: Notification
    deadline: int


class Parcels:
    """Starts what follows from parcels and shortages, as far as the web process has not; and finds problems.

    Raises, in all activities:
        Unavailable: PostgreSQL or Temporal.
    """

    def __init__(self, database: Database, client: Client, after: timedelta, *, emails: bool) -> None:
        """`after` is how long the web process has to start what follows from an event.

        With `emails` off, no customer is notified.
        """
        self._database = database
        self._client = client
        self._after = after
        self._emails = emails

    @activity.defn
    async def find_recipient(self, notice: ParcelNotice) -> DueNotice | None:
        """To whom to write about the parcel; None: there is no such parcel, or it was written about already.

        The address is in the notice, or in the request that the order was placed with, as long as Temporal has that.
        Nobody else is asked: an event names no address, because a signature only says who sends.
        """
        notification = Notification(
            order_id=notice.order_id,
            kind=NotificationKind.SHIPPED,
            about=notice.shipment_id,
            to=notice.customer_email,
        )
        async with self._database.transaction() as connection:
            row = await lock_row(connection, notice.order_id)  # waits for the transaction that keeps the parcel
            goods = await read_goods(connection, row.id)
            is_over = await read_end(connection, notification) is not None
        if is_over or all(each.id != notice.shipment_id for each in goods.counting):
            return None
        if notification.to is None:
            address = await find_customer_email(self._client, row)
            notification = notification.model_copy(update={"to": address})
        return DueNotice(notification=notification, deadline=row.terms.notification_deadline)

    @activity.defn
    async def notify_parcels(self, limit: int) -> Sequence[str]:
        """Start the runs about parcels without a notification. Returns what was done, as text."""
        if not self._emails:
            return []
        async with self._database.transaction() as connection:
            found = await connection.fetch(FIND_UNNOTIFIED, self._after, NotificationKind.SHIPPED, limit)
        for each in found:
            notice = ParcelNotice(order_id=each["order_id"], shipment_id=each["id"])
            await start_notify_shipment(self._client, activity.info().task_queue, notice)
        return [f"order {each['order_id']}: notify-shipment is started for the parcel {each['id']}" for each in found]

    @activity.defn
    async def refund_shortages(self, limit: int) -> Sequence[str]:
        """Start the refunds of what can never leave, as far as they do not exist. Returns what was done, as text."""
        async with self._database.transaction() as connection:
            await settle_shortages(connection)
            found = await find_unrefunded(connection, self._after, limit)
            rows = await read_rows(connection, {shortage.order_id for shortage in found})
            amounts = [await amount_of(connection, rows[each.order_id], each) for each in found]
        for shortage, amount in zip(found, amounts, strict=True):
            row, queue = rows[shortage.order_id], activity.info().task_queue
            await start_shortage_refund(self._client, queue, row, shortage, amount=amount)
        return [f"order {each.order_id}: {each.text} can never leave, {each.refund_id} is started" for each in found]

    @activity.defn
    async def find_parcel_problems(self, limit: int) -> Sequence[Problem]:
        """What operators must know, and were not alerted of today.

        Parcels that contradicted their order or an earlier report in the last week, shortages without a refund, and
        orders that can neither leave nor be cancelled.
        """
        async with self._database.transaction() as connection:
            owed = await find_owed(connection, self._after, limit)
            empty = await find_empty(connection, self._after, limit)
            wrong = await connection.fetch(FIND_PROBLEMS, limit)
        return [
            *(_not_refunded(key, shortage) for key, shortage in owed),
            *(_stranded(key, order_id) for key, order_id in empty),
            *map(_contradiction, wrong),
        ]


def _not_refunded(key: str, shortage: Shortage) -> Problem:
    text = f"order {shortage.order_id}: the warehouse can never ship {shortage.text}, and it is not refunded"
    return Problem(key=key, order_id=shortage.order_id, text=text)


def _stranded(key: str, order_id: str) -> Problem:
    text = f"the warehouse can never ship any of order {order_id}, which cannot be cancelled: refund it"
    return Problem(key=key, order_id=order_id, text=text)


def _contradiction(parcel: "asyncpg.Record") -> Problem:
    text = f"the parcel {parcel['id']} of order {parcel['order_id']}: {parcel['problem']}"
    return Problem(key=parcel["key"], order_id=parcel["order_id"], text=text)
