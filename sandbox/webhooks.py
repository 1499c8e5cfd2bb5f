"""Signed webhooks about payments, refunds and shipments, sent to the shop until it accepts them.

Like real ones they may arrive twice, late or out of order (see faults.py). After a kill they are sent again.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final, Literal, NamedTuple

import httpx
from pydantic import BaseModel, ConfigDict

from sandbox.faults import Fault, FaultHit
from sandbox.fulfillment import Item, Parcel, Shipment
from sandbox.persistence import PersistentDict
from sandbox.stripe import PaymentIntent, Refund
from sandbox.stripe_warnings import Dispute, FraudWarning, PaymentWarning, Review

STRIPE_SECRET: Final = "whsec_sandbox"  # noqa: S105  not secret: it protects nothing
FULFILLMENT_SECRET: Final = "fhsec_sandbox"  # noqa: S105

FIRST_PAUSE: Final = 0.05  # seconds between two attempts; each is twice as long as the one before
MAX_PAUSE: Final = 2.0
GIVE_UP_AFTER: Final = 120.0  # seconds until an undeliverable webhook is dropped
MAX_WAIT: Final = 30.0  # seconds for one answer of the shop

# The status of a PaymentIntent -> the event that reports it (docs.stripe.com/api/events/types).
INTENT_EVENTS: Final = {
    "requires_action": "requires_action",
    "processing": "processing",
    "requires_capture": "amount_capturable_updated",
    "succeeded": "succeeded",
    "canceled": "canceled",
}


class SentParcel(NamedTuple):
    """A parcel of an order. A later report of it, with other lines, is one more event."""

    order_id: str
    parcel: Parcel

    @property
    def id(self) -> str:
        return f"{self.order_id}/{self.parcel.shipment_id}"

    @property
    def status(self) -> str:
        return f"{self.parcel.status} {[*self.parcel.lines]}"


class Shorted(NamedTuple):
    """What can never leave of an order. More of it is one more event."""

    order_id: str
    lines: tuple[Item, ...]

    @property
    def id(self) -> str:
        return f"{self.order_id}/shorted"

    @property
    def status(self) -> str:
        return f"{[*self.lines]}"


Subject = PaymentIntent | Refund | PaymentWarning | Shipment | SentParcel | Shorted


class Webhook(BaseModel):
    """One event; `content` is the body, the same in each attempt."""

    model_config = ConfigDict(frozen=True)

    id: str
    source: Literal["stripe", "fulfillment"]
    type: str
    content: str


class Attempt(NamedTuple):
    """One delivery attempt. `status` is None if the shop gave no answer."""

    id: str
    type: str
    status: int | None


class Target(BaseModel):
    """The base address of the shop, and the secrets that sign its webhooks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    stripe_secret: str = STRIPE_SECRET
    fulfillment_secret: str = FULFILLMENT_SECRET

    def request(self, webhook: Webhook) -> httpx.Request:
        """Return one attempt, signed now: Stripe signs each attempt separately."""
        secret, header = {
            "stripe": (self.stripe_secret, "Stripe-Signature"),
            "fulfillment": (self.fulfillment_secret, "Fulfillment-Signature"),
        }[webhook.source]
        headers = {"Content-Type": "application/json", header: sign(webhook.content, secret)}
        url = f"{self.url.rstrip('/')}/webhooks/{webhook.source}"
        return httpx.Request("POST", url, content=webhook.content, headers=headers)


def sign(content: str, secret: str) -> str:
    now = int(time.time())
    return f"t={now},v1={hmac.new(secret.encode(), f'{now}.{content}'.encode(), hashlib.sha256).hexdigest()}"


class StatusChanges:
    """The last known status of each object, so that every change is reported once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, subjects: Iterable[Subject]) -> list[Webhook]:
        """Return a webhook for every new status of objects that may have changed."""
        return [_webhook(part, kind) for subject in subjects for part in _parts(subject) for kind in self._kinds(part)]

    def _kinds(self, subject: Subject) -> Iterator[str]:
        now = f"{subject.status} {subject.latest_charge}" if isinstance(subject, PaymentIntent) else subject.status
        before, self._known[subject.id] = self._known.get(subject.id), now
        if now == before:
            return
        match subject:
            case PaymentIntent():
                yield from _intent_kinds(subject, new=before is None)
            case Refund(status=status):
                yield "refund.updated" if before else "refund.created"
                if status == "failed":
                    yield "refund.failed"
            case Dispute():
                yield "charge.dispute.created" if before is None else "charge.dispute.closed"
            case FraudWarning():
                yield f"radar.early_fraud_warning.{'created' if before is None else 'updated'}"
            case Review():
                yield f"review.{'opened' if before is None else 'closed'}"
            case Shipment() | SentParcel() | Shorted():
                yield from _warehouse_kinds(subject)


def _warehouse_kinds(subject: "Shipment | SentParcel | Shorted") -> Iterator[str]:
    match subject:
        case Shipment(status="shipped" | "delivered" as status) | SentParcel(parcel=Parcel(status=status)):
            yield f"order.{status}"
        case Shorted():
            yield "order.shorted"


def _parts(subject: Subject) -> Sequence[Subject]:
    """Of an order that leaves in parcels, each parcel is reported, and not the order."""
    if not isinstance(subject, Shipment):
        return [subject]
    order_id = subject.order.order_id
    parts: list[Subject] = [Shorted(order_id, subject.shorted)] if subject.shorted else []
    if not subject.parcels:
        return [*parts, subject]
    return [*parts, *(SentParcel(order_id, each) for each in subject.parcels)]


def _intent_kinds(intent: PaymentIntent, *, new: bool) -> Iterator[str]:
    if new:
        yield "payment_intent.created"
    if intent.status in INTENT_EVENTS:
        yield f"payment_intent.{INTENT_EVENTS[intent.status]}"
    elif intent.last_payment_error:
        yield "payment_intent.payment_failed"


def _webhook(subject: Subject, kind: str) -> Webhook:
    if isinstance(subject, Shipment):
        event_id = f"whe_{secrets.token_hex(12)}"
        body: dict[str, Any] = {"id": event_id, "type": kind, "orderId": subject.order.order_id}
        return Webhook(id=event_id, source="fulfillment", type=kind, content=json.dumps(body))
    if isinstance(subject, SentParcel):
        event_id = f"whe_{secrets.token_hex(12)}"
        said = subject.parcel.model_dump(mode="json", exclude={"status"}, exclude_none=True)
        body = {"id": event_id, "type": kind, "orderId": subject.order_id, **said}
        return Webhook(id=event_id, source="fulfillment", type=kind, content=json.dumps(body))
    if isinstance(subject, Shorted):
        event_id = f"whe_{secrets.token_hex(12)}"
        lines = [line.model_dump(mode="json") for line in subject.lines]
        body = {"id": event_id, "type": kind, "orderId": subject.order_id, "lines": lines}
        return Webhook(id=event_id, source="fulfillment", type=kind, content=json.dumps(body))
    event_id = f"evt_{secrets.token_hex(12)}"
    body = {
        "id": event_id,
        "object": "event",
        "created": int(time.time()),
        "type": kind,
        "livemode": False,
        "data": {"object": asdict(subject)},
    }
    return Webhook(id=event_id, source="stripe", type=kind, content=json.dumps(body))


class WebhookSender:
    """Delivers in the background. No webhook waits for another one, unless a fault says so."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.pending: PersistentDict[Webhook] = PersistentDict(Webhook)
        self.attempts: deque[Attempt] = deque(maxlen=1000)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._next_delivered = asyncio.Event()
        self._closed = True
        self._http: httpx.AsyncClient | None = None

    def queue(self, webhooks: list[Webhook]) -> list[Webhook]:
        """Add webhooks to those that are pending, and return them; without a target, none."""
        queued = webhooks if self.target else []
        for each in queued:
            self.pending[each.id] = each
        return queued

    def send(self, webhook: Webhook, hit: FaultHit) -> None:
        """Deliver a queued webhook. It releases the one before it, if a fault holds that back."""
        overtaken, self._next_delivered = self._next_delivered, asyncio.Event()
        if self._closed or not self.target:
            return
        delivery = asyncio.create_task(self._run(self.target, webhook, hit, overtaken, self._next_delivered))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def idle(self) -> None:
        """Wait until no delivery is running."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)

    def open(self) -> None:
        """Allow deliveries: from now on an event loop runs."""
        self._closed = False

    def cancel(self) -> None:
        """Stop all running deliveries. What was not delivered stays pending."""
        for delivery in self._deliveries:
            delivery.cancel()

    def discard(self) -> None:
        """Drop all pending webhooks."""
        self.cancel()
        self.pending.clear()

    async def close(self) -> None:
        self._closed = True
        self.cancel()
        await self.idle()
        if self._http:
            await self._http.aclose()
            self._http = None

    async def _run(
        self, target: Target, webhook: Webhook, hit: FaultHit, overtaken: asyncio.Event, next_delivered: asyncio.Event
    ) -> None:
        """Deliver one webhook as the fault says, then release the one before it (`overtaken`)."""
        match hit.fault:
            case Fault(kind="delay", seconds=seconds):
                await hit.pause(seconds)
            case Fault(kind="reorder"):
                await hit.wait_for(next_delivered)
        if not (hit.fault and hit.fault.kind == "drop"):
            times = 2 if hit.fault and hit.fault.kind == "duplicate" else 1
            await asyncio.gather(*(self._deliver(target, webhook) for _ in range(times)))
        del self.pending[webhook.id]
        overtaken.set()

    async def _deliver(self, target: Target, webhook: Webhook) -> None:
        pause, end = FIRST_PAUSE, time.monotonic() + GIVE_UP_AFTER
        while not await self._attempt(target, webhook) and time.monotonic() < end:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _attempt(self, target: Target, webhook: Webhook) -> bool:
        """Try once, and return whether the shop accepted it."""
        self._http = self._http or httpx.AsyncClient(timeout=MAX_WAIT, trust_env=False)
        try:
            answer = await self._http.send(target.request(webhook))
        except httpx.HTTPError:
            self.attempts.append(Attempt(webhook.id, webhook.type, None))
            return False
        self.attempts.append(Attempt(webhook.id, webhook.type, answer.status_code))
        return answer.is_success
