"""Bad input is refused with every problem named; input of the same meaning has the same hash."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from client.orders import read_order
from orders.errors import InvalidInput
from orders.models import Line, Order
from orders.parsing import (
    MAX_CHARGES,
    MAX_INPUT,
    MAX_LINES,
    MAX_REASON,
    MAX_UNITS,
    parse_cancel,
    parse_order,
    parse_refund,
    read_json,
)
from tests.support.shop import an_order

ITEM = {"productId": "1", "quantity": 2, "price": 29.99}
ADDRESS = an_order()["shippingAddress"]
SHIPPING = {"type": "shipping", "name": "Express", "amount": 5}
DISCOUNT = {"type": "discount", "amount": -10.5}


def parse(data: Any, order_id: str = "o1") -> Order:
    return parse_order(order_id, read_json(json.dumps(data)))


def refused(data: Any, order_id: str = "o1") -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as refusal:
        parse(data, order_id)
    return refusal.value.problems


def test_the_references_payload() -> None:
    """Prices are in minor units, and defaults are filled in."""
    order = parse(an_order())

    assert order.lines == (Line(product_id="1", quantity=2, unit_price=2999),)
    assert (order.currency, order.priority, order.shipping_address.country) == ("usd", "standard", "US")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"customerId": ""}, "customerId"),
        ({"customerId": None}, "customerId"),
        ({"customerId": "a b"}, "customerId"),
        ({"customerEmail": "nobody"}, "customerEmail"),
        ({"customerEmail": "a@b\nBcc: c@d"}, "customerEmail"),
        ({"items": []}, "items"),
        ({"items": None}, "items"),
        ({"items": [ITEM] * (MAX_LINES + 1)}, "items"),
        ({"items": [ITEM | {"quantity": 0}]}, "items[0].quantity"),
        ({"items": [ITEM | {"quantity": -1}]}, "items[0].quantity"),
        ({"items": [ITEM | {"quantity": 1.5}]}, "items[0].quantity"),
        ({"items": [ITEM | {"quantity": "2"}]}, "items[0].quantity"),
        ({"items": [ITEM | {"quantity": True}]}, "items[0].quantity"),
        ({"items": [ITEM | {"quantity": MAX_UNITS + 1}]}, "items[0].quantity"),
        ({"items": [ITEM | {"price": 29.999}]}, "items[0].price"),
        ({"items": [ITEM | {"price": "29.99"}]}, "items[0].price"),
        ({"items": [ITEM | {"price": -1}]}, "items[0].price"),
        ({"items": [ITEM, ITEM | {"price": 19.99}]}, "items[1].price"),
        ({"items": [ITEM | {"quantity": MAX_UNITS}, ITEM]}, "items[1].quantity"),
        ({"items": [{"quantity": 1}]}, "items[0].productId"),
        ({"items": [ITEM | {"productId": "'; DROP TABLE orders; --"}]}, "items[0].productId"),
        ({"items": [ITEM | {"discount": 5}]}, "items[0].discount"),
        ({"paymentMethodId": "tok_visa"}, "paymentMethodId"),
        ({"paymentMethodId": "4242 4242 4242 4242"}, "paymentMethodId"),
        ({"shippingAddress": None}, "shippingAddress"),
        ({"shippingAddress": ADDRESS | {"zip": ""}}, "shippingAddress.zip"),
        ({"shippingAddress": ADDRESS | {"city": "a\x00b"}}, "shippingAddress.city"),
        ({"shippingAddress": ADDRESS | {"street": "x" * 201}}, "shippingAddress.street"),
        ({"shippingAddress": ADDRESS | {"street": "4242-4242-4242-4242"}}, "shippingAddress.street"),
        ({"shippingAddress": ADDRESS | {"country": "usa"}}, "shippingAddress.country"),
        ({"shippingAddress": ADDRESS | {"phone": "4242424242424242"}}, "shippingAddress.phone"),
        ({"giftMessage": "a\x00b"}, "giftMessage"),
        ({"giftMessage": "x" * 501}, "giftMessage"),
        ({"giftMessage": "<b>x</b>"}, "giftMessage"),
        ({"giftMessage": "4242-4242-4242-4242"}, "giftMessage"),
        ({"charges": 5}, "charges"),
        ({"charges": None}, "charges"),
        ({"charges": [SHIPPING] * (MAX_CHARGES + 1)}, "charges"),
        ({"charges": [5]}, "charges[0]"),
        ({"charges": [{"type": "shipping"}]}, "charges[0].amount"),
        ({"charges": [{"amount": 5}]}, "charges[0].type"),
        ({"charges": [SHIPPING, SHIPPING | {"type": "gift"}]}, "charges[1].type"),
        ({"charges": [SHIPPING | {"amount": -0.01}]}, "charges[0].amount"),
        ({"charges": [SHIPPING | {"amount": 5.001}]}, "charges[0].amount"),
        ({"charges": [SHIPPING | {"amount": "5"}]}, "charges[0].amount"),
        ({"charges": [SHIPPING | {"amount": True}]}, "charges[0].amount"),
        ({"charges": [SHIPPING | {"amount": 100_000_000}]}, "charges[0].amount"),
        ({"charges": [DISCOUNT | {"amount": 0.01}]}, "charges[0].amount"),
        ({"charges": [DISCOUNT | {"amount": -100_000_000}]}, "charges[0].amount"),
        ({"charges": [DISCOUNT | {"name": "a\nb"}]}, "charges[0].name"),
        ({"charges": [DISCOUNT | {"name": "4242424242424242"}]}, "charges[0].name"),
        ({"charges": [DISCOUNT | {"percent": 10}]}, "charges[0].percent"),
        ({"charges": [SHIPPING], "paymentMethodId": None}, "paymentMethodId"),
        ({"charges": 5, "paymentMethodId": None}, "paymentMethodId"),
        ({"priority": "now"}, "priority"),
        ({"currency": "xxx"}, "currency"),
        ({"currency": "jpy"}, "items[0].price"),
        ({"total": 1}, "total"),
        ({"cardNumber": 4242424242424242}, "cardNumber"),
    ],
)
def test_each_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    """The problem names the field, and does not repeat its value."""
    problems = refused(an_order(**changes))

    assert any(problem.startswith(f"{field}: ") for problem in problems), problems
    assert "4242" not in "".join(problems)


def test_charges_in_minor_units() -> None:
    """In their order; nothing is rounded, and zero is an amount of either sign."""
    free = {"type": "tax", "amount": 0}
    order = parse(an_order(charges=[SHIPPING, DISCOUNT, free, DISCOUNT | {"amount": -0.0}]))

    assert [(each.type, each.name, each.amount) for each in order.charges] == [
        ("shipping", "Express", 500),
        ("discount", None, -1050),
        ("tax", None, 0),
        ("discount", None, 0),
    ]


@pytest.mark.parametrize("method", [{}, {"paymentMethodId": None}])
def test_an_order_with_a_discount_needs_no_payment_method(method: dict[str, Any]) -> None:
    """Whether it is free, the catalogue's prices decide."""
    payload = {name: value for name, value in an_order().items() if name != "paymentMethodId"}
    assert parse(payload | method | {"charges": [DISCOUNT]}).payment_method_id is None


def test_an_order_without_charges_has_its_old_fingerprint() -> None:
    """A client that repeats an order after an update must not get a conflict."""
    known = "824f608f"
    assert parse(an_order()).request_hash.startswith(known)
    assert parse(an_order(charges=[])).request_hash.startswith(known)


def test_all_problems_are_named_at_once() -> None:
    """One error names them all."""
    problems = refused({"items": [{"quantity": 0}]})

    named = {problem.split(":")[0] for problem in problems}
    assert named == {
        "customerId",
        "customerEmail",
        "items[0].productId",
        "items[0].quantity",
        "paymentMethodId",
        "shippingAddress",
    }


@pytest.mark.parametrize("data", [None, [], "text", 5, True])
def test_what_is_no_object_is_refused(data: Any) -> None:
    """The problem names the input as a whole."""
    assert refused(data)[0].startswith("input: ")


@pytest.mark.parametrize("text", ["", "{", "NaN", "[" * 60_000, " " * (MAX_INPUT + 1), '{"a": Infinity}'])
def test_what_is_no_json_is_refused(text: str) -> None:
    """Input that is too large is refused too."""
    with pytest.raises(InvalidInput, match="input: must be"):
        read_json(text)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_malformed_json_is_located(end: str) -> None:
    """The line and the column are those that an editor shows."""
    with pytest.raises(InvalidInput, match=r"^input: must be JSON; at line 2, column 9: Expecting ',' delimiter$"):
        read_json(f'{{"a": 1,{end} "b": 2 "c": 3}}')


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_files_of_windows_editors_are_read(encoding: str) -> None:
    """The payload is UTF-8 without a byte order mark, which Temporal's Web UI and other readers expect."""
    text = json.dumps(an_order(), indent=2, ensure_ascii=False).replace("\n", "\r\n")
    submission = read_order("o1", text.encode(encoding))
    assert submission.payload.payload.data == text.encode()
    assert submission.order == read_order("o1", "\ufeff" + text).order


@pytest.mark.parametrize("order_id", ["", "a:b", "a b", "x" * 65, "a/b", "é", "4242 4242 4242 4242"])
def test_an_order_id_that_cannot_be_one(order_id: str) -> None:
    """It cannot hold a colon, which ids of other runs have; its value is not repeated."""
    (problem,) = refused(an_order(), order_id)
    assert problem.startswith("orderId: ")
    assert "4242" not in problem


REPEATED: dict[str, tuple[str, str]] = {
    "a quantity": ('{"items": [{"productId": "1", "quantity": 1, "quantity": 9}]}', "quantity"),
    "an escaped name": (r'{"items": [{"quantity": 1, "\u0071uantity": 9}]}', "quantity"),
    "equal values": ('{"customerId": "cus_1", "customerId": "cus_1"}', "customerId"),
    "a hidden card number": ('{"customerId": "4242424242424242", "customerId": "cus_1"}', "customerId"),
    "in an unknown object": ('{"a": [{"b": {"c": 1, "c": 2}}]}', "c"),
    "a card number as the name": (
        '{"4242424242424242": 1, "4242424242424242": 2}',
        r"\u2026",
    ),
}


@pytest.mark.parametrize(("text", "name"), REPEATED.values(), ids=REPEATED)
@pytest.mark.parametrize("form", [str, str.encode])
def test_a_repeated_name_is_refused(text: str, name: str, form: Callable[[str], Any]) -> None:
    """What is checked would not be what another reader takes."""
    readers: list[Callable[[Any], object]] = [read_json, lambda sent: read_order("o1", sent)]
    for read in readers:
        with pytest.raises(InvalidInput) as refusal:
            read(form(text))
        assert refusal.value.problems == (f"{name}: appears more than once in one object",)


def test_both_spellings_of_a_name_are_refused() -> None:
    """The second one hides nothing either."""
    assert refused(an_order(customer_id="cus_9")) == ("customer_id: is unknown",)


def test_the_size_of_an_input_is_in_bytes() -> None:
    """A text that is larger in bytes than in characters would pass here and be refused by the workflow."""
    with pytest.raises(InvalidInput, match="at most"):
        read_json(f'"{"東" * (MAX_INPUT // 2)}"')


def test_the_same_product_twice_is_one_line() -> None:
    """It is merged before hashing, limits and SQL, in product order."""
    two = [{"productId": "2", "quantity": 1}, ITEM, {**ITEM, "quantity": 3}]

    assert [(line.product_id, line.quantity) for line in parse(an_order(items=two)).lines] == [("1", 5), ("2", 1)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"items": [ITEM, {"productId": "2", "quantity": 1}]}, {"items": [{"productId": "2", "quantity": 1}, ITEM]}),
        ({"items": [ITEM | {"quantity": 4}]}, {"items": [ITEM, ITEM]}),
        ({"items": [ITEM | {"price": 30}]}, {"items": [ITEM | {"price": 30.0}]}),
        ({"priority": "standard"}, {}),
        ({"giftMessage": " "}, {}),
        ({"currency": "USD"}, {"currency": "usd"}),
        ({"shippingAddress": ADDRESS | {"country": "us", "name": "", "street2": None}}, {}),
    ],
)
def test_the_same_meaning_has_the_same_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The spelling of the input makes no difference."""
    assert parse(an_order(**one)).request_hash == parse(an_order(**other)).request_hash


@pytest.mark.parametrize(
    "change",
    [
        {"customerId": "cus_9"},
        {"customerEmail": "other@example.com"},
        {"items": [ITEM | {"quantity": 3}]},
        {"items": [{"productId": "1", "quantity": 2}]},
        {"paymentMethodId": "pm_other"},
        {"shippingAddress": ADDRESS | {"zip": "94103"}},
        {"shippingAddress": ADDRESS | {"name": "Ada"}},
        {"shippingAddress": ADDRESS | {"street2": "Floor 2"}},
        {"shippingAddress": ADDRESS | {"company": "Analytical Engines"}},
        {"shippingAddress": ADDRESS | {"phone": "+1 415 555 0123"}},
        {"giftMessage": "Happy birthday"},
        {"charges": [SHIPPING]},
        {"shippingAddress": ADDRESS | {"country": "CA"}},
        {"priority": "express"},
    ],
)
def test_another_meaning_has_another_fingerprint(change: dict[str, Any]) -> None:
    """Each field changes the hash."""
    assert parse(an_order(**change)).request_hash != parse(an_order()).request_hash


@pytest.mark.parametrize(
    "change",
    [{"type": "fee"}, {"name": "Standard"}, {"amount": 5.01}],
)
def test_another_charge_has_another_fingerprint(change: dict[str, Any]) -> None:
    """Each field of a charge changes the hash, and so does the order of the charges; its spelling does not."""
    hashes = [
        parse(an_order(charges=charges)).request_hash
        for charges in ([SHIPPING, DISCOUNT], [SHIPPING | change, DISCOUNT], [DISCOUNT, SHIPPING])
    ]
    assert len({*hashes}) == 3
    assert parse(an_order(charges=[SHIPPING | {"amount": 5.0}, DISCOUNT])).request_hash == hashes[0]


def test_a_request_to_cancel() -> None:
    """The e-mail address is optional."""
    assert parse_cancel({"orderId": "o1"}).customer_email is None
    assert parse_cancel({"orderId": "o1", "customerEmail": "a@b"}).customer_email == "a@b"


REFUND: dict[str, Any] = {"orderId": "o1", "refundId": "r1"}


def test_a_refund_has_each_product_and_each_charge_once() -> None:
    """Units of a product that come back, and others that do not, are one line; amounts stay exact."""
    refund = parse_refund(
        read_json(
            """{"orderId": "o1", "refundId": "r1", "reason": " ", "amount": 0.10,
            "lines": [{"productId": "2", "quantity": 1}, {"productId": "1", "quantity": 1, "restock": true},
                      {"productId": "2", "quantity": 2, "restock": true}],
            "charges": [{"type": "tax", "amount": 0.1}, {"type": "tax", "amount": 0.2}]}"""
        )
    )
    assert [(line.product_id, line.quantity, line.restock) for line in refund.lines] == [("1", 1, 1), ("2", 3, 2)]
    assert [(charge.type, str(charge.amount)) for charge in refund.charges] == [("tax", "0.3")]
    assert (str(refund.amount), refund.reason) == ("0.10", None)
    assert parse_refund(read_json(json.dumps(refund.as_request()))).is_same(refund)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"items": [ITEM | {"price": "huge"}]}, "items[0].price"),
        ({"charges": [{"type": "tax", "amount": "huge"}]}, "charges[0].amount"),
    ],
)
def test_an_amount_that_cannot_be_computed_with(changes: dict[str, Any], field: str) -> None:
    """It is refused like any other wrong field: an overflow would fail the workflow's task again and again."""
    with pytest.raises(InvalidInput) as refusal:
        read_order("o1", json.dumps(an_order(**changes)).replace('"huge"', "1e999999"))
    assert list(refusal.value.problems) == [f"{field}: must be a number of at most 20 digits"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lines": [{"productId": "1", "quantity": 1}] * (MAX_LINES + 1)}, "lines"),
        ({"charges": [{"type": "tax", "amount": 1}] * (MAX_CHARGES + 1)}, "charges"),
        ({"lines": [{"productId": "1", "quantity": MAX_UNITS + 1}]}, "lines[0].quantity"),
        ({"amount": 1, "reason": "a" * (MAX_REASON + 1)}, "reason"),
        ({"amount": 1, "refundId": "r" * 65}, "refundId"),
        ({"amount": 1, "refundId": 7}, "refundId"),
        ({"amount": True}, "amount"),
        ({"amount": Decimal("1E+999999")}, "amount"),
        ({"charges": [{"type": "tax", "amount": Decimal("9E+999999")}] * 2}, "charges[0].amount"),
    ],
)
def test_the_limits_of_a_refund(changes: dict[str, Any], field: str) -> None:
    """Each is named, and the largest that is allowed is allowed."""
    with pytest.raises(InvalidInput) as refusal:
        parse_refund(REFUND | changes)
    assert any(problem.startswith(f"{field}: ") for problem in refusal.value.problems), refusal.value.problems
