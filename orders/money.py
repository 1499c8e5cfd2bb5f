"""Money: integer minor units and a currency inside, exact decimals at the edge. No amount is read from a float."""

from decimal import Decimal
from typing import Final

from orders.errors import InvalidInput

# Decimals of the currencies that are accepted (ISO 4217). Currencies with three decimals are left out on purpose:
# Stripe requires their last digit to be zero (docs.stripe.com/currencies).
TWO_DECIMALS: Final = ("aud", "cad", "chf", "dkk", "eur", "gbp", "nok", "nzd", "pln", "sek", "usd")
DECIMALS: Final = dict.fromkeys(TWO_DECIMALS, 2) | {"jpy": 0}

# Stripe takes at most eight digits of minor units in one payment (docs.stripe.com/currencies).
MAX_AMOUNT: Final = 99_999_999

# The least that Stripe takes in one payment, in minor units (docs.stripe.com/currencies, "Minimum and maximum charge
# amounts"). Where an account is settled in another currency, that one's minimum counts too: Stripe refuses, see
# payment_refused.
MIN_AMOUNT: Final = dict.fromkeys(TWO_DECIMALS, 50) | {
    "dkk": 250,
    "gbp": 30,
    "jpy": 50,
    "nok": 300,
    "pln": 200,
    "sek": 300,
}

MAX_DIGITS: Final = 20  # of an amount as the client writes it; decimal arithmetic rounds beyond 28


def is_countable(amount: Decimal) -> bool:
    """Whether it can be computed with: it is finite, and has at most MAX_DIGITS digits when it is written out."""
    return amount.is_finite() and max(len(amount.as_tuple().digits), abs(amount.adjusted()) + 1) <= MAX_DIGITS


def to_minor(amount: Decimal, currency: str, field: str) -> int:
    """The amount in minor units, e.g. 29.99 usd -> 2999. `field` is named in errors.

    Raises:
        InvalidInput: the amount has more decimals than the currency, or is not finite or too large.
    """
    if not is_countable(amount):
        raise InvalidInput([f"{field}: must be a number of at most {MAX_DIGITS} digits"])
    minor = amount.scaleb(DECIMALS[currency])
    if not -MAX_AMOUNT <= minor <= MAX_AMOUNT:
        raise InvalidInput([f"{field}: must be at most {show(MAX_AMOUNT, currency)}"])
    if minor != minor.to_integral_value():
        raise InvalidInput([f"{field}: {currency} has {DECIMALS[currency]} decimals"])
    return int(minor)


def to_decimal(minor: int, currency: str) -> Decimal:
    """The amount with its decimals, e.g. 2999 usd -> 29.99."""
    return Decimal(minor).scaleb(-DECIMALS[currency])


def to_json_number(minor: int, currency: str) -> float:
    """The amount as a JSON number, e.g. 29.99. Never compute with it.

    The number is exact in JSON: a double prints up to fifteen significant digits as they were, and an amount has eight.
    """
    return float(to_decimal(minor, currency))


def show(minor: int, currency: str) -> str:
    """The amount as text, e.g. `29.99 usd`; of a currency that is not ours, in minor units."""
    return f"{to_decimal(minor, currency)} {currency}" if currency in DECIMALS else f"{minor} minor units of {currency}"


def share_of(part: int, whole: int, net: int) -> int:
    """What falls to `part` of `whole`, of which `net` was paid; in minor units, rounded down."""
    return max(net, 0) * part // whole if whole else 0
