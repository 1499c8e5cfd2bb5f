"""Orders whose run is gone: terminated, or past Temporal's retention."""

import asyncio
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from gateways.order_store import existing_row, write_event_once
from gateways.postgres import Database
from gateways.temporal import Request, is_open, reaching_temporal, request_of
from orders.models import OrderRow, Status
from orders.names import CANCEL_ORDER, PROCESS_ORDER, cancel_order_id
from orders.reconciliation import OrdersWithoutRun, OrderWithoutRun, Page, Restart

PAGE: Final = 100

FIND_UNFINISHED: Final = """
    SELECT id, created_at, status, parked_step, parked_reason FROM orders
    WHERE status IN ('pending', 'capturing', 'undoing', 'cancelling')
      AND created_at < now() - $1::interval AND (created_at, id) > ($2, $3)
    ORDER BY created_at, id LIMIT $4
"""


class OrderRecovery:
    """Finds them, and starts the run that drives each on from where its row is.

    Raises, in all activities:
        Unavailable: PostgreSQL or Temporal.
    """

    def __init__(self, database: Database, client: Client, after: timedelta) -> None:
        """Orders younger than `after` are left alone: whoever wrote them may still come back."""
        self._database = database
        self._client = client
        self._after = after

    @activity.defn
    async def find_orders_without_run(self, page: Page) -> OrdersWithoutRun:
        """A page of old unfinished orders: those that are parked, and those that no open run drives."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(FIND_UNFINISHED, self._after, page.at, page.id, PAGE)
        orders = [
            OrderWithoutRun(
                order_id=row["id"],
                status=row["status"],
                parked=f"{row['parked_step']}: {row['parked_reason']}" if row["parked_step"] else None,
            )
            for row in rows
        ]
        driven = await asyncio.gather(*(self._is_driven(order) for order in orders))
        return OrdersWithoutRun(
            orders=tuple(each for each, is_driven in zip(orders, driven, strict=True) if each.parked or not is_driven),
            next=Page(at=rows[-1]["created_at"], id=rows[-1]["id"]) if len(rows) == PAGE else None,
        )

    @activity.defn
    async def restart_order(self, stranded: OrderWithoutRun) -> Restart:
        """Start the run that drives the order from where its row is, with what it was asked for first.

        An order whose request is past Temporal's retention is cancelled; one that may be paid cannot be, and goes
        forward without its run.
        """
        order_id = stranded.order_id
        async with self._database.transaction() as connection:
            row = await existing_row(connection, order_id)
        # Somebody else may have been here since it was found: another sweep, or whoever placed it.
        if row.status is not stranded.status or row.parked_step or await self._is_driven(stranded):
            return Restart(started=None, moved=True)
        if row.status is not Status.CANCELLING:
            if request := await self._request_of(row):
                return await self._start(PROCESS_ORDER, row, order_id, request)
            if row.status is Status.CAPTURING:
                return Restart(started=None)
        cancel_id = cancel_order_id(order_id)
        asked = await self._request_in(CANCEL_ORDER, cancel_id)
        return await self._start(CANCEL_ORDER, row, cancel_id, asked.payload if asked else {"orderId": order_id})

    async def _is_driven(self, order: OrderWithoutRun) -> bool:
        """By either run; but only cancel-order finishes what it has begun with a paid order."""
        if await is_open(self._client, cancel_order_id(order.order_id)):
            return True
        return order.status is not Status.CANCELLING and await is_open(self._client, order.order_id)

    async def _request_of(self, row: OrderRow) -> RawValue | None:
        """The payload that the row was written for; a later run may have been refused with another one."""
        latest = await self._request_in(PROCESS_ORDER, row.id)  # the listing may lag behind, or be out
        if latest and latest.hash_of(row.id) == row.request_hash:
            return latest.payload
        with reaching_temporal():
            async for run in self._client.list_workflows(f"WorkflowId = '{row.id}'"):
                request = await self._request_in(PROCESS_ORDER, run.id, run.run_id)
                if request and request.hash_of(row.id) == row.request_hash:
                    return request.payload
        return None

    async def _request_in(self, workflow: str, workflow_id: str, run_id: str | None = None) -> Request | None:
        """What a run of that workflow was asked for; None if there is none, or Temporal no longer has it."""
        request = await request_of(self._client, self._client.get_workflow_handle(workflow_id, run_id=run_id))
        return request if request and request.workflow == workflow and request.payload else None

    async def _start(self, workflow: str, row: OrderRow, workflow_id: str, request: object) -> Restart:
        """Say so first: once the run is there, another attempt of ours finds the order driven, and says nothing."""
        async with self._database.transaction() as connection:
            await write_event_once(connection, row.id, f"no run drives it: {workflow} is started again")
        with reaching_temporal():
            await self._client.start_workflow(
                workflow,
                request,
                id=workflow_id,
                task_queue=activity.info().task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary="started again by reconcile-orders",
            )
        return Restart(started=workflow)
