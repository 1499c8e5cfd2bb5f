"""What travels between starter, workflows, activities and external services: frozen models, camelCase on the wire.

The first part is the edge (what a client sends and gets, in the names of the reference payloads); the second is the
inside (money in minor units, carts merged, states of the order row).
"""

from datetime import date
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

# ------------------------------------------------------------------------------------------------------- vocabulary


class Model(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        hide_input_in_errors=True,
    )


class Priority(StrEnum):
    STANDARD = "standard"
    EXPRESS = "express"
    OVERNIGHT = "overnight"


class Status(StrEnum):
    """States of the order row; the transitions are rows of the table order_transitions."""

    PENDING = "pending"
    CAPTURING = "capturing"
    PROCESSING = "processing"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    UNDOING = "undoing"
    CANCELLING = "cancelling"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


CLOSED = frozenset({Status.REJECTED, Status.FAILED, Status.CANCELLED})
PAID = frozenset({Status.PROCESSING, Status.SHIPPED, Status.DELIVERED, Status.CANCELLING})


class ErrorCode(StrEnum):
    """Why an order did not succeed. Clients may branch on these; they do not change."""

    INVALID_ORDER = "invalid_order"
    ORDER_ID_CONFLICT = "order_id_conflict"
    UNKNOWN_PRODUCT = "unknown_product"
    OUT_OF_STOCK = "out_of_stock"
    PRICE_CHANGED = "price_changed"
    ORDER_TOO_LARGE = "order_too_large"
    CARD_DECLINED = "card_declined"
    PAYMENT_REFUSED = "payment_refused"
    AUTHENTICATION_FAILED = "authentication_failed"
    AUTHENTICATION_EXPIRED = "authentication_expired"
    AUTHORIZATION_EXPIRED = "authorization_expired"
    FULFILLMENT_REFUSED = "fulfillment_refused"
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNDO_PARKED = "undo_parked"


class CancelReason(StrEnum):
    """Why an order was not cancelled, or what became of its money. Clients may branch on these; they do not change."""

    INVALID_REQUEST = "invalid_request"
    UNKNOWN_ORDER = "unknown_order"
    ALREADY_CANCELLED = "already_cancelled"
    ALREADY_SHIPPED = "already_shipped"
    ORDER_REJECTED = "order_rejected"
    ORDER_FAILED = "order_failed"
    UNDO_PARKED = "undo_parked"
    NOT_CHARGED = "not_charged"
    AUTHORIZATION_VOIDED = "authorization_voided"
    REFUND_PENDING = "refund_pending"
    SETTLED_BY_HAND = "settled_by_hand"


class Stage(StrEnum):
    """Where a run stands, for people: the search attribute OrderStage."""

    RESERVING = "reserving"
    AUTHORIZING = "authorizing"
    AWAITING_CUSTOMER = "awaiting_customer"
    FULFILLING = "fulfilling"
    CAPTURING = "capturing"
    UNDOING = "undoing"
    PARKED = "parked"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


# --------------------------------------------------------------------------------------------------------- the edge


class Address(Model):
    street: str
    city: str
    state: str
    zip: str
    country: str = "US"


class OrderOutcome(Model):
    """What process-order answers. `payment_intent` and `fulfillment_id` are ids of Stripe and of the warehouse."""

    success: bool
    order_id: str
    payment_intent: str | None = None
    fulfillment_id: str | None = None
    error: str | None = None
    error_code: ErrorCode | None = None


class CancelOutcome(Model):
    """What cancel-order answers; `reason` says why not, or what became of the money."""

    cancelled: bool
    refunded: bool
    reason: str | None = None


class CancelView(Model):
    """What the `status` query of cancel-order answers; `outcome` as soon as it is settled, before any e-mail."""

    stage: Stage | None
    outcome: CancelOutcome | None = None
    stuck: tuple[str, ...] = ()


class OrderView(Model):
    """What the `status` query answers. It never holds the PaymentIntent's client secret."""

    stage: Stage | None
    inventory_reserved: bool
    payment_processed: bool
    fulfillment_status: str | None
    payment_intent: str | None
    stuck: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------- the inside


class Line(Model):
    """One product of a cart, each product once. `unit_price` in minor units; None takes the catalogue's."""

    product_id: str
    quantity: int
    unit_price: int | None = None


class Order(Model):
    """A validated order. `request_hash` identifies the payload: the same id with another hash is a conflict."""

    id: str
    customer_id: str
    customer_email: str
    payment_method_id: str
    currency: str
    lines: tuple[Line, ...]
    shipping_address: Address
    priority: Priority
    request_hash: str

    @property
    def reservation(self) -> "ReservationRequest":
        """What the order row and its stock need to know."""
        return ReservationRequest(
            order_id=self.id,
            customer_id=self.customer_id,
            currency=self.currency,
            lines=self.lines,
            request_hash=self.request_hash,
        )


class Terms(Model):
    """Decided once, when the order row is written: settings may change while an order is under way. In seconds."""

    capture_mode: Literal["manual", "automatic"] = "manual"
    authentication_deadline: int = 900
    authentication_poll: int = 30
    fulfillment_deadline: int = 600
    notification_deadline: int = 86_400


class ReservationRequest(Model):
    order_id: str
    customer_id: str
    currency: str
    lines: tuple[Line, ...]
    request_hash: str


class OrderRow(Model):
    """The order row as it stands: whoever loses a race reads it and obeys. Amounts in minor units."""

    id: str
    customer_id: str
    request_hash: str
    status: Status
    total: int
    currency: str
    terms: Terms
    payment_intent_id: str | None = None
    fulfillment_id: str | None = None
    closing: Status | None = None
    error_code: ErrorCode | None = None
    error: str | None = None
    parked_step: str | None = None
    parked_reason: str | None = None
    parked_by: str | None = None
    placed: bool = False
    refund_status: str | None = None
    settled_by_hand: bool = False
    resolution_count: int = 0

    @property
    def outcome(self) -> OrderOutcome:
        """What the caller of process-order is told, once the row is paid or closed: the same for ever.

        An order that was placed and later cancelled was placed all the same; the cancelling had its own answer.
        """
        if self.placed:
            return OrderOutcome(
                success=True,
                order_id=self.id,
                payment_intent=self.payment_intent_id,
                fulfillment_id=self.fulfillment_id,
            )
        return OrderOutcome(
            success=False,
            order_id=self.id,
            payment_intent=self.payment_intent_id,
            error=self.error,
            error_code=self.error_code,
        )


class PaymentRequest(Model):
    order_id: str
    payment_method_id: str


class PaymentState(StrEnum):
    AUTHORIZED = "authorized"
    REQUIRES_ACTION = "requires_action"
    DECLINED = "declined"
    GONE = "gone"
    ORDER_CLOSED = "order_closed"


class Payment(Model):
    """Where the payment of an order stands. DECLINED carries the code and words for the customer."""

    state: PaymentState
    payment_intent_id: str | None = None
    error_code: ErrorCode | None = None
    error: str | None = None


class UndoResult(Model):
    """What an undo found and did, in words for people. An operator's word counts as done."""

    note: str
    shipped: bool = False


class FulfillmentRequest(Model):
    order_id: str
    shipping_address: Address
    priority: Priority


class FulfillmentAnswer(Model):
    """The warehouse's answer. REFUSED is a business no; ORDER_CLOSED means: read the row and obey."""

    state: Literal["accepted", "refused", "order_closed"]
    fulfillment_id: str | None = None
    error: str | None = None


class UndoClaim(Model):
    """Why an order is undone: `closing` is the state that it will end in."""

    order: ReservationRequest
    closing: Status
    error_code: ErrorCode
    error: str


class Park(Model):
    """A step that waits for an operator. `resolution_count`: how many resolutions of the order the run knows of."""

    order_id: str
    step: str
    reason: str
    workflow_id: str
    resolution_count: int = 0


class Settlement(Model):
    """An operator's word on a parked step. `key` is its identity: said again, it counts once."""

    order_id: str
    step: str
    action: Literal["retry", "skip", "resolved"]
    reason: str
    by: str
    key: str = ""


class Alert(Model):
    """For a person, in Slack and in the log. `key` makes it one alert however often it is sent."""

    order_id: str
    key: str
    text: str


class NotificationKind(StrEnum):
    CONFIRMATION = "order_confirmation"
    CANCELLED = "order_cancelled"
    FAILED = "order_failed"
    ANALYTICS = "order_placed"


class Notification(Model):
    """One message about an order; the activity reads the order's data from its row."""

    order_id: str
    kind: NotificationKind
    to: str | None = None
    estimated_delivery: date | None = None


class Observation(Model):
    """The run of process-order first, the row second: a row still absent then will not appear by that run."""

    run_open: bool
    row: OrderRow | None
