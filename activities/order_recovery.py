"""Orders and refunds without a run: an operator terminated it, or Temporal's retention period is over."""

import asyncio
from datetime import datetime, timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client

from gateways import order_refunds
from gateways.order_store import row_as_it_is, write_event_once
from gateways.postgres import Database
from gateways.run_inputs import find_input, find_order_input
from gateways.run_starts import start_run
from gateways.temporal import is_open
from orders.models import KEPT, UNFINISHED, WITH_PAYMENT, OrderRow, Refund, RefundKey, Status
from orders.names import CANCEL_ORDER, PROCESS_ORDER, REFUND_ORDER, cancel_order_id, refund_order_id
from orders.reconciliation import OrdersWithoutRun, OrderWithoutRun, Page, RefundsWithoutRun, Restart

PAGE: Final = 100

FIND_UNFINISHED: Final = """
    SELECT id, created_at, status, parked_step, parked_reason, parked_by FROM orders
    WHERE status = ANY($5::text[])
      AND created_at < now() - $1::interval AND (created_at, id) > ($2, $3)
    ORDER BY created_at, id LIMIT $4
"""

# `unconfirmed:` is the key of the alert that there is nobody to confirm the order to.
FIND_UNCONFIRMED: Final = """
    SELECT id, placed_at, status FROM orders o
    WHERE status = ANY($2::text[]) AND placed_at > now() - interval '30 days' AND placed_at < now() - $1::interval
      AND NOT EXISTS (SELECT FROM notifications n WHERE n.order_id = o.id AND n.kind = 'order_confirmation')
      AND NOT EXISTS (SELECT FROM reminders r WHERE r.key = 'unconfirmed:' || o.id)
      AND (placed_at, id) > ($3, $4)
    ORDER BY placed_at, id LIMIT $5
"""


class OrderRecovery:
    """Finds them, and starts the run that continues each of them from its row.

    Raises, in all activities:
        Unavailable: PostgreSQL or Temporal.
    """

    def __init__(self, database: Database, client: Client, after: timedelta) -> None:
        """Orders younger than `after` are left alone: the process that wrote them may still continue."""
        self._database = database
        self._client = client
        self._after = after

    @activity.defn
    async def find_orders_without_run(self, page: Page) -> OrdersWithoutRun:
        """A page of unfinished orders older than `after`: the parked ones, and those that no open run drives."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(FIND_UNFINISHED, self._after, page.at, page.id, PAGE, UNFINISHED)
        orders = [
            OrderWithoutRun(
                order_id=row["id"],
                status=row["status"],
                parked=f"{row['parked_step']}: {row['parked_reason']}" if row["parked_step"] else None,
                parked_by=row["parked_by"],
            )
            for row in rows
        ]
        driven = await asyncio.gather(*(self._is_driven(order) for order in orders))
        return OrdersWithoutRun(
            orders=tuple(
                each if is_driven else each.model_copy(update={"parked_by": None})
                for each, is_driven in zip(orders, driven, strict=True)
                if each.parked or not is_driven
            ),
            next=Page(at=rows[-1]["created_at"], id=rows[-1]["id"]) if len(rows) == PAGE else None,
        )

    @activity.defn
    async def find_unconfirmed_orders(self, page: Page) -> OrdersWithoutRun:
        """A page of paid orders older than `after` whose run ended before it confirmed them to the customer."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(FIND_UNCONFIRMED, self._after, KEPT, page.at, page.id, PAGE)
        orders = [OrderWithoutRun(order_id=row["id"], status=row["status"]) for row in rows]
        driven = await asyncio.gather(*(self._is_driven(order) for order in orders))
        return OrdersWithoutRun(
            orders=tuple(each for each, is_driven in zip(orders, driven, strict=True) if not is_driven),
            next=Page(at=rows[-1]["placed_at"], id=rows[-1]["id"]) if len(rows) == PAGE else None,
        )

    @activity.defn
    async def restart_order(self, found: OrderWithoutRun) -> Restart:
        """Start the run that continues the order, with the input of its first run.

        If Temporal no longer has that input, the order is cancelled, unless it may be paid: then nothing is started,
        and the caller must finish it, or alert operators that nobody confirms it.
        """
        order_id = found.order_id
        async with self._database.transaction() as connection:
            row = await row_as_it_is(connection, order_id)
        # It may have changed since it was found: by another run of reconcile-orders, or by the client that placed it.
        if row.status is not found.status or row.parked_step or await self._is_driven(found):
            return Restart(started=None, moved=True)
        if row.status is not Status.CANCELLING:
            if first := await find_order_input(self._client, row):
                return await self._start(PROCESS_ORDER, row, order_id, first.payload)
            if row.status in WITH_PAYMENT:
                return Restart(started=None)
        cancel_id = cancel_order_id(order_id)
        cancel = await find_input(self._client, CANCEL_ORDER, cancel_id)
        return await self._start(CANCEL_ORDER, row, cancel_id, cancel.payload if cancel else {"orderId": order_id})

    @activity.defn
    async def find_refunds_without_run(self, page: Page) -> RefundsWithoutRun:
        """A page of refunds of parts of orders, claimed before `after` and not made, that no open run makes."""
        async with self._database.transaction() as connection:
            claimed = await order_refunds.find_claimed(connection, self._after, page, PAGE)
        driven = await asyncio.gather(*(is_open(self._client, _run_of(key)) for key, _ in claimed))
        return RefundsWithoutRun(
            refunds=tuple(key for (key, _), is_driven in zip(claimed, driven, strict=True) if not is_driven),
            next=_page_after(*claimed[-1]) if len(claimed) == PAGE else None,
        )

    @activity.defn
    async def restart_refund(self, key: RefundKey) -> Restart:
        """Start the run that makes the refund, with the input of its last run, or what its rows say.

        The rows do not have the customer's address: then nobody is written to.
        """
        async with self._database.transaction() as connection:
            row = await row_as_it_is(connection, key.order_id)
            claim = await order_refunds.read_claim(connection, key)
            refund = await order_refunds.read_refund(connection, key)
        if claim is None or refund is None or claim.status != "claimed" or await is_open(self._client, _run_of(key)):
            return Restart(started=None, moved=True)
        latest = await find_input(self._client, REFUND_ORDER, _run_of(key))
        request = latest.payload if latest and _asks_for(latest.refund, refund) else refund.as_request()
        return await self._start(REFUND_ORDER, row, _run_of(key), request)

    async def _is_driven(self, order: OrderWithoutRun) -> bool:
        """Whether a run of process-order or cancel-order is open. Only the latter drives a row that is `cancelling`."""
        if await is_open(self._client, cancel_order_id(order.order_id)):
            return True
        return order.status is not Status.CANCELLING and await is_open(self._client, order.order_id)

    async def _start(self, workflow: str, row: OrderRow, workflow_id: str, request: object) -> Restart:
        """The event is written first: once the run is open, a second attempt finds the order driven and stops."""
        async with self._database.transaction() as connection:
            await write_event_once(connection, row.id, f"no run drives it: {workflow} is started again")
        await start_run(
            self._client,
            workflow,
            workflow_id,
            [request],
            task_queue=activity.info().task_queue,
            summary="started again by reconcile-orders",
        )
        return Restart(started=workflow)


def _asks_for(asked: Refund | None, claimed: Refund) -> bool:
    """Whether the latest run was asked for what is claimed: another request under the same refund id was refused."""
    if asked is None:
        return False
    same = (asked.lines, set(asked.charges)) == (claimed.lines, set(claimed.charges))
    return same and asked.amount in (None, claimed.amount)


def _page_after(key: RefundKey, at: datetime) -> Page:
    return Page(at=at, id=f"{key.order_id}:{key.refund_id}")


def _run_of(key: RefundKey) -> str:
    return refund_order_id(key.order_id, key.refund_id)
