"""The whole outside world: every external service, the scripted faults, the journal, and the records of all of it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

from sandbox import fulfillment, inbox, openai, stripe_http
from sandbox.call import Call, Routes
from sandbox.faults import WEBHOOKS, FaultHit, Faults
from sandbox.fulfillment import Fulfillment
from sandbox.inbox import Inbox
from sandbox.journal import Journal
from sandbox.openai import OpenAi
from sandbox.persistence import PersistentDict, Store
from sandbox.stripe_http import StripeApi
from sandbox.webhooks import StatusChanges, Target, Webhook, WebhookSender

_STRIPE_IDS: Final = re.compile(r"\b(?:pi|re)_[0-9a-f]+\b")

# Every external service by its name, which is its path, and what faults and the journal call it: the attribute of World
# that has its state, and its routes.
SERVICES: Final[Mapping[str, tuple[str, Routes[Any]]]] = {
    "stripe": ("stripe", stripe_http.ROUTES),
    "fulfillment": ("fulfillment", fulfillment.ROUTES),
    "email": ("inbox", inbox.EMAIL_ROUTES),
    "analytics": ("inbox", inbox.ANALYTICS_ROUTES),
    "slack": ("inbox", inbox.SLACK_ROUTES),
    "openai": ("openai", openai.ROUTES),
}

MONEY: Final = ("authorized", "captured", "refunded", "refund_pending")


@dataclass
class World:
    """The state, in memory, for one event loop. With a store it is also kept in a file, except for scripted faults."""

    store: Store | None = None
    stripe: StripeApi = field(default_factory=StripeApi)
    fulfillment: Fulfillment = field(default_factory=Fulfillment)
    inbox: Inbox = field(default_factory=Inbox)
    openai: OpenAi = field(default_factory=OpenAi)
    faults: Faults = field(default_factory=lambda: Faults((*SERVICES, WEBHOOKS)))
    journal: Journal = field(default_factory=Journal)
    status_changes: StatusChanges = field(default_factory=StatusChanges)
    webhook_sender: WebhookSender = field(default_factory=WebhookSender)
    fault_hits: PersistentDict[int] = field(default_factory=lambda: PersistentDict(int))

    @classmethod
    def restored(cls, store: Store) -> Self:
        """Return a world with the state of the store. Raises StateError."""
        world = cls(store)
        store.restore(world._dicts())
        world.stripe.forget_unanswered()
        for each in world._with_webhooks():
            world.status_changes.of(each.values())
        return world

    def save(self) -> None:
        """Save the changes, then send their webhooks."""
        dicts = self._dicts()
        changes = [change for each in self._with_webhooks() for change in self.status_changes.of(each.touched())]
        webhooks = self.webhook_sender.queue(changes)
        if self.store:
            self.store.save(dicts)
        for each in dicts.values():
            each.written()
        self._send(webhooks)

    def open(self) -> None:
        """Start to deliver webhooks, including those left by an earlier sandbox."""
        self.webhook_sender.open()
        self._send(self.webhook_sender.pending.values())

    def send_webhooks_to(self, target: Target | None) -> None:
        """Send all webhooks to this target from now on, including undelivered ones. None: drop them."""
        self.webhook_sender.cancel()
        self.webhook_sender.target = target
        if target is None:
            self.webhook_sender.discard()
        self._send(self.webhook_sender.pending.values())

    def reset(self) -> None:
        """Empty the state. Requests that are still running end in the old state and do not change the new one."""
        self.faults.clear()
        self.webhook_sender.discard()
        vars(self).update(vars(World(self.store, webhook_sender=self.webhook_sender)))

    def fault_for(self, service: str, request: str, about: str) -> FaultHit:
        """Use up and count one hit of the script for a request."""
        hit = self.faults.hit(service, request, about)
        if hit.fault:
            kind = f"{service} {hit.fault.kind}"
            self.fault_hits[kind] = self.fault_hits.get(kind, 0) + 1
        return hit

    def about(self, call: Call) -> str:
        """Return all text that may contain an order id: the request, and the metadata of the payments that it names."""
        return "\n".join((call.text, *self._metadata(call.text)))

    def provider_records(self) -> dict[str, Any]:
        """Return what the invariants read. Amounts are in minor units; `authorized` excludes captured and released."""
        payments = self.stripe.account.records()
        return {
            "payments": payments,
            "orders": _by_order(payments),
            "fulfillment": [shipment.view for shipment in self.fulfillment.shipments.values()],
            "emails": [email.model_dump() for email in self.inbox.emails],
            "events": [event.model_dump() for event in self.inbox.events],
            "alerts": [alert.model_dump(mode="json", exclude_defaults=True) for alert in self.inbox.alerts],
            "deliveries": [*self._deliveries()],
            "key_misuses": [asdict(misuse) for misuse in self.stripe.misuses.values()],
            "fault_hits": dict(self.fault_hits),
        }

    def _deliveries(self) -> Iterator[dict[str, object]]:
        """Yield the e-mails and analytics events that name an order."""
        for email in self.inbox.emails:
            if order := email.data.get("orderNumber"):
                about = email.data.get("refundId") or email.data.get("shipmentId")
                yield {"order_id": order, "kind": f"{email.template}:{about}" if about else email.template}
        for event in self.inbox.events:
            if order := event.properties.get("orderId"):
                yield {"order_id": order, "kind": event.event}

    def _dicts(self) -> dict[str, PersistentDict[Any]]:
        return {
            "payment_intents": self.stripe.account.intents,
            "refunds": self.stripe.account.refunds,
            "payment_warnings": self.stripe.account.warnings,
            "idempotency_keys": self.stripe.keys,
            "key_misuses": self.stripe.misuses,
            "shipments": self.fulfillment.shipments,
            "shipment_keys": self.fulfillment.keys,
            "cancelled_unseen": self.fulfillment.cancelled_unseen,
            "messages": self.inbox.messages,
            "receipts": self.inbox.receipts,
            "journal": self.journal.lines,
            "webhooks": self.webhook_sender.pending,
            "fault_hits": self.fault_hits,
        }

    def _with_webhooks(self) -> tuple[PersistentDict[Any], ...]:
        account = self.stripe.account
        return account.intents, account.refunds, account.warnings, self.fulfillment.shipments

    def _send(self, webhooks: Iterable[Webhook]) -> None:
        for webhook in webhooks:
            about = "\n".join((webhook.content, *self._metadata(webhook.content)))
            self.webhook_sender.send(webhook, self.fault_for(WEBHOOKS, webhook.type, about))

    def _metadata(self, text: str) -> Iterator[str]:
        account = self.stripe.account
        for name in _STRIPE_IDS.findall(text):
            refund = account.refunds.get(name)
            intent = account.intents.get(refund.payment_intent if refund else name)
            yield from intent.metadata.values() if intent else ()


def _by_order(payments: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    orders: dict[str, dict[str, Any]] = {}
    for payment in payments:
        if payment["order"]:
            empty = {**dict.fromkeys(MONEY, 0), "currency": payment["currency"], "payment_intents": []}
            order = orders.setdefault(payment["order"], empty)
            order["payment_intents"].append(payment["id"])
            for kind in MONEY:
                order[kind] += payment[kind]
    return orders
