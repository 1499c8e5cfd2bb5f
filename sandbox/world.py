"""The whole outside world: every neighbour, the faults on script, the journal, and the books that must balance."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sandbox.call import Call
from sandbox.faults import Faults
from sandbox.fulfillment import Fulfillment
from sandbox.inbox import Inbox
from sandbox.journal import Journal
from sandbox.stripe_http import StripeApi

_STRIPE_IDS: Final = re.compile(r"\b(?:pi|re)_[0-9a-f]+\b")
_MONEY: Final = ("authorised", "captured", "refunded", "refund_pending")


@dataclass
class World:
    """State in memory, for one event loop."""

    stripe: StripeApi = field(default_factory=StripeApi)
    fulfillment: Fulfillment = field(default_factory=Fulfillment)
    inbox: Inbox = field(default_factory=Inbox)
    faults: Faults = field(default_factory=Faults)
    journal: Journal = field(default_factory=Journal)

    def reset(self) -> None:
        """Start anew. Requests still under way end in the old world and leave no trace in this one."""
        self.faults.clear()
        vars(self).update(vars(World()))

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
