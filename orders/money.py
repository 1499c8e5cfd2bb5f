"""Money: integer minor units and a currency inside, exact decimals at the edge. No amount is ever read from a float."""

from decimal import Decimal
from typing import Final

from orders.errors import InvalidInput

# Decimal places of the currencies that are accepted (ISO 4217). Three-decimal currencies are left out on purpose:
# Stripe wants their last digit to be zero (docs.stripe.com/currencies).
TWO_DECIMALS: Final = ("aud", "cad", "chf", "dkk", "eur", "gbp", "nok", "nzd", "pln", "sek", "usd")
DECIMALS: Final = dict.fromkeys(TWO_DECIMALS, 2) | {"jpy": 0}

# The most that Stripe takes in one payment: eight digits of minor units (docs.stripe.com/currencies).
MAX_AMOUNT: Final = 99_999_999

MAX_DIGITS: Final = 20  # of an amount as it is written; decimal arithmetic would round beyond 28


def to_minor(amount: Decimal, currency: str, field: str) -> int:
    """The amount in minor units, e.g. 29.99 usd -> 2999.

    Raises:
        InvalidInput: it has more decimals than the currency, is not finite, negative or too large.
    """
    if not amount.is_finite() or len(amount.as_tuple().digits) > MAX_DIGITS or not 0 <= amount <= MAX_AMOUNT:
        raise InvalidInput([f"{field}: must be between 0 and {MAX_AMOUNT} minor units"])
    minor = amount.scaleb(DECIMALS[currency])
    if minor != minor.to_integral_value():
        raise InvalidInput([f"{field}: {currency} has {DECIMALS[currency]} decimals"])
    return int(minor)


def to_decimal(minor: int, currency: str) -> Decimal:
    """The amount as people write it, e.g. 2999 usd -> 29.99."""
    return Decimal(minor).scaleb(-DECIMALS[currency])


def to_json_number(minor: int, currency: str) -> float:
    """The amount as a JSON number, e.g. 29.99.

    A double prints every decimal of up to fifteen significant digits as it was written, and amounts here have at most
    eight, so what goes out is exact. Nothing is ever computed with it.
    """
    return float(to_decimal(minor, currency))


def show(minor: int, currency: str) -> str:
    """For people, e.g. `29.99 usd`."""
    return f"{to_decimal(minor, currency)} {currency}"
