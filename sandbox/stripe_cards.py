"""The test payment methods of Stripe's documentation (docs.stripe.com/testing), and how each one behaves."""

from dataclasses import dataclass
from typing import Final, Literal

# How a refund ends. `failed_later`: the answer says succeeded, every later read says failed, as Stripe documents.
RefundEnd = Literal["succeeded", "pending", "failed_later", "failed"]


@dataclass(frozen=True)
class Decline:
    """Why the issuer declines: `code` and `decline_code` of the error; `advice` says what the merchant may do next."""

    code: str
    decline_code: str
    advice: str


@dataclass(frozen=True)
class Card:
    """A card asks the customer to authenticate if set so, then declines or approves."""

    authenticate: bool = False
    decline: Decline | None = None
    refund: RefundEnd = "succeeded"


def _declined(decline_code: str, advice: str = "do_not_try_again", code: str = "card_declined") -> Card:
    return Card(decline=Decline(code, decline_code, advice))


_APPROVING: Final = (
    "pm_card_visa",
    "pm_card_visa_debit",
    "pm_card_mastercard",
    "pm_card_mastercard_debit",
    "pm_card_mastercard_prepaid",
    "pm_card_amex",
    "pm_card_discover",
    "pm_card_diners",
    "pm_card_jcb",
    "pm_card_unionpay",
    "pm_card_threeDSecureOptional",
)

_DECLINING: Final = {
    "chargeDeclined": _declined("generic_decline", "try_again_later"),
    "chargeDeclinedInsufficientFunds": _declined("insufficient_funds", "try_again_later"),
    "chargeDeclinedLostCard": _declined("lost_card"),
    "chargeDeclinedStolenCard": _declined("stolen_card"),
    "chargeDeclinedFraudulent": _declined("fraudulent"),
    "chargeDeclinedVelocityLimitExceeded": _declined("card_velocity_exceeded", "try_again_later"),
    "chargeDeclinedExpiredCard": _declined("expired_card", "confirm_card_data", code="expired_card"),
    "chargeDeclinedIncorrectCvc": _declined("incorrect_cvc", "confirm_card_data", code="incorrect_cvc"),
    "chargeDeclinedProcessingError": _declined("processing_error", "try_again_later", code="processing_error"),
    "chargeCustomerFail": _declined("generic_decline", "try_again_later"),
}

_AUTHENTICATING: Final = (
    "pm_card_authenticationRequired",
    "pm_card_authenticationRequiredOnSetup",
    "pm_card_authenticationRequiredSetupForOffSession",
    "pm_card_threeDSecureRequired",
    "pm_card_threeDSecure2Required",
)

CARDS: Final[dict[str, Card]] = {
    **dict.fromkeys(_APPROVING, Card()),
    **{f"pm_card_{name}": card for name, card in _DECLINING.items()},
    **{f"pm_card_visa_{name}": card for name, card in _DECLINING.items()},
    **dict.fromkeys(_AUTHENTICATING, Card(authenticate=True)),
    "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds": Card(
        authenticate=True, decline=Decline("card_declined", "insufficient_funds", "try_again_later")
    ),
    "pm_card_pendingRefund": Card(refund="pending"),
    "pm_card_refundFail": Card(refund="failed_later"),
    # Not Stripe's: the card of the example payload, and one whose refunds fail at once.
    "pm_123": Card(),
    "pm_refund_failed": Card(refund="failed"),
}
