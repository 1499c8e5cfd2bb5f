"""Ask the warehouse to ship an order, and cancel the shipment: when each may be asked."""

from datetime import timedelta
from typing import Final

from temporalio import activity

from gateways.order_store import count_retries, lock_row, read_items, read_resolution
from gateways.parcel_store import follow_cancel
from gateways.postgres import Database
from gateways.warehouse import ALREADY_SHIPPED, ORDER_CANCELLED, ORDER_UNKNOWN, Warehouse, WarehouseRefused
from orders.errors import Permanent, Unavailable
from orders.models import FulfillmentAnswer, FulfillmentRequest, OrderRow, Status, UndoResult
from saga import Step, local_first

# Written before the warehouse is asked, and only while the order is pending: an undo that does not find the mark knows
# that no attempt has asked, and that none ever will.
MARK_REQUESTED: Final = """
    UPDATE orders SET fulfillment_requested_at = now()
    WHERE id = $1 AND status = 'pending'
"""

SINCE_REQUESTED: Final = "SELECT now() - fulfillment_requested_at FROM orders WHERE id = $1"

KEEP_FULFILLMENT: Final = "UPDATE orders SET fulfillment_id = $2 WHERE id = $1 AND fulfillment_id IS NULL"

# A request that is this old no longer arrives: the time-out of an attempt, and a grace period.
STILL_ON_ITS_WAY: Final = timedelta(seconds=90)


class Fulfillment:
    """One shipment for each order.

    Raises, in all activities:
        Unavailable: the warehouse or PostgreSQL; what was asked for may have happened.
    """

    def __init__(self, database: Database, warehouse: Warehouse, *, remembers_cancels: bool, restock: bool) -> None:
        """`remembers_cancels`: the warehouse refuses an order whose cancel arrived before the order.

        If it does not, its "unknown order" counts only once no request can be on its way any more; what arrives even
        later, reconcile-orders finds. `restock`: units that can never leave are back in stock.
        """
        self._database = database
        self._warehouse = warehouse
        self._remembers_cancels = remembers_cancels
        self._restock = restock

    @local_first
    @activity.defn
    async def request_fulfillment(self, request: FulfillmentRequest) -> FulfillmentAnswer:
        """Ask the warehouse to ship the order; the warehouse may refuse, for example the address."""
        items = await self._mark_requested(request.order_id)
        if items is None:
            return FulfillmentAnswer(state="order_closed")
        try:
            fulfillment_id = await self._warehouse.ship(request, items)
        except WarehouseRefused as refused:
            if str(refused) == ORDER_CANCELLED:
                return FulfillmentAnswer(state="order_closed")
            return FulfillmentAnswer(state="refused", error=f"the warehouse refused the order ({refused})")
        async with self._database.transaction() as connection:
            await connection.execute(KEEP_FULFILLMENT, request.order_id, fulfillment_id)
        return FulfillmentAnswer(state="accepted", fulfillment_id=fulfillment_id)

    @activity.defn
    async def cancel_fulfillment(self, order_id: str) -> UndoResult:
        """Cancel the shipment, also of an order that the warehouse does not know yet.

        Raises:
            Permanent: the warehouse refuses, or no longer knows what it accepted; an operator must decide.
        """
        async with self._database.transaction() as connection:
            row = await lock_row(connection, order_id)
            since: timedelta | None = await connection.fetchval(SINCE_REQUESTED, order_id)
            resolution = await read_resolution(connection, order_id, "cancel_fulfillment")
            attempt = str(1 + await count_retries(connection, order_id, "cancel_fulfillment"))
        if resolution or since is None:
            return UndoResult(note=resolution.text if resolution else "the warehouse was never asked")
        try:
            # Once no request can be on its way, under a key of its own: "unknown" may be saved under the first one.
            await self._warehouse.cancel(order_id, attempt if since < STILL_ON_ITS_WAY else f"{attempt}:late")
        except WarehouseRefused as refused:
            return self._without_cancel(refused, row, since)
        await self._keep_shortage(order_id)
        return UndoResult(note="the warehouse cancelled the shipment")

    async def _keep_shortage(self, order_id: str) -> None:
        """Ask once more what the warehouse could never ship: an event may be lost, and its units are put back next."""
        shipment = await self._warehouse.read_shipment(order_id)
        if shipment is None or not (shipment.shorted or shipment.problem):
            return
        async with self._database.transaction() as connection:
            await follow_cancel(connection, await lock_row(connection, order_id), shipment, restock=self._restock)

    def _without_cancel(self, refused: WarehouseRefused, row: OrderRow, since: timedelta) -> UndoResult:
        """What a refused cancel means for the undo; `since` is how long ago the warehouse was asked to ship."""
        code = str(refused)
        if code == ALREADY_SHIPPED:
            return UndoResult(note="the warehouse has already shipped the order", shipped=True)
        if code != ORDER_UNKNOWN:
            raise Permanent(f"the warehouse refused to cancel the shipment ({refused.full})", type="cancel_refused")
        if row.fulfillment_id:
            text = f"the warehouse does not know the order, but it accepted the shipment {row.fulfillment_id}"
            raise Permanent(text, type="shipment_unknown")
        if not self._remembers_cancels and since < STILL_ON_ITS_WAY:
            raise Unavailable(
                "fulfillment: the request to ship may still arrive",
                type="request_on_its_way",
                retry_after=STILL_ON_ITS_WAY - since,
            )
        return UndoResult(note="the warehouse does not know the order")

    async def _mark_requested(self, order_id: str) -> list[dict[str, object]] | None:
        """Mark the row, which allows the request. The items to ship; None if the order is no longer pending."""
        async with self._database.transaction() as connection:
            await connection.execute(MARK_REQUESTED, order_id)
            row = await lock_row(connection, order_id)
            items = await read_items(connection, row)
        return items if row.status is Status.PENDING else None


FULFILL: Final = Step(
    Fulfillment.request_fulfillment,
    undo=Fulfillment.cancel_fulfillment,
    deadline=None,  # the terms of the order say
    undoing="cancel the fulfillment",
    read=lambda undone: undone.note,
)
