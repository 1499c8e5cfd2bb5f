"""The web process of a shop, as its senders see it; what a test sends is signed unless it says otherwise."""

import hashlib
import hmac
import json
import time
import uuid
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.shop import Shop

HEADERS = {"stripe": "Stripe-Signature", "fulfillment": "Fulfillment-Signature"}
SECRETS = {"stripe": "whsec_sandbox", "fulfillment": "fhsec_sandbox"}


def signature(body: bytes, secret: str, at: float | None = None) -> str:
    at = int(time.time() if at is None else at)
    return f"t={at},v1={hmac.new(secret.encode(), f'{at}.'.encode() + body, hashlib.sha256).hexdigest()}"


def an_event(source: str, kind: str, about: str | None, event_id: str | None = None, **more: Any) -> bytes:
    """An event; whatever `more` it claims of its object is not to be believed."""
    identity = {"id": event_id or f"evt_{uuid.uuid4().hex}", "type": kind}
    if source == "fulfillment":
        return json.dumps(identity | {"orderId": about} | more).encode()
    return json.dumps(identity | {"object": "event", "data": {"object": {"id": about, **more}}}).encode()


@dataclass
class Web:
    """The web process of a shop, as its senders see it."""

    shop: Shop
    url: str
    http: httpx.AsyncClient

    async def post(self, source: str, body: bytes, header: str | None = None) -> httpx.Response:
        headers = {HEADERS[source]: signature(body, SECRETS[source]) if header is None else header}
        return await self.http.post(f"/webhooks/{source}", content=body, headers=headers)

    async def stripe(self, kind: str, about: str | None, event_id: str | None = None, **claims: Any) -> httpx.Response:
        return await self.post("stripe", an_event("stripe", kind, about, event_id, **claims))

    async def fulfillment(self, kind: str, order_id: str, event_id: str | None = None) -> httpx.Response:
        return await self.post("fulfillment", an_event("fulfillment", f"order.{kind}", order_id, event_id))

    async def kept(self) -> list[tuple[str, str | None]]:
        """The events that count as received: type and order."""
        rows = await self.shop.pool.fetch("SELECT type, order_id FROM webhook_events ORDER BY received_at")
        return [(row["type"], row["order_id"]) for row in rows]

    async def notes(self, order_id: str) -> list[str]:
        """What was written down about an order by the web process."""
        rows = await self.shop.pool.fetch(
            "SELECT why FROM order_events WHERE order_id = $1 AND actor = 'webhooks' ORDER BY id", order_id
        )
        return [row["why"] for row in rows]

    async def admin(self, path: str, outcome: str | None = None) -> None:
        """Something happens in the outside world."""
        body = {"outcome": outcome} if outcome else None
        async with httpx.AsyncClient(base_url=self.shop.sandbox.url, trust_env=False) as http:
            (await http.post(f"/_sandbox/{path}", json=body)).raise_for_status()

    async def warn(self, kind: str, intent_id: str) -> None:
        """A bank disputes or suspects a payment, or Stripe asks for a review."""
        async with httpx.AsyncClient(base_url=self.shop.sandbox.url, trust_env=False) as http:
            (await http.post(f"/_sandbox/warn/{intent_id}", json={"kind": kind})).raise_for_status()

    async def warehouse(self, path: str) -> None:
        """The warehouse's people do something."""
        async with httpx.AsyncClient(base_url=self.shop.settings.fulfillment_api, trust_env=False) as http:
            (await http.post(f"/{path}", headers={"Authorization": "Bearer key"})).raise_for_status()

    async def intent_of(self, order_id: str) -> str:
        return str((await self.shop.row(order_id))["payment_intent_id"])
