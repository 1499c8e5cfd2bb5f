"""The whole outside world: every neighbour, the faults on script, the journal, and the books that must balance."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Self

from sandbox.call import Call
from sandbox.faults import Faults
from sandbox.fulfillment import Fulfillment
from sandbox.inbox import Inbox
from sandbox.journal import Journal
from sandbox.store import Shelf, Store
from sandbox.stripe_http import StripeApi

_STRIPE_IDS: Final = re.compile(r"\b(?:pi|re)_[0-9a-f]+\b")
_MONEY: Final = ("authorised", "captured", "refunded", "refund_pending")


@dataclass
class World:
    """State in memory, for one event loop; with a store also in a file, but for the scripted faults."""

    store: Store | None = None
    stripe: StripeApi = field(default_factory=StripeApi)
    fulfillment: Fulfillment = field(default_factory=Fulfillment)
    inbox: Inbox = field(default_factory=Inbox)
    faults: Faults = field(default_factory=Faults)
    journal: Journal = field(default_factory=Journal)

    @classmethod
    def remembered(cls, store: Store) -> Self:
        """The world that the store has. Raises StateError."""
        world = cls(store)
        store.restore(world._shelves())
        world.stripe.forget_unanswered()
        return world

    def save(self) -> None:
        """Write down what changed. Whoever is to be told of a change is told after this."""
        shelves = self._shelves()
        if self.store:
            self.store.save(shelves)
        for shelf in shelves.values():
            shelf.written()

    def reset(self) -> None:
        """Start anew. Requests still under way end in the old world and leave no trace in this one."""
        self.faults.clear()
        vars(self).update(vars(World(self.store)))

    def about(self, call: Call) -> str:
        """All that may name the order a request is about, also the metadata of the payments it mentions."""
        return "\n".join((call.text, *self._metadata(call.text)))

    def books(self) -> dict[str, Any]:
        """What the invariants read. Amounts in minor units; `authorised` is held and neither captured nor released."""
        payments = self.stripe.account.books()
        return {
            "payments": payments,
            "orders": _by_order(payments),
            "fulfillment": [shipment.view for shipment in self.fulfillment.shipments.values()],
            "emails": [email.model_dump() for email in self.inbox.emails],
            "events": [event.model_dump() for event in self.inbox.events],
            "alerts": [alert.model_dump() for alert in self.inbox.alerts],
        }

    def _shelves(self) -> dict[str, Shelf[Any]]:
        return {
            "payment_intents": self.stripe.account.intents,
            "refunds": self.stripe.account.refunds,
            "idempotency_keys": self.stripe.keys,
            "shipments": self.fulfillment.shipments,
            "cancelled_unseen": self.fulfillment.cancelled_unseen,
            "messages": self.inbox.messages,
            "receipts": self.inbox.receipts,
            "journal": self.journal.lines,
        }

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
            empty = {**dict.fromkeys(_MONEY, 0), "currency": payment["currency"], "payment_intents": []}
            order = orders.setdefault(payment["order"], empty)
            order["payment_intents"].append(payment["id"])
            for kind in _MONEY:
                order[kind] += payment[kind]
    return orders
