"""What Stripe's errors mean for an order: another try, a final error, or a refusal of what the customer chose."""

from typing import Final

import stripe

from gateways.http import header, retry_after
from gateways.quotes import with_message
from orders.errors import OrderError, Permanent, Unavailable

# The object does not have the status that the request expects: read the object to decide.
UNEXPECTED_STATE: Final = {"payment_intent_unexpected_state", "charge_already_refunded", "charge_already_captured"}

REPLAYED: Final = "idempotent-replayed"

# Fields of a PaymentIntent that come from the customer: a refusal of one of them is a business refusal, not a bug.
CUSTOMER_FIELDS: Final = {"payment_method", "customer", "amount", "currency"}


def translate(error: stripe.StripeError) -> OrderError:
    """The error as Unavailable or Permanent, with Stripe's code and what may be kept of its message.

    Rejected credentials count as an outage: no order causes them, and they end when an operator corrects the key.
    """
    if isinstance(error, stripe.IdempotencyError):
        return Permanent("stripe: the same idempotency key was used with other parameters", type="idempotency_mismatch")
    if is_state_answer(error):
        return Unavailable(f"stripe: {code_of(error)}, which may pass", type="payment_changing")
    if isinstance(error, stripe.InvalidRequestError) and header(error.headers, "stripe-should-retry") != "true":
        what = f"{code_of(error)} {error.param or ''}".strip()
        return Permanent(f"stripe: {with_message(what, _message_of(error))}", type="stripe_refused")
    text = with_message(code_of(error), _message_of(error))
    return Unavailable(f"stripe: {text}", type="stripe_unavailable", retry_after=retry_after(error.headers))


def code_of(error: stripe.StripeError) -> str:
    """Stripe's error code. Some errors have it only in their body."""
    return error.code or (error.error.code if error.error else None) or type(error).__name__


def _message_of(error: stripe.StripeError) -> str | None:
    """Stripe's own message: without it the SDK has one, about the connection."""
    return error.error.message if error.error else None


def is_saved(error: stripe.StripeError) -> bool:
    """Whether Stripe repeats this answer because it has saved it under the key of the request."""
    return header(error.headers, REPLAYED) == "true"


def is_transient(error: stripe.StripeError) -> bool:
    """Whether the same request with the same key may succeed later: nothing has to be decided now."""
    return not is_saved(error) and not is_state_answer(error) and isinstance(translate(error), Unavailable)


def is_state_answer(error: stripe.StripeError) -> bool:
    """Whether the object decides what the error means: the card was declined, or the status was not as expected."""
    return isinstance(error, stripe.CardError) or code_of(error) in UNEXPECTED_STATE


def is_customers_choice(error: stripe.StripeError) -> bool:
    """Whether Stripe refuses what the customer chose: an unknown card, an amount that is too small.

    Of a payment method that was used up or is detached, Stripe names neither a parameter nor a code.
    """
    if not isinstance(error, stripe.InvalidRequestError):
        return False
    return error.param in CUSTOMER_FIELDS or (error.param is None and error.code is None)
