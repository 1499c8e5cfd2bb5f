"""Where money and goods are, as the rows of an order tell."""

from datetime import UTC, datetime
from typing import Any

import pytest

from orders.order_report import KeptResolution, OrderReport, SentParcel

NOW = datetime.now(UTC)
BEFORE: dict[str, Any] = {"payment_intent": "pi_1", "fulfillment_requested": True, "fulfillment_id": "ful_1"}
PAID: dict[str, Any] = BEFORE | {"placed_at": NOW}


def report(status: str, **facts: Any) -> OrderReport:
    row: dict[str, Any] = {
        "id": "o1",
        "status": status,
        "total": 5998,
        "currency": "usd",
        "created_at": NOW,
        "customer_id": "cus_1",
        "capture_mode": "manual",
        "payment_intent": None,
        "fulfillment_requested": False,
        "fulfillment_id": None,
        "error_code": None,
        "error": None,
        "placed_at": None,
        "refunds": {},
    }
    return OrderReport.model_validate(row | facts)


def settled(step: str, action: str = "resolved") -> dict[str, Any]:
    said = KeptResolution(step=step, action=action, reason="by bank transfer", actor="ann", at=NOW)
    return {"resolutions": (said,)}


@pytest.mark.parametrize(
    ("status", "facts", "money"),
    [
        ("pending", {}, "nothing charged"),
        ("pending", {"payment_intent": "pi_1"}, "59.98 usd asked for, not authorized yet"),
        ("pending", BEFORE, "59.98 usd authorized, nothing captured"),
        ("capturing", BEFORE, "59.98 usd authorized, being captured"),
        ("pending", BEFORE | {"capture_mode": "automatic"}, "59.98 usd captured"),
        ("processing", PAID, "59.98 usd captured"),
        ("processing", PAID | {"total": 0, "payment_intent": None}, "nothing to pay"),
        ("rejected", {"total": 0, "priced": False}, "nothing charged"),
        ("failed", BEFORE | {"refunds": {"succeeded": 3000}}, "30.00 usd captured, 30.00 usd refunded"),
        (
            "undoing",
            BEFORE | {"error_code": "authorization_expired"},
            "the authorization of 59.98 usd is gone, nothing captured",
        ),
        ("cancelling", PAID, "59.98 usd captured"),
        ("cancelled", PAID | {"refunds": {"succeeded": 5998}}, "59.98 usd captured, 59.98 usd refunded"),
        (
            "cancelled",
            PAID | {"refunds": {"succeeded": 1000, "pending": 2000, "requires_action": 998, "failed": 2000}},
            "59.98 usd captured, 10.00 usd refunded, 29.98 usd refund pending, 20.00 usd refund failed",
        ),
        ("cancelling", PAID | {"refunds": {"failed": 2 * 5998}}, "59.98 usd captured, 59.98 usd refund failed"),
        (
            "cancelled",
            PAID | {"refunds": {"failed": 5998, "succeeded": 5998}},
            "59.98 usd captured, 59.98 usd refunded",
        ),
        ("rejected", {"payment_intent": "pi_1", "error_code": "card_declined"}, "nothing charged"),
        ("rejected", BEFORE, "59.98 usd voided, nothing charged"),
        ("rejected", BEFORE | settled("void_payment"), "59.98 usd not captured, settled by ann: by bank transfer"),
        ("rejected", BEFORE | settled("void_payment", "retry"), "59.98 usd voided, nothing charged"),
    ],
)
def test_the_money(status: str, facts: dict[str, Any], money: str) -> None:
    """One line tells what the customer has paid, and what is on its way back."""
    assert report(status, **facts).money == money


@pytest.mark.parametrize(
    ("status", "facts", "shipment"),
    [
        ("pending", {}, "never asked for"),
        ("pending", BEFORE | {"fulfillment_id": None}, "asked for"),
        ("processing", PAID, "accepted (ful_1)"),
        ("shipping", PAID, "shipped in part (ful_1)"),
        ("shipped", PAID, "shipped (ful_1)"),
        ("delivered", PAID, "delivered (ful_1)"),
        ("cancelling", PAID, "being cancelled (ful_1)"),
        ("cancelled", PAID, "cancelled (ful_1)"),
        ("rejected", BEFORE | {"fulfillment_id": None}, "none"),
        ("cancelled", PAID | settled("cancel_fulfillment"), "settled by ann: by bank transfer (ful_1)"),
    ],
)
def test_the_shipment(status: str, facts: dict[str, Any], shipment: str) -> None:
    """What the warehouse was asked, and what it last said."""
    assert report(status, **facts).shipment == shipment


def test_amounts_for_scripts() -> None:
    """Numbers with decimals, in the names of JSON; null where the database does not tell."""
    found = report("pending", payment_intent="pi_1").as_json()
    names = ("total", "authorized", "captured", "refunded", "refundPending", "refundFailed")
    assert [found[name] for name in names] == [59.98, None, 0.0, 0.0, 0.0, 0.0]
    assert report("pending", currency="jpy").as_json()["total"] == 5998


def test_what_a_total_is_made_of() -> None:
    """The products and each charge, which make up the total; nothing is said of an order without charges."""
    charges = [{"type": "shipping", "name": "Express", "amount": 500}, {"type": "discount", "amount": -1000}]
    text = "54.98 usd: 59.98 usd products, 5.00 usd shipping (Express), -10.00 usd discount"
    priced = report("pending", total=5498, charges=charges)

    assert (priced.price, report("pending").price) == (text, None)
    shown = priced.as_json()
    assert (shown["total"], shown["subtotal"], [each["amount"] for each in shown["charges"]]) == (
        54.98,
        59.98,
        [5, -10],
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "shipped, 2 of product 1, 1 of product 3: UPS 1Z9"),
        ({"lines": {}}, "shipped, the rest: UPS 1Z9"),
        ({"carrier": None, "tracking": None}, "shipped, 2 of product 1, 1 of product 3"),
        ({"delivered_at": NOW}, "delivered, 2 of product 1, 1 of product 3: UPS 1Z9"),
        ({"shipped_at": None, "delivered_at": NOW, "lines": {}}, "delivered: UPS 1Z9"),
        ({"shipped_at": None, "lines": {}, "problem": "too much"}, "does not count: UPS 1Z9; too much"),
    ],
)
def test_a_parcel(facts: dict[str, Any], text: str) -> None:
    """What has left with which carrier, and what is wrong with it."""
    parcel = {
        "id": "par_1",
        "lines": {"1": 2, "3": 1},
        "carrier": "UPS",
        "tracking": "1Z9",
        "tracking_url": None,
        "shipped_at": NOW,
        "delivered_at": None,
        "problem": None,
    }
    assert SentParcel(**parcel | facts).text == text
