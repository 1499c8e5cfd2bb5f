"""Events of Stripe and of the warehouse. An event is only a hint: its object is read again before anything is done.

An event takes effect once, because its id is kept in the transaction of its effect. If the effect is not possible now,
the id is not kept, and the sender delivers the event again.
"""

from contextlib import suppress
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, Self

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, model_validator
from temporalio.client import Client

from app.web.bodies import Refused
from gateways.order_refunds import amount_of
from gateways.order_store import lock_row, read_row
from gateways.parcel_store import SHORTAGE, Followed, follow_shipment
from gateways.postgres import Database
from gateways.refund_store import keep_refunds
from gateways.run_starts import start_notify_shipment, start_reconcile_orders, start_shortage_refund
from gateways.stripe import Intent, StripeGateway, order_of
from gateways.temporal import RPC_TIMEOUT, reaching_temporal
from gateways.warehouse import Warehouse
from gateways.warning_store import keep_warning
from orders.errors import Unavailable, UnknownOrder
from orders.models import OrderRow, Status
from orders.parcels import Link, Parcel, ParcelId, ParcelLines, ParcelNotice, PlainText, Token
from orders.refunds import STANDING

if TYPE_CHECKING:
    from gateways.postgres import Connection

KEEP_EVENT: Final = """
    INSERT INTO webhook_events (source, id, type, order_id) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING RETURNING id
"""

IS_KEPT: Final = "SELECT EXISTS (SELECT FROM webhook_events WHERE source = $1 AND id = $2)"

REFUND_TYPES: Final = frozenset({"refund.created", "refund.updated", "refund.failed", "charge.refund.updated"})
PAYMENT_TYPES: Final = frozenset(
    f"payment_intent.{change}"
    for change in (
        "amount_capturable_updated",
        "canceled",
        "payment_failed",
        "processing",
        "requires_action",
        "succeeded",
    )
)

WARNING_TYPES: Final = frozenset(
    {
        "charge.dispute.created",
        "charge.dispute.updated",
        "charge.dispute.closed",
        "radar.early_fraud_warning.created",
        "radar.early_fraud_warning.updated",
        "review.opened",
        "review.closed",
    }
)

SHIPPED: Final = "order.shipped"
DELIVERED: Final = "order.delivered"
SHORTED: Final = "order.shorted"


class Envelope(BaseModel):
    """All that is read of an event of any type."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    id: Token
    type: Token


class Event(Envelope):
    """An event of a type that we know, and the id of the object or order that it is about."""

    about: Token | None = Field(
        default=None, validation_alias=AliasChoices(AliasPath("data", "object", "id"), "orderId")
    )


class WarehouseEvent(Event):
    """An event of the warehouse, which may name a parcel. One that names none is about all that has not left before."""

    shipment_id: ParcelId | None = Field(default=None, alias="shipmentId")
    lines: ParcelLines | None = None
    carrier: PlainText = None
    tracking: PlainText = None
    tracking_url: Link = Field(default=None, alias="trackingUrl")

    @model_validator(mode="after")
    def _names_its_parcel(self) -> Self:
        if self.lines and not self.shipment_id and self.type != SHORTED:
            raise ValueError("shipmentId: is required with lines")
        return self

    def parcel(self, otherwise: str) -> Parcel | None:
        """The parcel that the event names; its id is `otherwise` if it only says how the whole order travels."""
        if self.type == SHORTED or not (self.shipment_id or self.carrier or self.tracking or self.tracking_url):
            return None
        return Parcel(
            shipment_id=self.shipment_id or otherwise,
            lines=self.lines,
            status="delivered" if self.type == DELIVERED else "shipped",
            carrier=self.carrier,
            tracking=self.tracking,
            tracking_url=self.tracking_url,
        )


class Effect(StrEnum):
    """What an event led to. The sender need not deliver it again."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    NOT_OURS = "not ours"
    UNKNOWN_TYPE = "unknown type"


class Receiver(Protocol):
    """Applies the events of one source, whose signatures are already verified."""

    source: str
    types: frozenset[str]

    @property
    def event(self) -> type[Event]:
        """What the body of an event is read as."""

    async def apply(self, event: Event, about: str) -> Effect:
        """Read the object that the event is about, and do what follows from it, once.

        Raises:
            Unavailable: that is not possible now; the event is not kept.
            Permanent: Stripe refuses the request itself.
        """


class StripeEvents:
    """Signals the run of the order, and keeps its refunds, disputes and warnings.

    It starts reconcile-orders, which alerts operators, if a refund failed or a dispute or warning is new.
    """

    source = "stripe"
    types = PAYMENT_TYPES | REFUND_TYPES | WARNING_TYPES
    event = Event

    def __init__(self, database: Database, gateway: StripeGateway, client: Client, task_queue: str) -> None:
        self._database = database
        self._gateway = gateway
        self._client = client
        self._task_queue = task_queue

    async def apply(self, event: Event, about: str) -> Effect:
        if event.type in WARNING_TYPES:
            return await self._warn(event, about)
        intent = await self._gateway.find(about)
        row = await self._row_of(intent) if intent else None
        if intent is None or row is None:
            return await keep_only(self._database, self.source, event)
        refunds = await self._gateway.refunds(intent.id) if event.type in REFUND_TYPES else []
        if row.status is Status.PENDING:  # in a later status its run does not wait for the payment
            await self._signal(row.id)
        async with self._database.transaction() as connection:
            row = await lock_row(connection, row.id)
            if not await _keep(connection, self.source, event, row.id):
                return Effect.DUPLICATE
            changed = await keep_refunds(connection, row, intent.id, refunds) if refunds else []
            if changed and not all(refund.status in STANDING for refund in refunds):
                await start_reconcile_orders(self._client, self._task_queue, "a refund failed")
        return Effect.APPLIED

    async def _warn(self, event: Event, about: str) -> Effect:
        warning = await self._gateway.find_warning(about)
        intent = await self._gateway.find(warning.payment_intent_id) if warning else None
        row = await self._row_of(intent) if intent else None
        if warning is None or row is None:
            return await keep_only(self._database, self.source, event)
        async with self._database.transaction() as connection:
            row = await lock_row(connection, row.id)
            if not await _keep(connection, self.source, event, row.id):
                return Effect.DUPLICATE
            if await keep_warning(connection, row, warning):
                await start_reconcile_orders(self._client, self._task_queue, f"a {warning.kind} of a payment")
        return Effect.APPLIED

    async def _row_of(self, intent: Intent) -> OrderRow | None:
        """The order that the PaymentIntent names, if the id of the PaymentIntent is on its row."""
        order_id = order_of(intent)
        async with self._database.transaction() as connection:
            row = await read_row(connection, order_id) if order_id else None
        return row if row and row.payment_intent_id == intent.id else None

    async def _signal(self, order_id: str) -> None:
        """Signal the order's run to read its payment; a closed run need not."""
        with suppress(UnknownOrder), reaching_temporal(UnknownOrder(order_id)):
            await self._client.get_workflow_handle(order_id).signal("payment-updated", rpc_timeout=RPC_TIMEOUT)


class FulfillmentEvents:
    """Keeps the parcels of a paid order, which moves to shipping, shipped or delivered, and can no longer be cancelled.

    It starts the runs that tell the customer and that refund what can never leave, and reconcile-orders, which alerts
    operators of what cannot be true.
    """

    source = "fulfillment"
    types = frozenset({SHIPPED, DELIVERED, SHORTED})
    event = WarehouseEvent

    def __init__(  # noqa: PLR0913 (one for each external service and setting)
        self, database: Database, warehouse: Warehouse, client: Client, task_queue: str, *, emails: bool, restock: bool
    ) -> None:
        """`emails`: customers get one for each parcel; `restock`: units that can never leave are back in stock."""
        self._database = database
        self._warehouse = warehouse
        self._client = client
        self._task_queue = task_queue
        self._emails = emails
        self._restock = restock

    async def apply(self, event: Event, about: str) -> Effect:
        async with self._database.transaction() as connection:
            row = await read_row(connection, about)
        shipment = await self._warehouse.read_shipment(row.id) if row else None
        if row is None or shipment is None or not isinstance(event, WarehouseEvent):
            return await keep_only(self._database, self.source, event, row.id if row else None)
        named = event.parcel(shipment.id)
        async with self._database.transaction() as connection:
            row = await lock_row(connection, row.id)
            followed = await follow_shipment(connection, row, shipment, named, restock=self._restock)
            wrong = _problem_of(event, named, followed)
            # Another delivery of the event may have been faster, and this one have found more at the warehouse.
            is_first = wrong is not None or await _keep(connection, self.source, event, row.id)
            amount = await amount_of(connection, row, followed.shortage) if followed.shortage else None
        await self._start(row, followed, amount)
        if wrong:
            raise Refused(422, f"lines: {wrong}")
        return Effect.APPLIED if is_first else Effect.DUPLICATE

    async def _start(self, row: OrderRow, followed: Followed, amount: Decimal | None) -> None:
        """Start the runs that follow from what is kept. reconcile-orders starts those that are lost here."""
        with suppress(Unavailable):
            for shipment_id in followed.shipped if self._emails else ():
                notice = ParcelNotice(order_id=row.id, shipment_id=shipment_id)
                await start_notify_shipment(self._client, self._task_queue, notice)
            if followed.shortage:
                await start_shortage_refund(self._client, self._task_queue, row, followed.shortage, amount=amount)
            if followed.problems or followed.can_never_leave:
                await start_reconcile_orders(self._client, self._task_queue, "the warehouse contradicts an order")


def _problem_of(event: Event, named: Parcel | None, followed: Followed) -> str | None:
    """What is wrong with what the event itself says, as text; the warehouse may have said other things that are."""
    if event.type == SHORTED:
        return followed.problems.get(SHORTAGE)
    return followed.problems.get(named.shipment_id) if named else None


async def is_kept(database: Database, source: str, event: Event) -> bool:
    """Whether the event has taken effect already. Raises Unavailable."""
    async with database.transaction() as connection:
        return bool(await connection.fetchval(IS_KEPT, source, event.id))


async def keep_only(database: Database, source: str, event: Event, order_id: str | None = None) -> Effect:
    """Keep an event that changes nothing, most often because it is about none of our orders. Raises Unavailable."""
    async with database.transaction() as connection:
        await _keep(connection, source, event, order_id)
    return Effect.APPLIED if order_id else Effect.NOT_OURS


async def _keep(connection: "Connection", source: str, event: Event, order_id: str | None) -> bool:
    """Keep the event. False: another delivery of it has taken effect."""
    return await connection.fetchval(KEEP_EVENT, source, event.id, event.type, order_id) is not None
