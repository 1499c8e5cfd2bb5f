"""Stripe's PaymentIntents and refunds as a state machine, without HTTP.

Amounts are in minor units. A call that breaks a rule raises `StripeError`, whose body is Stripe's answer.
"""

import secrets
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NoReturn, TypeVar

from sandbox.persistence import PersistentDict
from sandbox.stripe_cards import CARDS, Card, Decline
from sandbox.stripe_params import (
    CancelIntent,
    CaptureIntent,
    ConfirmIntent,
    CreateIntent,
    CreateRefund,
    ListIntents,
    ListRefunds,
    Page,
)
from sandbox.stripe_warnings import Dispute, FraudWarning, PaymentWarning, Review

View = dict[str, Any]

# The parameters of its creation that a PaymentIntent keeps.
KEPT: Final = {
    "amount",
    "capture_method",
    "currency",
    "customer",
    "description",
    "metadata",
    "payment_method",
    "receipt_email",
}

CONFIRMABLE: Final = ("requires_payment_method", "requires_confirmation", "requires_action")
CANCELABLE: Final = (*CONFIRMABLE, "requires_capture")


class StripeError(Exception):
    """An error of Stripe's API: the HTTP status and the fields of the `error` object."""

    def __init__(self, status: int, message: str, *, kind: str = "invalid_request_error", **fields: object) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "message": message, **fields}}


@dataclass(kw_only=True)
class PaymentIntent:
    id: str
    object: str = "payment_intent"
    livemode: bool = False
    created: int
    amount: int
    amount_capturable: int = 0
    amount_received: int = 0
    currency: str
    status: str
    capture_method: str
    customer: str | None
    payment_method: str | None
    payment_method_types: tuple[str, ...] = ("card",)
    description: str | None
    receipt_email: str | None
    metadata: dict[str, str]
    client_secret: str
    latest_charge: str | None = None
    next_action: View | None = None
    last_payment_error: View | None = None
    cancellation_reason: str | None = None
    canceled_at: int | None = None

    @property
    def card(self) -> Card:
        return CARDS[self.payment_method or ""]


@dataclass(kw_only=True)
class Refund:
    id: str
    object: str = "refund"
    created: int
    amount: int
    currency: str
    payment_intent: str
    charge: str | None
    status: str
    reason: str | None
    metadata: dict[str, str]
    pending_reason: str | None = None
    failure_reason: str | None = None

    @property
    def stands(self) -> bool:
        """Whether the customer has or will get the amount."""
        return self.status in ("pending", "requires_action", "succeeded")

    def fail(self) -> None:
        self.status, self.pending_reason, self.failure_reason = "failed", None, "expired_or_canceled_card"

    def succeed(self) -> None:
        self.status, self.pending_reason = "succeeded", None


Item = TypeVar("Item", PaymentIntent, Refund, PaymentWarning)


@dataclass
class Stripe:
    """One account. Objects are in the order of their creation."""

    intents: PersistentDict[PaymentIntent] = field(default_factory=lambda: PersistentDict(PaymentIntent))
    refunds: PersistentDict[Refund] = field(default_factory=lambda: PersistentDict(Refund))
    warnings: PersistentDict[PaymentWarning] = field(default_factory=lambda: PersistentDict(PaymentWarning))

    # -------------------------------------------------------------------------------------------------- PaymentIntents

    def create_intent(self, params: CreateIntent) -> View:
        _known_card(params.payment_method)
        if not (params.customer or "cus_").startswith("cus_"):
            raise _missing("customer", params.customer or "", "customer", status=400)
        intent = PaymentIntent(
            id=_id("pi"),
            created=int(time.time()),
            status="requires_confirmation" if params.payment_method else "requires_payment_method",
            client_secret="",
            **params.model_dump(include=KEPT),
        )
        intent.client_secret = f"{intent.id}_secret_{secrets.token_hex(12)}"
        self.intents[intent.id] = intent
        if params.confirm:
            return self.confirm_intent(intent.id, ConfirmIntent(return_url=params.return_url))
        return asdict(intent)

    def retrieve_intent(self, intent_id: str) -> View:
        return asdict(self.intent(intent_id))

    def list_intents(self, params: ListIntents) -> View:
        found = [
            each
            for each in self.intents.values()
            if params.customer in (None, each.customer) and params.created.gte <= each.created <= params.created.lte
        ]
        return _page("/v1/payment_intents", found, params)

    def confirm_intent(self, intent_id: str, params: ConfirmIntent) -> View:
        """Authorize, charge, or ask the customer to authenticate. Raises StripeError (402) for a declined card."""
        intent = self._intent_in(CONFIRMABLE, intent_id, "confirmed")
        _known_card(params.payment_method)
        intent.payment_method = params.payment_method or intent.payment_method
        if intent.payment_method is None:
            _unexpected(intent, "This PaymentIntent has no payment method to confirm.")
        intent.last_payment_error = None
        if intent.card.authenticate:
            intent.status, intent.next_action = "requires_action", _next_action(intent, params.return_url)
        else:
            self._charge(intent)
        return asdict(intent)

    def capture_intent(self, intent_id: str, params: CaptureIntent) -> View:
        """Capture the authorized amount or a part of it; the rest is released."""
        intent = self._intent_in(("requires_capture",), intent_id, "captured")
        amount = params.amount_to_capture or intent.amount_capturable
        if amount > intent.amount_capturable:
            raise StripeError(400, "The amount is more than was authorized.", param="amount_to_capture")
        intent.status, intent.amount_received, intent.amount_capturable = "succeeded", amount, 0
        return asdict(intent)

    def cancel_intent(self, intent_id: str, params: CancelIntent) -> View:
        intent = self._intent_in(CANCELABLE, intent_id, "canceled")
        self._cancel(intent, params.cancellation_reason)
        return asdict(intent)

    def authenticate(self, intent_id: str, *, succeeds: bool) -> View:
        """Let the customer pass or fail the bank's check. A decline that follows is not raised."""
        intent = self._intent_in(("requires_action",), intent_id, "authenticated")
        intent.next_action = None
        if succeeds:
            try:
                self._charge(intent)
            except StripeError:
                return asdict(intent)
        else:
            message = "The customer could not be authenticated."
            self._reject(intent, message, "payment_intent_authentication_failure", kind="invalid_request_error")
        return asdict(intent)

    def expire(self, intent_id: str) -> View:
        """Let an authorization lapse that was not captured in time."""
        intent = self._intent_in(("requires_capture",), intent_id, "expired")
        self._cancel(intent, "automatic")
        return asdict(intent)

    # --------------------------------------------------------------------------------------------------------- refunds

    def create_refund(self, params: CreateRefund) -> View:
        """Refund the captured amount that is not refunded yet, or a part of it; never more."""
        intent = self.intent(params.payment_intent, param="payment_intent")
        if not intent.amount_received:
            raise StripeError(400, "This PaymentIntent has no successful charge to refund.", param="payment_intent")
        left = intent.amount_received - sum(each.amount for each in self._refunds_of(intent.id) if each.stands)
        if not left:
            message = f"Charge {intent.latest_charge} has already been refunded."
            raise StripeError(400, message, code="charge_already_refunded")
        if any(isinstance(each, Dispute) and each.is_open for each in self._warnings_of(intent.id)):
            raise StripeError(400, "This charge is disputed.", code="charge_disputed")
        if (params.amount or 0) > left:
            raise StripeError(400, f"The refund is more than the {left} left of the charge.", param="amount")
        refund = Refund(
            id=_id("re"),
            created=int(time.time()),
            currency=intent.currency,
            charge=intent.latest_charge,
            status="succeeded",
            **params.model_dump() | {"amount": params.amount or left},
        )
        self.refunds[refund.id] = refund
        return self._run_course(refund, intent.card)

    def retrieve_refund(self, refund_id: str) -> View:
        return asdict(self.refund(refund_id))

    def list_refunds(self, params: ListRefunds) -> View:
        of = params.payment_intent
        return _page("/v1/refunds", self._refunds_of(of) if of else list(self.refunds.values()), params)

    def settle(self, refund_id: str, *, succeeds: bool) -> View:
        """Let a refund end. A failed one stays failed: its amount may have been refunded again meanwhile."""
        refund = self.refund(refund_id)
        if not refund.stands:
            raise StripeError(400, "This refund has failed.")
        (refund.succeed if succeeds else refund.fail)()
        return asdict(refund)

    # ------------------------------------------------------------------------------------------------------- warnings

    def warn(self, kind: Literal["dispute", "fraud_warning", "review"], intent_id: str) -> View:
        """Let the customer's bank dispute a payment or suspect it, or let Stripe ask for a review."""
        intent = self.intent(intent_id)
        about: dict[str, Any] = {
            "created": int(time.time()),
            "payment_intent": intent.id,
            "charge": intent.latest_charge,
        }
        warning: PaymentWarning
        match kind:
            case "dispute":
                amounts: dict[str, Any] = {"amount": intent.amount_received, "currency": intent.currency}
                warning = Dispute(id=_id("du"), **about, **amounts)
            case "fraud_warning":
                warning = FraudWarning(id=_id("issfr"), **about)
            case "review":
                warning = Review(id=_id("prv"), **about)
        self.warnings[warning.id] = warning
        return asdict(warning)

    def end_warning(self, warning_id: str, *, succeeds: bool) -> View:
        """Let it end; a dispute is won or lost."""
        warning = self.warnings[warning_id]
        match warning:
            case Dispute():
                warning.status = "won" if succeeds else "lost"
            case FraudWarning():
                warning.actionable = False
            case Review():
                warning.open = False
        return asdict(warning)

    def retrieve_warning(self, warning_id: str) -> View:
        if warning_id not in self.warnings:
            raise _missing("object", warning_id, "id", status=404)
        return asdict(self.warnings[warning_id])

    def list_warnings(self, url: str, kind: type[PaymentWarning], params: Page) -> View:
        return _page(url, [each for each in self.warnings.values() if isinstance(each, kind)], params)

    def _warnings_of(self, intent_id: str) -> list[PaymentWarning]:
        return [each for each in self.warnings.values() if each.payment_intent == intent_id]

    # -------------------------------------------------------------------------------------------------------- records

    def records(self) -> list[View]:
        """Return the amounts of every PaymentIntent; `order` is the order_id of its metadata."""
        refunds_of: defaultdict[str, list[Refund]] = defaultdict(list)
        for refund in self.refunds.values():
            refunds_of[refund.payment_intent].append(refund)
        return [_record(intent, refunds_of[intent.id]) for intent in self.intents.values()]

    # --------------------------------------------------------------------------------------------------------- details

    def intent(self, intent_id: str, *, param: str = "intent") -> PaymentIntent:
        if intent_id not in self.intents:
            raise _missing("payment_intent", intent_id, param, status=404)
        return self.intents[intent_id]

    def refund(self, refund_id: str) -> Refund:
        if refund_id not in self.refunds:
            raise _missing("refund", refund_id, "refund", status=404)
        return self.refunds[refund_id]

    def _refunds_of(self, intent_id: str) -> list[Refund]:
        return [each for each in self.refunds.values() if each.payment_intent == intent_id]

    def _intent_in(self, statuses: Sequence[str], intent_id: str, done: str) -> PaymentIntent:
        intent = self.intent(intent_id)
        if intent.status not in statuses:
            _unexpected(intent, f"A PaymentIntent can be {done} when its status is {' or '.join(statuses)} only.")
        return intent

    def _charge(self, intent: PaymentIntent) -> None:
        intent.latest_charge, intent.next_action = _id("ch"), None
        if decline := intent.card.decline:
            self._decline(intent, decline)
        if intent.capture_method == "manual":
            intent.status, intent.amount_capturable = "requires_capture", intent.amount
        else:
            intent.status, intent.amount_received = "succeeded", intent.amount

    def _decline(self, intent: PaymentIntent, decline: Decline) -> NoReturn:
        fields = {"decline_code": decline.decline_code, "advice_code": decline.advice, "charge": intent.latest_charge}
        body = self._reject(intent, "The card was declined.", decline.code, kind="card_error", **fields)
        raise StripeError(402, **body, payment_intent=asdict(intent))

    def _reject(self, intent: PaymentIntent, message: str, code: str, *, kind: str, **fields: object) -> View:
        error = {"message": message, "code": code, **fields}
        intent.last_payment_error = {"type": kind, **error, "payment_method": {"id": intent.payment_method}}
        intent.status, intent.payment_method = "requires_payment_method", None
        return {"kind": kind, **error}

    def _cancel(self, intent: PaymentIntent, reason: str | None) -> None:
        intent.status, intent.cancellation_reason = "canceled", reason
        intent.canceled_at, intent.amount_capturable, intent.next_action = int(time.time()), 0, None

    def _run_course(self, refund: Refund, card: Card) -> View:
        if card.refund == "pending":
            refund.status, refund.pending_reason = "pending", "processing"
        if card.refund == "failed":
            refund.fail()
        answer = asdict(refund)
        if card.refund == "failed_later":
            refund.fail()
        return answer


def _record(intent: PaymentIntent, refunds: Sequence[Refund]) -> View:
    return {
        "id": intent.id,
        "order": intent.metadata.get("order_id"),
        "status": intent.status,
        "currency": intent.currency,
        "amount": intent.amount,
        "authorized": intent.amount_capturable,
        "captured": intent.amount_received,
        "refunded": sum(each.amount for each in refunds if each.status == "succeeded"),
        "refund_pending": sum(each.amount for each in refunds if each.stands and each.status != "succeeded"),
        "refunds": [
            {
                "id": each.id,
                "refund_id": each.metadata.get("refund_id"),
                "status": each.status,
                "amount": each.amount,
                "by_hand": "attempt" not in each.metadata,
                "created": datetime.fromtimestamp(each.created, UTC).isoformat(),
            }
            for each in refunds
        ],
    }


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _missing(kind: str, name: str, param: str, *, status: int) -> StripeError:
    return StripeError(status, f"No such {kind}: '{name}'", code="resource_missing", param=param)


def _unexpected(intent: PaymentIntent, message: str) -> NoReturn:
    message = f"{message} This one is {intent.status}."
    raise StripeError(400, message, code="payment_intent_unexpected_state", payment_intent=asdict(intent))


def _known_card(payment_method: str | None) -> None:
    if payment_method is not None and payment_method not in CARDS:
        raise _missing("PaymentMethod", payment_method, "payment_method", status=400)


def _next_action(intent: PaymentIntent, return_url: str | None) -> View:
    if return_url is None:
        return {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
    redirect = {"url": f"/_sandbox/authenticate/{intent.id}", "return_url": return_url}
    return {"type": "redirect_to_url", "redirect_to_url": redirect}


def _page(url: str, items: Sequence[Item], params: Page) -> View:
    newest = list(reversed(items))
    if params.starting_after:
        ids = [each.id for each in newest]
        if params.starting_after not in ids:
            raise _missing("object", params.starting_after, "starting_after", status=400)
        newest = newest[ids.index(params.starting_after) + 1 :]
    data = [asdict(each) for each in newest[: params.limit]]
    return {"object": "list", "url": url, "data": data, "has_more": len(newest) > params.limit}
