"""What workflows, activities and clients exchange about orders: frozen models, camelCase on the wire.

First the vocabulary (statuses and codes), then the edge (what a client gets, in the names of the reference payloads),
then the inside (money in minor units, each product of a cart once, the order row).
"""

import re
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from orders.money import to_json_number

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


class ChargeType(StrEnum):
    """What an order costs beside its products."""

    SHIPPING = "shipping"
    TAX = "tax"
    DISCOUNT = "discount"
    FEE = "fee"


class Status(StrEnum):
    """Statuses of the order row. The table order_transitions lists the transitions between them."""

    PENDING = "pending"
    CAPTURING = "capturing"
    PROCESSING = "processing"
    SHIPPING = "shipping"
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    UNDOING = "undoing"
    CANCELLING = "cancelling"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


# Sets of statuses: these are their only definitions. A query takes a set as a parameter. Where the schema has to repeat
# one (a CHECK, the predicate of an index), tests/integration/gateways/test_schema.py compares the two.
CLOSED: Final = frozenset({Status.REJECTED, Status.FAILED, Status.CANCELLED})  # nothing is sold, nothing is held
UNSHIPPED: Final = frozenset({Status.PROCESSING, Status.SHIPPING})  # paid, and something is still to leave
GONE: Final = frozenset({Status.SHIPPING, Status.SHIPPED, Status.DELIVERED})  # goods have left: it cannot be cancelled
KEPT: Final = GONE | {Status.PROCESSING}  # paid, and not being cancelled
PAID: Final = KEPT | {Status.CANCELLING}
SETTLED: Final = KEPT | CLOSED  # at rest: no run has to drive the order
UNFINISHED: Final = frozenset(Status) - SETTLED
BEING_UNDONE: Final = frozenset({Status.UNDOING, Status.CANCELLING})  # only these can be parked
WITH_PAYMENT: Final = PAID | {Status.CAPTURING}  # the row has a PaymentIntent, unless the order is free


class ErrorCode(StrEnum):
    """Why an order did not succeed. Clients may branch on these codes: they do not change."""

    INVALID_ORDER = "invalid_order"
    ORDER_ID_CONFLICT = "order_id_conflict"
    UNKNOWN_PRODUCT = "unknown_product"
    OUT_OF_STOCK = "out_of_stock"
    PRICE_CHANGED = "price_changed"
    ORDER_TOO_LARGE = "order_too_large"
    DISCOUNT_TOO_LARGE = "discount_too_large"
    AMOUNT_TOO_SMALL = "amount_too_small"
    PAYMENT_METHOD_REQUIRED = "payment_method_required"
    CUSTOMER_LIMIT = "customer_limit"
    CARD_DECLINED = "card_declined"
    PAYMENT_REFUSED = "payment_refused"
    AUTHENTICATION_FAILED = "authentication_failed"
    AUTHENTICATION_EXPIRED = "authentication_expired"
    AUTHORIZATION_EXPIRED = "authorization_expired"
    FULFILLMENT_REFUSED = "fulfillment_refused"
    PAYMENT_REQUIRED = "payment_required"
    AUTHENTICATION_REQUIRED = "authentication_required"
    CANCELLED = "cancelled"
    FAILED = "failed"
    UNDO_PARKED = "undo_parked"


WAS_CANCELLED: Final = "the order was cancelled"  # the text of ErrorCode.CANCELLED

# The customer's payment was refused: no authorization was ever seen at the customer's bank.
PAYMENT_REFUSALS: Final = frozenset(
    {
        ErrorCode.CARD_DECLINED,
        ErrorCode.PAYMENT_REFUSED,
        ErrorCode.AUTHENTICATION_FAILED,
        ErrorCode.AUTHENTICATION_EXPIRED,
    }
)


class CancelReason(StrEnum):
    """Why an order was not cancelled, or what happened to its money. Clients may branch on these codes."""

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


class RefundReason(StrEnum):
    """Why a refund was not made, or how else it was settled. Clients may branch on these codes: they do not change."""

    INVALID_REQUEST = "invalid_request"
    UNKNOWN_ORDER = "unknown_order"
    NOT_PAID = "not_paid"
    ORDER_REJECTED = "order_rejected"
    ORDER_FAILED = "order_failed"
    ORDER_CANCELLED = "order_cancelled"
    REFUND_ID_CONFLICT = "refund_id_conflict"
    NOT_ORDERED = "not_ordered"
    MORE_THAN_ORDERED = "more_than_ordered"
    MORE_THAN_CHARGED = "more_than_charged"
    MORE_THAN_LEFT = "more_than_left"
    NOTHING_LEFT = "nothing_left"
    REFUND_PARKED = "refund_parked"
    SETTLED_BY_HAND = "settled_by_hand"


class Stage(StrEnum):
    """Where a run is, for operators: its `status` query, and `listed` of it as the search attribute OrderStage.

    Decisions depend on Status, never on this.
    """

    PLACING = "placing"
    RESERVING = "reserving"
    AUTHORIZING = "authorizing"
    AWAITING_CUSTOMER = "awaiting_customer"
    AWAITING_PAYMENT = "awaiting_payment"
    FULFILLING = "fulfilling"
    CAPTURING = "capturing"
    UNDOING = "undoing"
    PARKED = "parked"
    CANCELLING = "cancelling"
    REFUNDING = "refunding"
    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def listed(self) -> "Stage":
        """What lists of runs show. A stage that takes less than a second is not worth an event in the history."""
        return Stage.PLACING if self in LISTED_AS_PLACING else self


LISTED_AS_PLACING: Final = frozenset({Stage.RESERVING, Stage.AUTHORIZING, Stage.FULFILLING, Stage.CAPTURING})


# --------------------------------------------------------------------------------------------------------- the edge


class Address(Model):
    """Where a parcel goes; `name`, `company` and `phone` are the recipient's. A part that is not there is None."""

    name: str | None = None
    company: str | None = None
    street: str
    street2: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    country: str = "US"
    phone: str | None = None


class OrderOutcome(Model):
    """What process-order answers. `payment_intent` is an id of Stripe, `fulfillment_id` an id of the warehouse.

    `total` is what a placed order costs, as a JSON number with the decimals of its currency. A free one has no payment.
    """

    success: bool
    order_id: str
    payment_intent: str | None = None
    fulfillment_id: str | None = None
    total: float | None = None
    currency: str | None = None
    error: str | None = None
    error_code: ErrorCode | None = None


class CancelOutcome(Model):
    """What cancel-order answers. `reason` says why the order was not cancelled, or what happened to its money."""

    cancelled: bool
    refunded: bool
    reason: str | None = None


class RefundOutcome(Model):
    """What refund-order answers. `refund_amount` is a JSON number with the decimals of the currency.

    `refunded`: it is made, and `status` is what Stripe says of it, such as `pending` or `succeeded`; None if only
    goods came back, or if an operator paid it by other means. `restocked` counts the units that are in stock again.
    `reason` says why the refund was not made, or that an operator has settled it, and `error` is for people.
    """

    refunded: bool
    refund_id: str | None = None
    refund_amount: float | None = None
    currency: str | None = None
    status: str | None = None
    restocked: int = 0
    reason: RefundReason | None = None
    error: str | None = None


ResolutionAction = Literal["retry", "skip", "resolved"]


class Attention(Model):
    """Why a run needs an operator: which step is parked or keeps failing, the reason in full, and since when.

    `amount` is what is at stake, as text: the total of the order, or the amount of a refund; None: the run does not
    know it. `actions` are the resolutions that the run takes now.
    """

    what: str
    reason: str
    since: datetime | None = None
    amount: str | None = None
    parked: bool = False
    actions: tuple[ResolutionAction, ...] = ()

    def of_closed_run(self) -> "Attention":
        """The same of a run that is closed: it still answers queries, but takes no resolution."""
        return self.model_copy(update={"parked": False, "actions": ()})


class View(Model):
    """What the `status` queries of process-order, cancel-order and refund-order have in common.

    `parked` are the names of the undos that are parked, `attention` is all that an operator should know of, and
    `undone` is how each undo ended, in the order in which they ended, each text beginning with the name of its step.
    """

    stage: Stage | None
    parked: tuple[str, ...] = ()
    attention: tuple[Attention, ...] = ()
    undone: tuple[str, ...] = ()


class CancelView(View):
    """What the `status` query of cancel-order answers; `outcome` as soon as it is known, before any e-mail is sent.

    `held_up` is the state of process-order, if it does not go on and the cancel waits for it.
    """

    outcome: CancelOutcome | None = None
    held_up: str | None = None


class RefundView(View):
    """What the `status` query of refund-order answers; `outcome` as soon as it is known, before any e-mail is sent."""

    outcome: RefundOutcome | None = None


class OrderView(View):
    """What the `status` query of process-order answers. It never holds the PaymentIntent's client secret.

    `payment_required` is what `submit` answers while the order waits for another payment method; None: it does not.
    """

    inventory_reserved: bool
    payment_processed: bool
    fulfillment_status: str | None
    payment_intent: str | None
    payment_required: OrderOutcome | None = None


# ------------------------------------------------------------------------------------------------------- the inside


class Line(Model):
    """One product of a cart. `unit_price` is what the client expects, in minor units; None: the catalogue's price."""

    product_id: str
    quantity: int
    unit_price: int | None = None


class OrderCharge(Model):
    """What an order costs beside its products, in minor units; that of a discount is negative. `name` is for people."""

    type: ChargeType
    name: str | None = None
    amount: int


class Order(Model):
    """A validated order, each product once. `request_hash` identifies its payload: another hash is a conflict.

    `payment_method_id` is None if the caller expects the order to be free.
    """

    id: str
    customer_id: str
    customer_email: str
    payment_method_id: str | None
    currency: str
    lines: tuple[Line, ...]
    charges: tuple[OrderCharge, ...] = ()
    shipping_address: Address
    priority: Priority
    gift_message: str | None = None
    request_hash: str

    @property
    def payment(self) -> "PaymentRequest":
        """What is to be paid with, unless the order is free. A reservation without a payment method is free."""
        return PaymentRequest(order_id=self.id, payment_method_id=self.payment_method_id or "")

    @property
    def fulfillment(self) -> "FulfillmentRequest":
        """What the warehouse is asked to ship, and to whom."""
        return FulfillmentRequest(
            order_id=self.id,
            shipping_address=self.shipping_address,
            priority=self.priority,
            gift_message=self.gift_message,
        )

    @property
    def reservation(self) -> "ReservationRequest":
        """What the order row and the reservation are made of."""
        return ReservationRequest(
            order_id=self.id,
            customer_id=self.customer_id,
            currency=self.currency,
            lines=self.lines,
            charges=self.charges,
            has_payment_method=self.payment_method_id is not None,
            request_hash=self.request_hash,
        )


class Terms(Model):
    """What an order is promised when its row is written; later changes of settings do not apply to it. In seconds."""

    capture_mode: Literal["manual", "automatic"] = "manual"
    authentication_deadline: int = 900
    authentication_poll: int = 30
    fulfillment_deadline: int = 600
    notification_deadline: int = 86_400
    payment_retry: int = 0  # how long another payment method may be tried after a refused one


class ReservationRequest(Model):
    """`sealed`: the order was encrypted when Temporal got it."""

    order_id: str
    customer_id: str
    currency: str
    lines: tuple[Line, ...]
    charges: tuple[OrderCharge, ...] = ()
    has_payment_method: bool = True
    request_hash: str
    sealed: bool = False


# The customer id that forget_orders leaves: see the schema.
ERASED_CUSTOMER: Final = re.compile(r"forgotten-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class OrderRow(Model):
    """The order row. A caller that loses a claim gets the row and acts by it. `total` is in minor units.

    `closing` is the status in which an undo will end, `placed` says that the order was paid and sold at some time,
    `refund_status` is the status of the last refund, `settled_by_hand` says that an operator settled the payment,
    `part_paid_by_hand` that an operator paid a part of it back, and `resolution_count` counts the resolutions. The
    `parked_` fields name the step that waits for an operator, the reason, and the workflow id of the run that waits.
    `customer_tag` is not in the row: it is what lists of runs call the customer of an encrypted order.
    """

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
    part_paid_by_hand: bool = False
    resolution_count: int = 0
    customer_tag: str | None = None

    @property
    def is_free(self) -> bool:
        """Nothing is to be paid, so there is no payment. Also of an order that was closed before it had a price."""
        return self.total == 0

    @property
    def is_erased(self) -> bool:
        """Whether its personal data was erased."""
        return bool(ERASED_CUSTOMER.fullmatch(self.customer_id))

    @property
    def outcome(self) -> OrderOutcome:
        """What process-order answers once the row is paid or closed. It never changes.

        An order that was placed and cancelled later still answers success: cancel-order had its own answer.
        """
        return OrderOutcome(
            success=self.placed,
            order_id=self.id,
            payment_intent=self.payment_intent_id,
            fulfillment_id=self.fulfillment_id if self.placed else None,
            total=to_json_number(self.total, self.currency) if self.placed else None,
            currency=self.currency if self.placed else None,
            error=None if self.placed else self.error,
            error_code=None if self.placed else self.error_code,
        )


class PaymentRequest(Model):
    """`pay` is the identity of the `pay` that names this payment method; None: it is the order's own."""

    order_id: str
    payment_method_id: str
    pay: str | None = None


class PaymentState(StrEnum):
    """CANCELED: at Stripe. ORDER_CLOSED: read the order row and act by it."""

    AUTHORIZED = "authorized"
    REQUIRES_ACTION = "requires_action"
    DECLINED = "declined"
    CANCELED = "canceled"
    ORDER_CLOSED = "order_closed"


class Payment(Model):
    """Where the payment of an order is. With DECLINED come the code and the text for the customer."""

    state: PaymentState
    payment_intent_id: str | None = None
    error_code: ErrorCode | None = None
    error: str | None = None


WarningKind = Literal["dispute", "fraud_warning", "review"]


class PaymentWarning(Model):
    """A dispute, an early fraud warning or a review of a payment. `amount` is what is disputed, in minor units."""

    id: str
    kind: WarningKind
    payment_intent_id: str
    status: str
    reason: str
    amount: int


class UndoResult(Model):
    """What an undo found and did, as text for operators. `shipped`: the goods have left, so it cannot be undone."""

    note: str
    shipped: bool = False


class RefundLine(Model):
    """Units of one product that are refunded; `restock` of them go back into stock."""

    product_id: str
    quantity: int
    restock: int = 0


class RefundCharge(Model):
    """A part of the order's charges of one type, as the caller writes it: the order's row knows the currency."""

    type: ChargeType
    amount: Decimal


class Refund(Model):
    """A validated refund of a part of an order: each product and each type of charge once.

    `amount` is what is refunded, as the caller writes it; None: the prices of the lines and the charges.
    """

    order_id: str
    refund_id: str
    lines: tuple[RefundLine, ...] = ()
    charges: tuple[RefundCharge, ...] = ()
    amount: Decimal | None = None
    reason: str | None = None
    customer_email: str | None = None

    @property
    def key(self) -> "RefundKey":
        return RefundKey(order_id=self.order_id, refund_id=self.refund_id)

    def is_same(self, other: "Refund | None") -> bool:
        """Whether the other one asks for the same, whatever it says about it and to whom."""
        words = {"reason": None, "customer_email": None}
        return other is not None and self.model_copy(update=words) == other.model_copy(update=words)

    def as_request(self) -> dict[str, object]:
        """The input of refund-order that asks for this refund; see orders.parsing.RefundRequest.

        Its amounts are doubles, which print like the decimals that they came from.
        """
        parts = [
            {"productId": line.product_id, "quantity": units, "restock": restock}
            for line in self.lines
            for units, restock in ((line.restock, True), (line.quantity - line.restock, False))
            if units
        ]
        request = {
            "orderId": self.order_id,
            "refundId": self.refund_id,
            "lines": parts,
            "charges": [{"type": each.type, "amount": float(each.amount)} for each in self.charges],
            "amount": None if self.amount is None else float(self.amount),
            "reason": self.reason,
            "customerEmail": self.customer_email,
        }
        return {name: value for name, value in request.items() if value is not None}


class RefundKey(Model):
    """Which refund of which order."""

    order_id: str
    refund_id: str


RefundStatus = Literal["claimed", "made", "withdrawn"]


class RefundClaim(Model):
    """What became of the claim of a refund, or of the refund itself; amounts in minor units.

    `status` is None if nothing could be claimed. Then, and if the claim was withdrawn, `refusal` says why.
    `stripe_status` is None if there is nothing of it at Stripe. `restock` are the units that go back into stock,
    `restocked`: they are there. `paid_by_hand`: an operator has paid it by other means.
    """

    status: RefundStatus | None
    amount: int = 0
    currency: str | None = None
    restock: int = 0
    restocked: bool = False
    refusal: RefundReason | None = None
    why: str | None = None
    stripe_status: str | None = None
    paid_by_hand: bool = False
    notification_deadline: int = 0


class FulfillmentRequest(Model):
    order_id: str
    shipping_address: Address
    priority: Priority
    gift_message: str | None = None


class FulfillmentAnswer(Model):
    """The warehouse's answer. `refused` is a business refusal; `order_closed`: read the order row and act by it."""

    state: Literal["accepted", "refused", "order_closed"]
    fulfillment_id: str | None = None
    error: str | None = None


class UndoClaim(Model):
    """Why an order is undone. `closing` is the status in which it will end."""

    order: ReservationRequest
    closing: Status
    error_code: ErrorCode
    error: str


class Park(Model):
    """A step that waits for an operator.

    `resolution_count` is how many resolutions of the order the run knows of. `marks_row`: whether the park stops all
    other changes of the order; that of an independent step does not.
    """

    order_id: str
    step: str
    reason: str
    workflow_id: str
    resolution_count: int = 0
    marks_row: bool = True


class Alert(Model):
    """A message to operators, in Slack and in the log. `key` is its idempotency key.

    `run` is the workflow id of the run that it is about, which the message links to; None: the run that sends it.
    `command` is what an operator can type about it.
    """

    order_id: str
    key: str
    text: str
    run: str | None = None
    command: str | None = None


class NotificationKind(StrEnum):
    CONFIRMATION = "order_confirmation"
    CANCELLED = "order_cancelled"
    FAILED = "order_failed"
    REFUNDED = "order_refunded"
    SHIPPED = "order_shipped"
    ANALYTICS = "order_placed"


class Delivery(Model):
    """What the day of delivery depends on."""

    ordered: date
    priority: Priority
    country: str
    state: str | None = None


class Notification(Model):
    """One message about an order. The activity reads the data from the rows.

    `about` is the part of the order that it tells of: the id of a refund or of a parcel; empty: the whole order.
    """

    order_id: str
    kind: NotificationKind
    about: str = ""
    to: str | None = None
    delivery: Delivery | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is delivered at most once."""
        return (self.order_id, self.kind, self.about)

    @property
    def name(self) -> str:
        """What people and receivers call it."""
        return f"{self.kind}:{self.about}" if self.about else self.kind
