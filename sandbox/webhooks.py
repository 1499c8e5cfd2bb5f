"""What the shop is told unasked: signed webhooks about payments, refunds and shipments, delivered until it takes them.

Like the real ones they may come twice, late, or before an earlier one (see faults.py). After a kill they are sent anew.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any, Final, Literal, NamedTuple

import httpx
from pydantic import BaseModel, ConfigDict

from sandbox.faults import Fault, FaultHit
from sandbox.fulfillment import Shipment
from sandbox.persistence import PersistentDict
from sandbox.stripe import PaymentIntent, Refund

STRIPE_SECRET: Final = "whsec_sandbox"  # noqa: S105  everybody may know it
FULFILLMENT_SECRET: Final = "fhsec_sandbox"  # noqa: S105

FIRST_PAUSE: Final = 0.05  # seconds between two attempts; each is twice as long as the one before
MAX_PAUSE: Final = 2.0
PATIENCE: Final = 120.0  # seconds until an undeliverable webhook is given up
ANSWER_WITHIN: Final = 30.0

# The news in a PaymentIntent's status, as Stripe calls it (docs.stripe.com/api/events/types).
INTENT_EVENTS: Final = {
    "requires_action": "requires_action",
    "processing": "processing",
    "requires_capture": "amount_capturable_updated",
    "succeeded": "succeeded",
    "canceled": "canceled",
}

Thing = PaymentIntent | Refund | Shipment


class Webhook(BaseModel):
    """One piece of news; `content` is the body, the same in each attempt."""

    model_config = ConfigDict(frozen=True)

    id: str
    source: Literal["stripe", "fulfillment"]
    type: str
    content: str


class Attempt(NamedTuple):
    """`status` is None where the shop gave no answer."""

    id: str
    type: str
    status: int | None


class Target(BaseModel):
    """Where webhooks go: the shop's base address, and what they are signed with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    stripe_secret: str = STRIPE_SECRET
    fulfillment_secret: str = FULFILLMENT_SECRET

    def request(self, webhook: Webhook) -> httpx.Request:
        """An attempt, signed now, as Stripe signs each one anew."""
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


class News:
    """What is known of each object, so that every change is told once."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def of(self, things: Iterable[Thing]) -> list[Webhook]:
        """What is new about objects that may have changed."""
        return [_webhook(thing, kind) for thing in things for kind in self._kinds(thing)]

    def _kinds(self, thing: Thing) -> Iterator[str]:
        now = f"{thing.status} {thing.latest_charge}" if isinstance(thing, PaymentIntent) else thing.status
        before, self._known[thing.id] = self._known.get(thing.id), now
        if now == before:
            return
        match thing:
            case PaymentIntent():
                yield from _intent_kinds(thing, new=before is None)
            case Refund(status=status):
                yield "refund.updated" if before else "refund.created"
                if status == "failed":
                    yield "refund.failed"
            case Shipment(status="shipped" | "delivered" as status):
                yield f"order.{status}"


def _intent_kinds(intent: PaymentIntent, *, new: bool) -> Iterator[str]:
    if new:
        yield "payment_intent.created"
    if intent.status in INTENT_EVENTS:
        yield f"payment_intent.{INTENT_EVENTS[intent.status]}"
    elif intent.last_payment_error:
        yield "payment_intent.payment_failed"


def _webhook(thing: Thing, kind: str) -> Webhook:
    if isinstance(thing, Shipment):
        event_id = f"whe_{secrets.token_hex(12)}"
        body: dict[str, Any] = {"id": event_id, "type": kind, "orderId": thing.order.order_id}
        return Webhook(id=event_id, source="fulfillment", type=kind, content=json.dumps(body))
    event_id = f"evt_{secrets.token_hex(12)}"
    body = {
        "id": event_id,
        "object": "event",
        "created": int(time.time()),
        "type": kind,
        "livemode": False,
        "data": {"object": asdict(thing)},
    }
    return Webhook(id=event_id, source="stripe", type=kind, content=json.dumps(body))


class WebhookSender:
    """Delivers in the background, each webhook on its own: none waits for another, unless a fault says so."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.pending: PersistentDict[Webhook] = PersistentDict(Webhook)
        self.attempts: deque[Attempt] = deque(maxlen=1000)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._held = asyncio.Event()
        self._closed = True
        self._http: httpx.AsyncClient | None = None

    def take(self, news: list[Webhook]) -> list[Webhook]:
        """Put webhooks with those to deliver; none, where nobody listens."""
        taken = news if self.target else []
        for each in taken:
            self.pending[each.id] = each
        return taken

    def send(self, webhook: Webhook, hit: FaultHit) -> None:
        """Deliver a webhook that was taken; one that is held back goes after it."""
        overtaken, self._held = self._held, asyncio.Event()
        if self._closed or not self.target:
            return
        delivery = asyncio.create_task(self._suffer(self.target, webhook, hit, overtaken, self._held))
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def idle(self) -> None:
        """Wait until nothing is left to deliver."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)

    def open(self) -> None:
        """From now on there is a loop to deliver in."""
        self._closed = False

    def cancel(self) -> None:
        """Stop all deliveries under way. What was not delivered stays pending."""
        for delivery in self._deliveries:
            delivery.cancel()

    def forget(self) -> None:
        """Deliver nothing of what is left."""
        self.cancel()
        self.pending.clear()

    async def close(self) -> None:
        self._closed = True
        self.cancel()
        await self.idle()
        if self._http:
            await self._http.aclose()
            self._http = None

    async def _suffer(
        self, target: Target, webhook: Webhook, hit: FaultHit, overtaken: asyncio.Event, next_one: asyncio.Event
    ) -> None:
        """One delivery, with what the script has for it. Each sets what the one before it may be waiting for."""
        match hit.fault:
            case Fault(kind="delay", seconds=seconds):
                await hit.pause(seconds)
            case Fault(kind="reorder"):
                await hit.wait_for(next_one)
        if not (hit.fault and hit.fault.kind == "drop"):
            times = 2 if hit.fault and hit.fault.kind == "duplicate" else 1
            await asyncio.gather(*(self._deliver(target, webhook) for _ in range(times)))
        del self.pending[webhook.id]
        overtaken.set()

    async def _deliver(self, target: Target, webhook: Webhook) -> None:
        pause, end = FIRST_PAUSE, time.monotonic() + PATIENCE
        while not await self._attempt(target, webhook) and time.monotonic() < end:
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    async def _attempt(self, target: Target, webhook: Webhook) -> bool:
        """Whether the shop took it."""
        self._http = self._http or httpx.AsyncClient(timeout=ANSWER_WITHIN, trust_env=False)
        try:
            answer = await self._http.send(target.request(webhook))
        except httpx.HTTPError:
            self.attempts.append(Attempt(webhook.id, webhook.type, None))
            return False
        self.attempts.append(Attempt(webhook.id, webhook.type, answer.status_code))
        return answer.is_success
