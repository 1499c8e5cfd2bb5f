"""What Stripe's errors mean for an order: try again, give up, or a customer's card that said no."""

from typing import Final

import stripe

from gateways.http import header, retry_after
from orders.errors import OrderError, Permanent, Unavailable

# State answers: the object is not where we thought; read it and decide.
UNEXPECTED_STATE: Final = {"payment_intent_unexpected_state", "charge_already_refunded", "charge_already_captured"}


# Fields of a PaymentIntent that come from the customer: Stripe refusing one of them is a "no", not a bug.
CUSTOMER_FIELDS: Final = {"payment_method", "customer", "amount", "currency"}


def translate(error: stripe.StripeError) -> OrderError:
    """The error in our words, without Stripe's message: it may quote what must not be kept.

    Rejected credentials count as an outage: they are no order's fault, and heal when the key is mended.
    """
    if isinstance(error, stripe.IdempotencyError):
        return Permanent("stripe: the same idempotency key with other parameters", type="idempotency_mismatch")
    if isinstance(error, stripe.InvalidRequestError) and header(error.headers, "stripe-should-retry") != "true":
        return Permanent(f"stripe: {code_of(error)} {error.param or ''}".strip(), type="stripe_refused")
    return Unavailable(f"stripe: {code_of(error)}", type="stripe_unavailable", retry_after=retry_after(error.headers))


def code_of(error: stripe.StripeError) -> str:
    """Stripe's code: some errors carry it only inside their body."""
    return error.code or (error.error.code if error.error else None) or type(error).__name__


def is_saved(error: stripe.StripeError) -> bool:
    """An answer that Stripe keeps under its key and repeats; worth another key if it is an error of a moment."""
    moment = (error.http_status or 0) >= 500 or is_state_answer(error)  # noqa: PLR2004
    return moment and header(error.headers, "idempotent-replayed") == "true"


def is_state_answer(error: stripe.StripeError) -> bool:
    """The card said no, or the object is not in the state we thought: the object itself tells what to do."""
    return isinstance(error, stripe.CardError) or code_of(error) in UNEXPECTED_STATE


def is_customers_choice(error: stripe.StripeError) -> bool:
    """Refused for what the customer chose: an unknown card, an amount too small."""
    return isinstance(error, stripe.InvalidRequestError) and error.param in CUSTOMER_FIELDS
