"""Money is exact: minor units inside, decimals at the edge."""

from decimal import Decimal

import pytest

from orders.errors import InvalidInput
from orders.money import DECIMALS, MAX_AMOUNT, show, to_decimal, to_json_number, to_minor


@pytest.mark.parametrize(
    ("amount", "currency", "minor"),
    [
        ("29.99", "usd", 2999),
        ("29.9", "usd", 2990),
        ("3E+1", "usd", 3000),
        ("0", "usd", 0),
        ("30", "jpy", 30),
        ("-5", "usd", -500),
    ],
)
def test_to_minor(amount: str, currency: str, minor: int) -> None:
    """By the number of decimals of the currency."""
    assert to_minor(Decimal(amount), currency, "price") == minor


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("29.999", "usd"),
        ("30.5", "jpy"),
        ("-1E+9", "usd"),
        ("NaN", "usd"),
        ("Infinity", "usd"),
        ("1E+99", "usd"),
        ("1E+999999", "usd"),  # as much as Python's decimals hold: one more zero is an overflow
        ("1E-999999", "usd"),
    ],
)
def test_to_minor_refuses(amount: str, currency: str) -> None:
    """Nothing is rounded, anything that is not an amount is refused, and the error names the field."""
    with pytest.raises(InvalidInput, match="price: "):
        to_minor(Decimal(amount), currency, "price")


@pytest.mark.parametrize("currency", sorted(DECIMALS))
def test_every_amount_goes_out_as_it_came_in(currency: str) -> None:
    """The JSON number of an amount prints its exact decimals, up to the largest amount."""
    for minor in (0, 1, 2999, 10_010, MAX_AMOUNT - 1, MAX_AMOUNT):
        assert Decimal(repr(to_json_number(minor, currency))) == to_decimal(minor, currency)
        assert to_minor(to_decimal(minor, currency), currency, "price") == minor


def test_show() -> None:
    """The text has all decimals of the currency; that of another currency is no error."""
    assert (show(2990, "usd"), show(30, "jpy")) == ("29.90 usd", "30 jpy")
    assert show(1500, "kwd") == "1500 minor units of kwd"
