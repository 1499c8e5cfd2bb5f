"""The parameters that the sandbox's Stripe accepts. Unknown, missing and out-of-range ones are refused."""

import sys
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

# The minimum amount of a payment in minor units (docs.stripe.com/currencies), for each currency of the sandbox.
MIN_AMOUNT: Final = {
    "aud": 50,
    "cad": 50,
    "chf": 50,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "jpy": 50,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "sek": 300,
    "usd": 50,
}
MAX_AMOUNT: Final = 99_999_999


def _indexed(value: object) -> object:
    return tuple(value.values()) if isinstance(value, dict) else value


Amount = Annotated[int, Field(ge=1)]
CardOnly = Annotated[tuple[Literal["card"], ...], BeforeValidator(_indexed)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=500)]], Field(max_length=50)
]


class Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConfirmIntent(Params):
    payment_method: str | None = None
    return_url: str | None = None


class CreateIntent(ConfirmIntent):
    currency: str
    amount: Amount
    customer: str | None = None
    allowed_payment_method_types: CardOnly = ("card",)
    payment_method_types: CardOnly = ("card",)
    capture_method: Literal["automatic", "automatic_async", "manual"] = "automatic_async"
    confirm: bool = False
    description: str | None = None
    receipt_email: str | None = None
    metadata: Metadata = {}

    @field_validator("currency")
    @classmethod
    def _currency_is_known(cls, currency: str) -> str:
        if currency.lower() not in MIN_AMOUNT:
            raise PydanticCustomError("currency_unknown", "Invalid currency.")
        return currency.lower()

    @field_validator("amount")
    @classmethod
    def _amount_is_chargeable(cls, amount: int, info: ValidationInfo) -> int:
        if amount < MIN_AMOUNT.get(info.data.get("currency", ""), 0):
            raise PydanticCustomError("amount_too_small", "The amount is below the minimum of its currency.")
        if amount > MAX_AMOUNT:
            raise PydanticCustomError("amount_too_large", "The amount has more than eight digits.")
        return amount


class CaptureIntent(Params):
    amount_to_capture: Amount | None = None


class CancelIntent(Params):
    cancellation_reason: Literal["abandoned", "duplicate", "fraudulent", "requested_by_customer"] | None = None


class Page(Params):
    """Newest first, `limit` per page; a page begins after the object whose id is `starting_after`."""

    limit: int = Field(default=10, ge=1, le=100)
    starting_after: str | None = None


class Created(Params):
    """Unix time, both ends included."""

    gte: int = 0
    lte: int = sys.maxsize


class ListIntents(Page):
    customer: str | None = None
    created: Created = Created()


class CreateRefund(Params):
    payment_intent: str
    amount: Amount | None = None
    reason: Literal["duplicate", "fraudulent", "requested_by_customer"] | None = None
    metadata: Metadata = {}


class ListRefunds(Page):
    payment_intent: str | None = None


class Nothing(Params):
    """For operations without parameters."""


# Pydantic's error types -> Stripe's error codes (docs.stripe.com/error-codes).
CODES: Final[dict[str, str]] = {
    "missing": "parameter_missing",
    "extra_forbidden": "parameter_unknown",
    "int_parsing": "parameter_invalid_integer",
    "int_from_float": "parameter_invalid_integer",
    "greater_than_equal": "parameter_invalid_integer",
    "less_than_equal": "parameter_invalid_integer",
    "amount_too_small": "amount_too_small",
    "amount_too_large": "amount_too_large",
}
