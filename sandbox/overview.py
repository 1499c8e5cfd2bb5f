"""What the external services have of each order, put together for the page. Reading it changes nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Final, NamedTuple

from sandbox.fulfillment import Shipment
from sandbox.inbox import Alert, Email, Event, Message
from sandbox.journal import Entry, names_order
from sandbox.stripe import PaymentIntent, Refund
from sandbox.stripe_warnings import Dispute, PaymentWarning
from sandbox.world import World

_ORDER_PATH: Final = re.compile(r"/orders/([^/?]+)")

LATER: Final = "9"  # than any time

# The status of a PaymentIntent -> what it means for the money.
PAYMENT: Final = {
    "requires_payment_method": "declined",
    "requires_confirmation": "not confirmed",
    "requires_action": "waits for 3DS",
    "requires_capture": "authorized",
    "succeeded": "captured",
    "canceled": "voided",
}

REFUND: Final = {"succeeded": "refunded", "pending": "refund pending", "failed": "refund failed"}


class Money(NamedTuple):
    """An amount in minor units, and what happened to it. `alarming`: an operator would look at it."""

    label: str
    amount: int
    currency: str
    alarming: bool = False


class Button(NamedTuple):
    """One way to act on an order: a POST of `fields` to /actions/`action`."""

    label: str
    action: str
    fields: dict[str, str]


@dataclass
class OrderView:
    """All that the external services have of one order. `since` is the ISO time of its first trace."""

    id: str
    since: str
    intents: list[PaymentIntent] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    warnings: list[PaymentWarning] = field(default_factory=list)
    shipments: list[Shipment] = field(default_factory=list)
    emails: list[Email] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    journal: list[Entry] = field(default_factory=list)

    @property
    def money(self) -> Iterator[Money]:
        for intent in self.intents:
            amount = intent.amount_received or intent.amount
            label = _payment_label(intent)
            yield Money(label, amount, intent.currency, label in ("declined", "expired"))
        for refund in self.refunds:
            label = REFUND.get(refund.status, refund.status)
            yield Money(label, refund.amount, refund.currency, not refund.stands)
        for warning in self.warnings:
            intent = next(each for each in self.intents if each.id == warning.payment_intent)
            status = warning.status.replace("_", " ")
            yield Money(f"{_name(warning)}: {status}", intent.amount, intent.currency, warning.is_open)

    @property
    def buttons(self) -> Iterator[Button]:
        """Yield what the customer, the banks and the warehouse can do about the order now."""
        yield from self._next()
        yield from self._warehouse()
        yield from self._against_the_payment()

    def _next(self) -> Iterator[Button]:
        if any(each.status == "requires_action" for each in self.intents):
            yield Button("Pass 3DS as the customer", "authenticate", {"outcome": "succeed"})
            yield Button("Fail 3DS as the customer", "authenticate", {"outcome": "fail"})
        if any(each.stands and each.status != "succeeded" for each in self.refunds):
            yield Button("Settle the refund", "settle", {"outcome": "succeed"})
        if any(each.stands for each in self.refunds):
            yield Button("Fail the refund", "settle", {"outcome": "fail"})

    def _warehouse(self) -> Iterator[Button]:
        statuses = {each.status for each in self.shipments}
        if "accepted" in statuses:
            yield Button("Ship the order", "ship", {})
        if "shipping" in statuses:
            yield Button("Ship the rest", "ship", {})
        if statuses & {"accepted", "shipping"}:
            yield Button("Ship one unit", "ship-part", {})
            yield Button("Never ship the rest", "short", {})
        if statuses & {"accepted", "shipping", "shipped"}:
            yield Button("Deliver the order", "deliver", {})
        if statuses:
            yield Button("Forget the order in the warehouse", "forget", {})

    def _against_the_payment(self) -> Iterator[Button]:
        statuses = {each.status for each in self.intents}
        if "requires_capture" in statuses:
            yield Button("Let the authorization expire", "expire", {})
        if "succeeded" in statuses:
            yield Button("Dispute the payment", "warn", {"kind": "dispute"})
            yield Button("Suspect fraud", "warn", {"kind": "fraud_warning"})
            yield Button("Ask for a review", "warn", {"kind": "review"})
        open_warnings = [each for each in self.warnings if each.is_open]
        if open_warnings and isinstance(open_warnings[-1], Dispute):
            yield Button("Win the dispute", "end-warning", {"outcome": "succeed"})
            yield Button("Lose the dispute", "end-warning", {"outcome": "fail"})
        elif open_warnings:
            yield Button(f"Close the {_name(open_warnings[-1])}", "end-warning", {"outcome": "succeed"})


def read_orders(world: World, part_of_id: str, limit: int) -> tuple[list[OrderView], int]:
    """Return the newest orders whose id contains this text, newest first, and how many such orders there are."""
    traces = [(since, name) for name, since in _first_traces(world).items() if part_of_id in name]
    # First reversed: of orders with the same time, the one that was seen last is the newest.
    traces.reverse()
    traces.sort(key=itemgetter(0), reverse=True)
    orders = {name: OrderView(name, since) for since, name in traces[:limit]}
    _add_money(world, orders)
    _add_goods_and_messages(world, orders)
    journals = world.journal.of(orders)
    for order in orders.values():
        order.journal = journals[order.id]
        order.alerts = [each for each in world.inbox.alerts if names_order(each.text, order.id)]
    return [*orders.values()], len(traces)


def _add_money(world: World, orders: dict[str, OrderView]) -> None:
    account = world.stripe.account
    order_of = {each.id: orders.get(each.metadata.get("order_id", "")) for each in account.intents.values()}
    for intent in account.intents.values():
        if order := order_of[intent.id]:
            order.intents.append(intent)
    for refund in account.refunds.values():
        if order := order_of[refund.payment_intent]:
            order.refunds.append(refund)
    for warning in account.warnings.values():
        if order := order_of[warning.payment_intent]:
            order.warnings.append(warning)


def _add_goods_and_messages(world: World, orders: dict[str, OrderView]) -> None:
    for shipment in world.fulfillment.shipments.values():
        if order := orders.get(shipment.order.order_id):
            order.shipments.append(shipment)
    for message in world.inbox.messages.values():
        if order := orders.get(_named_by_message(message)):
            match message:
                case Email():
                    order.emails.append(message)
                case Event():
                    order.events.append(message)


def _first_traces(world: World) -> dict[str, str]:
    """Return when each order was first seen. The journal knows best, but only of its latest requests."""
    found: dict[str, str] = {}
    for _, entry in world.journal.lines.values():
        found.setdefault(_named_by_request(entry), entry.at)
    for intent in world.stripe.account.intents.values():
        order = intent.metadata.get("order_id", "")
        found[order] = min(found.get(order, LATER), _end_of_second(intent.created))
    for shipment in world.fulfillment.shipments.values():
        found.setdefault(shipment.order.order_id, "")
    for message in world.inbox.messages.values():
        found.setdefault(_named_by_message(message), "")
    found.pop("", None)
    return found


def _named_by_request(entry: Entry) -> str:
    match entry.body:
        case (
            {"metadata": {"order_id": str(order)}}
            | {"orderId": str(order)}
            | {"data": {"orderNumber": str(order)}}
            | {"properties": {"orderId": str(order)}}
        ):
            return order
    path = _ORDER_PATH.match(entry.path)
    return path[1] if path else ""


def _named_by_message(message: Message) -> str:
    match message:
        case Email(data={"orderNumber": str(order)}) | Event(properties={"orderId": str(order)}):
            return order
    return ""


def _end_of_second(created: int) -> str:
    """Stripe's times are whole seconds: the first request came before this one's end."""
    return datetime.fromtimestamp(created + 0.999, UTC).isoformat(timespec="milliseconds")


def _payment_label(intent: PaymentIntent) -> str:
    """A declined payment that was voided counts as declined: that is what the customer sees."""
    if intent.last_payment_error:
        return "declined"
    if intent.cancellation_reason == "automatic":
        return "expired"
    return PAYMENT.get(intent.status, intent.status)


def _name(warning: PaymentWarning) -> str:
    return warning.object.rpartition(".")[2].replace("_", " ")
