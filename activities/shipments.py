"""What the saga of an order cannot see: shipments that contradict their orders, and goods whose departure was lost."""

from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio import activity

from activities import order_checks
from activities.order_checks import check_orders
from gateways.order_store import lock_row, read_resolution, read_rows, write_event_once
from gateways.parcel_store import SHORTAGE, Followed, follow_refusal, follow_shipment
from gateways.postgres import Database
from gateways.warehouse import Warehouse, WarehouseRefused
from orders.commands import command_line
from orders.errors import Permanent, Unavailable
from orders.models import CLOSED, UNSHIPPED, OrderRow, UndoResult
from orders.parcels import Shipment, units_text
from orders.reconciliation import StrayShipment, StrayShipments

# A paid order is asked about every hour until it has shipped, a closed one every day for a week: a request to ship it
# may have been on its way for long. Materialized: else PostgreSQL reads all orders by id until it has a page.
FIND_DUE: Final = """
    WITH asked_about AS MATERIALIZED (
        SELECT id, shipment_checked_at, interval '1 hour' AS every FROM orders
        WHERE status = ANY($5::text[]) AND fulfillment_requested_at < now() - $1::interval
        UNION ALL
        SELECT id, shipment_checked_at, interval '1 day' FROM orders
        WHERE status = ANY($4::text[])
          AND fulfillment_requested_at BETWEEN now() - interval '7 days' AND now() - $1::interval
    )
    SELECT id FROM asked_about WHERE id > $2 AND coalesce(shipment_checked_at < now() - every, true)
    ORDER BY id LIMIT $3
"""


class Shipments:
    """Compares settled orders with their shipments at the warehouse.

    Raises, in all activities:
        Unavailable: PostgreSQL or the warehouse.
    """

    def __init__(self, database: Database, warehouse: Warehouse, after: timedelta, *, restock: bool) -> None:
        """Checks orders whose shipment was requested longer than `after` ago.

        `restock`: units that can never leave are back in stock.
        """
        self._database = database
        self._warehouse = warehouse
        self._after = after
        self._restock = restock

    @activity.defn
    async def check_shipments(self, after: str) -> StrayShipments:
        """Compare a page of orders with their shipments. Orders whose goods have left are moved on."""
        async with self._database.transaction() as connection:
            due = await connection.fetch(FIND_DUE, self._after, after, order_checks.PAGE, CLOSED, UNSHIPPED)
            rows = await read_rows(connection, [row["id"] for row in due])
        followed: list[str] = []

        async def compare(row: OrderRow) -> StrayShipment | None:
            shipment = await self._warehouse.read_shipment(row.id)
            stray = await self._compare(row, shipment)
            if stray or shipment is None or row.status not in UNSHIPPED:
                return stray
            came = await self._follow(row, shipment)
            if came.moved or came.shipped:
                followed.append(f"order {row.id}: the warehouse says {shipment.status}")
            return _wrong(row, shipment, came)

        page = [rows[each["id"]] for each in due]
        found, next_after = await check_orders(self._database, page, compare, _unread, "shipment_checked_at")
        return StrayShipments(found=found, followed=tuple(followed), after=next_after)

    @activity.defn
    async def cancel_stray_shipment(self, stray: StrayShipment) -> UndoResult:
        """Cancel a shipment whose request arrived after its order was undone.

        Raises:
            Permanent: the warehouse refuses; an operator must decide.
        """
        try:
            await self._warehouse.cancel(stray.order_id, f"{stray.shipment_id}:{stray.found_on}")
        except WarehouseRefused as refused:
            text = f"the warehouse refused to cancel the shipment {stray.shipment_id} ({refused.full})"
            raise Permanent(text, type="cancel_refused") from None
        note = f"{stray.description}: cancelled"
        async with self._database.transaction() as connection:
            await write_event_once(connection, stray.order_id, note)
        return UndoResult(note=note)

    @activity.defn
    async def mark_shipped(self, order_id: str) -> OrderRow:
        """The warehouse refused the cancel because goods have left: cancelling -> shipping or shipped, as it says."""
        shipment = await self._warehouse.read_shipment(order_id)
        async with self._database.transaction() as connection:
            await follow_refusal(connection, await lock_row(connection, order_id), shipment, restock=self._restock)
            return await lock_row(connection, order_id)

    async def _compare(self, row: OrderRow, shipment: Shipment | None) -> StrayShipment | None:
        """What is wrong with the shipment of a settled order; None if nothing is."""
        status = shipment.status if shipment else "not known to the warehouse"
        if row.status not in CLOSED:
            if shipment and status != "cancelled":
                return None
            text = f"order {row.id} is paid, but its shipment {row.fulfillment_id} is {status}"
            return StrayShipment(order_id=row.id, description=text)
        if shipment is None or status == "cancelled" or await self._is_settled(row.id):
            return None
        text = f"order {row.id} is {row.status}, but its shipment {shipment.id} is {status}"
        can_cancel = status == "accepted"
        return StrayShipment(
            order_id=row.id,
            shipment_id=shipment.id if can_cancel else None,
            description=text,
            found_on=datetime.now(UTC).date(),
        )

    async def _follow(self, row: OrderRow, shipment: Shipment) -> Followed:
        async with self._database.transaction() as connection:
            row = await lock_row(connection, row.id)
            if row.status not in UNSHIPPED:
                return Followed()
            return await follow_shipment(connection, row, shipment, restock=self._restock)

    async def _is_settled(self, order_id: str) -> bool:
        async with self._database.transaction() as connection:
            return await read_resolution(connection, order_id, "cancel_fulfillment") is not None


def _wrong(row: OrderRow, shipment: Shipment, came: Followed) -> StrayShipment | None:
    """What an operator must know of a paid order that has followed its shipment."""
    if came.can_never_leave:
        cancel = command_line("cancel-order", row.id)
        text = f"the warehouse can never ship any of order {row.id}: `{cancel}` refunds what is left of it"
    elif came.missing:
        units = units_text(came.missing)
        text = f"the warehouse says that order {row.id} is {shipment.status}, but {units} are in none of its parcels"
    elif SHORTAGE in came.problems:
        text = f"what the warehouse can never ship of order {row.id} cannot be refunded: {came.problems[SHORTAGE]}"
    else:
        return None
    return StrayShipment(order_id=row.id, description=text)


def _unread(row: OrderRow, error: Permanent | Unavailable) -> StrayShipment:
    text = f"the shipment of order {row.id} could not be read: {error.message}"
    return StrayShipment(order_id=row.id, description=text)
