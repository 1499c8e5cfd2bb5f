"""What the database says of an order, for people: its state, its money, its shipment, its messages, its warnings.

Amounts are in minor units; None: the database does not tell.
"""

from datetime import datetime
from typing import Any, Final

from orders.models import (
    CLOSED,
    GONE,
    KEPT,
    PAYMENT_REFUSALS,
    ErrorCode,
    Model,
    OrderCharge,
    RefundReason,
    RefundStatus,
    Status,
    WarningKind,
)
from orders.money import DECIMALS, show, to_json_number
from orders.parcels import units_text
from orders.refunds import FAILED, UNDER_WAY

AMOUNTS: Final = ("total", "authorized", "captured", "refunded", "refund_pending", "refund_failed")


class ParkedStep(Model):
    """The step at which an order waits for an operator. `run` is the workflow id of the run that waits."""

    step: str
    reason: str
    run: str
    since: datetime | None


class ListedOrder(Model):
    """An order as a list shows it. Its `total` is 0 if it is free, or if it was closed before it was `priced`."""

    id: str
    status: Status
    total: int
    currency: str
    priced: bool = True
    created_at: datetime
    parked: ParkedStep | None = None

    @property
    def amount(self) -> str:
        return show(self.total, self.currency) if self.priced else "no price"

    def as_json(self) -> dict[str, Any]:
        """For scripts: each amount as a number with decimals, as in the JSON of an order."""
        numbers = {_camel(name): self._number(getattr(self, name)) for name in AMOUNTS if hasattr(self, name)}
        return self.model_dump(mode="json", exclude={"refunds"}) | numbers

    def _number(self, minor: int | None) -> float | None:
        return minor if minor is None or self.currency not in DECIMALS else to_json_number(minor, self.currency)


class SentNotification(Model):
    """How the delivery of a message about an order ended: `sent`, `dropped` or `given_up`."""

    kind: str
    state: str
    detail: str
    at: datetime


class KeptWarning(Model):
    """A dispute, an early fraud warning or a review of the payment; see orders.models.PaymentWarning."""

    id: str
    kind: WarningKind
    status: str
    reason: str
    amount: int
    at: datetime


class KeptRefund(Model):
    """What refund-order has claimed, made or withdrawn. `restock` are the units of it that go back into stock."""

    refund_id: str
    amount: int
    status: RefundStatus
    refusal: RefundReason | None
    reason: str | None
    restock: int
    restocked: bool
    at: datetime


class SentParcel(Model):
    """A parcel of the order. `lines` are units by product; empty: all that no other parcel has.

    `problem`: the warehouse contradicts the order, or itself. `shipped_at` is None if the parcel does not count.
    """

    id: str
    lines: dict[str, int]
    carrier: str | None
    tracking: str | None
    tracking_url: str | None
    shipped_at: datetime | None
    delivered_at: datetime | None
    problem: str | None

    @property
    def text(self) -> str:
        """The parcel in one line."""
        by = " ".join(filter(None, (self.carrier, self.tracking)))
        state = "delivered" if self.delivered_at else "shipped" if self.shipped_at else "does not count"
        units = f", {units_text(self.lines) or 'the rest'}" if self.shipped_at else ""
        said = f"{state}{units}: {by}" if by else f"{state}{units}"
        return f"{said}; {self.problem}" if self.problem else said


class KeptResolution(Model):
    """What an operator decided about a step."""

    step: str
    action: str
    reason: str
    actor: str
    at: datetime


class OrderReport(ListedOrder):
    """All of it, of one order. `refunds` are the amounts of its payment's refunds, by their status at Stripe."""

    customer_id: str
    capture_mode: str
    payment_intent: str | None
    fulfillment_requested: bool
    fulfillment_id: str | None
    error_code: ErrorCode | None
    error: str | None
    placed_at: datetime | None
    refunds: dict[str, int]
    charges: tuple[OrderCharge, ...] = ()
    partial_refunds: tuple[KeptRefund, ...] = ()
    parcels: tuple[SentParcel, ...] = ()
    notifications: tuple[SentNotification, ...] = ()
    warnings: tuple[KeptWarning, ...] = ()
    resolutions: tuple[KeptResolution, ...] = ()

    @property
    def subtotal(self) -> int:
        """What its products cost."""
        return self.total - sum(charge.amount for charge in self.charges)

    @property
    def price(self) -> str | None:
        """What the total is made of, in one line; None if it is that of the products alone."""
        if not self.charges:
            return None
        parts = [f"{show(self.subtotal, self.currency)} products"]
        for each in self.charges:
            named = f" ({each.name})" if each.name else ""
            parts.append(f"{show(each.amount, self.currency)} {each.type}{named}")
        return f"{self.amount}: {', '.join(parts)}"

    @property
    def refunded(self) -> int:
        return self.refunds.get("succeeded", 0)

    @property
    def refund_pending(self) -> int:
        return sum(amount for status, amount in self.refunds.items() if status in UNDER_WAY)

    @property
    def refund_failed(self) -> int:
        """What the customer still lacks of failed refunds: each further attempt refunds the same money."""
        failed = sum(amount for status, amount in self.refunds.items() if status in FAILED)
        return min(failed, self.total - self.refunded - self.refund_pending)

    @property
    def authorized(self) -> int | None:
        """What the customer's bank has authorized, also if it was captured or voided since."""
        if self.placed_at or self.refunds or self.fulfillment_requested:
            return self.total
        return 0 if self.payment_intent is None or self.error_code in PAYMENT_REFUSALS else None

    @property
    def captured(self) -> int | None:
        """What was charged. Of an order that somebody charged by hand, what was refunded of it."""
        if self.placed_at:
            return self.total
        if self.refunds:
            return self.total if self.capture_mode == "automatic" else self.refunded + self.refund_pending
        if self.status is Status.CAPTURING:
            return None
        return self.authorized if self.capture_mode == "automatic" else 0

    @property
    def money(self) -> str:
        """Where the money is, in one line."""
        if self.priced and not self.total:
            return "nothing to pay"
        if self.captured:
            refunds = {
                "refunded": self.refunded,
                "refund pending": self.refund_pending,
                "refund failed": self.refund_failed,
            }
            parts = [f"{show(amount, self.currency)} {name}" for name, amount in refunds.items() if amount]
            return ", ".join((f"{show(self.captured, self.currency)} captured", *parts))
        if not self.payment_intent or self.authorized == 0:
            return "nothing charged"
        if self.status in CLOSED:
            settled = self._settled("void_payment")
            return f"{self.amount} not captured, {settled}" if settled else f"{self.amount} voided, nothing charged"
        if self.error_code is ErrorCode.AUTHORIZATION_EXPIRED:
            return f"the authorization of {self.amount} is gone, nothing captured"
        ahead = ", being captured" if self.status is Status.CAPTURING else ", nothing captured"
        return f"{self.amount} {'authorized' + ahead if self.authorized else 'asked for, not authorized yet'}"

    @property
    def shipment(self) -> str:
        """Where the goods are, as the warehouse last said."""
        if not self.fulfillment_requested:
            return "never asked for"
        named = f" ({self.fulfillment_id})" if self.fulfillment_id else ""
        if self.status in KEPT | {Status.CAPTURING}:
            state = "shipped in part" if self.status is Status.SHIPPING else self.status
            return f"{state if self.status in GONE else 'accepted'}{named}"
        if settled := self._settled("cancel_fulfillment"):
            return f"{settled}{named}"
        if self.status in CLOSED:
            return f"cancelled{named}" if named else "none"
        return f"{'asked for' if self.status is Status.PENDING else 'being cancelled'}{named}"

    def _settled(self, step: str) -> str | None:
        """An operator's last resolution of the step, if it ended its undo."""
        said = next((each for each in reversed(self.resolutions) if each.step == step and each.action != "retry"), None)
        return f"settled by {said.actor}: {said.reason}" if said else None

    def as_json(self) -> dict[str, Any]:
        """The same of what only the report has."""

        def with_number(each: KeptWarning | OrderCharge | KeptRefund) -> dict[str, Any]:
            return each.model_dump(mode="json") | {"amount": self._number(each.amount)}

        return super().as_json() | {
            "subtotal": self._number(self.subtotal),
            "charges": [*map(with_number, self.charges)],
            "partialRefunds": [*map(with_number, self.partial_refunds)],
            "warnings": [*map(with_number, self.warnings)],
            "money": self.money,
            "shipment": self.shipment,
        }


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(each.title() for each in others)
