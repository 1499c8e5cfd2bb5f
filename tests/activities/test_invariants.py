"""The invariants: silent on books that balance, and each of them loud when its rule is broken."""

from collections.abc import Mapping
from typing import Any

import pytest

from activities import invariants
from activities.invariants import RULES, Books, Evidence, Ledger, Rule

ORDER = {"id": "o1", "status": "processing", "total": 500, "settled": (), "notices": ("order_confirmation",)}
STOCK = {"product_id": "1", "quantity": 8, "reserved": 0, "held": 0, "sold": 2}
RESERVATION = {"order_id": "o1", "product_id": "1", "quantity": 2, "state": "sold"}
PAYMENT = {"id": "pi_1", "order": "o1", "authorised": 0, "captured": 500, "refunded": 0, "refund_pending": 0}
SHIPMENT = {"order_id": "o1", "status": "accepted"}
BACK = {"stock": {"quantity": 10, "sold": 0}, "reservation": {"state": "released"}, "shipment": {"status": "cancelled"}}
REFUNDED = {**BACK, "order": {"status": "cancelled"}, "payment": {"refunded": 500}}


def evidence(changes: Mapping[str, Mapping[str, Any]]) -> Evidence:
    """A paid order of two units, with changes."""
    ledger = Ledger.model_validate(
        {
            "orders": [{**ORDER, **changes.get("order", {})}],
            "reservations": [{**RESERVATION, **changes.get("reservation", {})}],
            "stock": [{**STOCK, **changes.get("stock", {})}],
        }
    )
    books = Books.model_validate(
        {
            "payments": [{**PAYMENT, **changes.get("payment", {})}],
            "fulfillment": [{**SHIPMENT, **changes.get("shipment", {})}] * changes.get("shipments", {}).get("count", 1),
        }
    )
    return Evidence(ledger, books, {"1": 10})


def broken_by(changes: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {rule.__name__ for rule in RULES if list(rule(evidence(changes)))}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        REFUNDED,
        {**REFUNDED, "payment": {"refund_pending": 500}},
        {**REFUNDED, "order": {"status": "cancelled", "settled": ("void_payment",)}, "payment": {}},
        {"order": {"status": "cancelling"}},
    ],
    ids=["paid", "refunded", "refund under way", "settled by hand", "under way"],
)
def test_books_that_balance_break_no_rule(changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Paid, closed, settled by an operator or under way."""
    assert broken_by(changes) == set()


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (invariants.stock_is_conserved, {"stock": {"quantity": 7}}),
        (invariants.reserved_is_what_is_held, {"stock": {"quantity": 7, "reserved": 1}}),
        (invariants.settled_orders_hold_nothing, {"reservation": {"state": "held"}}),
        (invariants.settled_orders_hold_nothing, {**REFUNDED, "reservation": {"state": "sold"}}),
        (invariants.charged_once, {"payment": {"captured": 1000}}),
        (invariants.charged_once, {**REFUNDED, "payment": {"refunded": 200}}),
        (invariants.refunded_at_most_what_was_charged, {**REFUNDED, "payment": {"refunded": 501}}),
        (invariants.paid_orders_are_whole, {"payment": {"captured": 0, "authorised": 500}}),
        (invariants.paid_orders_are_whole, {"shipment": {"status": "cancelled"}}),
        (invariants.paid_orders_are_whole, {"order": {"notices": ()}}),
        (invariants.closed_orders_are_empty, {**REFUNDED, "payment": {}}),
        (invariants.closed_orders_are_empty, {**REFUNDED, "payment": {"captured": 0, "authorised": 500}}),
        (invariants.closed_orders_are_empty, {**REFUNDED, "shipment": {"status": "shipped"}}),
        (invariants.shipped_at_most_once, {"shipments": {"count": 2}}),
    ],
)
def test_a_broken_rule_is_told(rule: Rule, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """The rule that is broken is among those that speak."""
    assert rule.__name__ in broken_by(changes)
