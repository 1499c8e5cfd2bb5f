"""Card numbers are refused in texts; no id is taken for one."""

import json
from collections.abc import Iterator
from random import Random
from uuid import UUID

import pytest

from orders.card_numbers import has_card_number
from orders.errors import InvalidInput
from orders.models import Order
from orders.parsing import _card_number_problems, _order_id_problems, parse_cancel, parse_order, read_json
from tests.support.shop import Payload, an_order

# docs.stripe.com/testing, September 2026
TEST_CARDS = (
    "4242424242424242",
    "4000056655665556",
    "5555555555554444",
    "2223003122003222",
    "5200828282828210",
    "5105105105105100",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "6011981111111113",
    "3056930009020004",
    "36227206271667",
    "6555900000604105",
    "3566002020360505",
    "6200000000000005",
    "6200000000000047",
    "6205500000000000004",
)


def in_groups(digits: str, separator: str) -> str:
    return separator.join((digits[:4], digits[4:8], digits[8:11], digits[11:]))


def parse(payload: Payload, order_id: str = "o1") -> Order:
    return parse_order(order_id, read_json(json.dumps(payload)))


def in_the_street(text: str) -> Payload:
    return an_order(shippingAddress=an_order()["shippingAddress"] | {"street": text})


@pytest.mark.parametrize("number", TEST_CARDS)
def test_a_card_number_in_a_text(number: str) -> None:
    """It is found however it is written, and is not repeated."""
    wide = number.translate({ord("0") + digit: ord("\uff10") + digit for digit in range(10)})
    written = [
        number,
        wide,
        *(in_groups(number, separator) for separator in (" ", "-", " - ", ".", "\u00a0", "\u2013")),
    ]
    around = ("{}", "card:{}", "Visa{} 12/30 123", "Flat 12, {}", "{}, Main St")
    for text in (form.format(each) for form in around for each in written):
        with pytest.raises(InvalidInput) as refusal:
            parse(in_the_street(text))
        assert refusal.value.problems == ("shippingAddress.street: looks like a card number; send ids only",), text


NO_CARDS = (
    "+49 151 2345 6784",
    "00491512345678",
    "52.520008, 13.404954",
    "-33.868820, 151.209300",
    "DE89 3704 0044 0532 0130 00",
    "Box 4242, 4242 Main St, Unit 4242",
    "2026-11-28 12:30:45",
    "4242424242424241",
    "42424242424242424242424242424242",
)


@pytest.mark.parametrize("text", NO_CARDS)
def test_no_card_number(text: str) -> None:
    """Telephone numbers, coordinates, bank accounts and dates are none; nor is a number with a wrong check digit."""
    assert parse(in_the_street(text)).shipping_address.street == text


def with_check_digit(number: int) -> str:
    """The number with the last digit that makes it pass as a card number does."""
    digits = [int(digit) for digit in str(number)]
    total = sum(sum(divmod(2 * digit, 10)) for digit in digits[::-2]) + sum(digits[-2::-2])
    return f"{number}{-total % 10}"


def ids_of_every_kind(count: int) -> Iterator[str]:
    """UUIDs, ULIDs, snowflakes, numbers that pass the check of card numbers, and the test cards themselves."""
    random = Random(12)  # noqa: S311 (the same ids in every run)
    letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    for _ in range(count // 4):
        yield str(UUID(int=random.getrandbits(128), version=4))
        yield "".join(random.choices(letters, k=26))
        yield str((1_767_225_600_000 + random.getrandbits(36) << 22) + random.getrandbits(22))
        yield with_check_digit(random.randrange(10**11, 10**18))
    yield from TEST_CARDS


def test_no_id_is_taken_for_a_card_number() -> None:
    """The shop mints ids of orders, customers and products, by whatever rule."""
    for each in ids_of_every_kind(100_000):
        assert not _order_id_problems(each), each
        ids = {
            "customerId": each,
            "orderId": each,
            "paymentMethodId": f"pm_{each.replace('-', '')}",
            "items": [{"productId": each}],
        }
        assert not _card_number_problems(ids), each


def test_no_uuid_and_no_ulid_in_a_text_is_taken_for_a_card_number() -> None:
    """They are on parcel lockers and in delivery notes."""
    for each in ids_of_every_kind(40_000):
        assert each.isdecimal() or not has_card_number(f"locker {each}"), each


def test_an_order_whose_ids_are_digits() -> None:
    """Whole orders, not only their check."""
    payload = an_order(customerId=TEST_CARDS[0], items=[{"productId": TEST_CARDS[1], "quantity": 1}])
    order = parse(payload, TEST_CARDS[2])
    assert (order.id, order.customer_id, order.lines[0].product_id) == (TEST_CARDS[2], *TEST_CARDS[:2])
    assert parse_cancel({"orderId": TEST_CARDS[2]}).order_id == TEST_CARDS[2]
