"""Disputes, early fraud warnings and reviews: what banks and Stripe say about a payment after it was made."""

from dataclasses import dataclass
from typing import Literal


@dataclass(kw_only=True)
class Dispute:
    """The customer's bank takes the money back, until the dispute is won."""

    id: str
    object: Literal["dispute"] = "dispute"
    created: int
    amount: int
    currency: str
    payment_intent: str
    charge: str | None
    reason: str = "fraudulent"
    status: str = "needs_response"

    @property
    def is_open(self) -> bool:
        return self.status not in ("won", "lost")


@dataclass(kw_only=True)
class FraudWarning:
    """A bank suspects a payment."""

    id: str
    object: Literal["radar.early_fraud_warning"] = "radar.early_fraud_warning"
    created: int
    payment_intent: str
    charge: str | None
    fraud_type: str = "unauthorized_use_of_card"
    actionable: bool = True

    @property
    def status(self) -> str:
        return "actionable" if self.actionable else "not_actionable"

    @property
    def is_open(self) -> bool:
        return self.actionable


@dataclass(kw_only=True)
class Review:
    """Stripe asks the shop to look at a payment."""

    id: str
    object: Literal["review"] = "review"
    created: int
    payment_intent: str
    charge: str | None
    reason: str = "rule"
    open: bool = True

    @property
    def status(self) -> str:
        return "open" if self.open else "closed"

    @property
    def is_open(self) -> bool:
        return self.open


PaymentWarning = Dispute | FraudWarning | Review
