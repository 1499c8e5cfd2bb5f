"""Card numbers, which nothing may store: found in free text by the issuers' real ranges and lengths.

Ids are never searched: a check digit and a length alone take one of 800 UUIDs for a card number, and one of ten ids of
18 digits.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple


class Issuer(NamedTuple):
    """The first digits of its numbers, from `low` to `high`, and how many digits they have."""

    low: str
    high: str
    lengths: frozenset[int]


def _issuer(low: str, high: str, *lengths: int) -> Issuer:
    return Issuer(low, high, frozenset(lengths))


# Networks whose cards are in use (github.com/braintree/credit-card-type, src/lib/card-types.ts, June 2026). Of Maestro
# only its own ranges: the table there gives it every number that begins with 6.
ISSUERS: Final = (
    _issuer("4", "4", 16, 18, 19),  # Visa
    _issuer("51", "55", 16),  # Mastercard
    _issuer("2221", "2720", 16),  # Mastercard
    _issuer("34", "34", 15),  # American Express
    _issuer("37", "37", 15),  # American Express
    _issuer("300", "305", 14, 16, 19),  # Diners Club
    _issuer("36", "36", 14, 16, 19),  # Diners Club
    _issuer("38", "39", 14, 16, 19),  # Diners Club
    _issuer("6011", "6011", 16, 19),  # Discover
    _issuer("644", "659", 16, 19),  # Discover, Elo, Troy, RuPay
    _issuer("3528", "3589", 16, 17, 18, 19),  # JCB
    _issuer("620", "629", 16, 17, 18, 19),  # UnionPay
    _issuer("810", "817", 16, 17, 18, 19),  # UnionPay, RuPay
    _issuer("2200", "2204", 16, 17, 18, 19),  # Mir
    _issuer("5000", "5099", 16, 17, 18, 19),  # Maestro, Elo, Verve
    _issuer("56", "59", 16, 17, 18, 19),  # Maestro
    _issuer("6304", "6304", 16, 17, 18, 19),  # Maestro
    _issuer("6759", "6763", 16, 17, 18, 19),  # Maestro
    _issuer("606282", "606282", 16),  # Hipercard
    _issuer("6362", "6376", 16),  # Elo, Hiper
    _issuer("9792", "9792", 16),  # Troy
)

UUID: Final = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
GROUPS: Final = re.compile(r"\d{3,}(?:[\W_]{1,3}\d{3,})*")  # as cards are written: no group has fewer than three digits
MAX_DIGITS: Final = 19


def has_card_number(text: str) -> bool:
    """Whether a card number is written in the text, in one piece or in groups."""
    return any(_is_card_number(digits) for digits in _candidates(UUID.sub(" ", text)))


def _candidates(text: str) -> Iterator[str]:
    """Neighboring groups of digits as one number, in ASCII: an expiry date may follow a card number."""
    for match in GROUPS.finditer(text):
        groups = re.findall(r"\d+", match.group())
        for first in range(len(groups)):
            digits = ""
            for group in groups[first:]:
                digits += group
                if len(digits) > MAX_DIGITS:
                    break
                yield "".join(str(int(digit)) for digit in digits)


def _is_card_number(digits: str) -> bool:
    return any(
        len(digits) in each.lengths and each.low <= digits[: len(each.low)] <= each.high for each in ISSUERS
    ) and _passes_luhn(digits)


def _passes_luhn(digits: str) -> bool:
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(each - 9 if each > 9 else each for each in doubled) % 10 == 0  # noqa: PLR2004 (of two digits)
