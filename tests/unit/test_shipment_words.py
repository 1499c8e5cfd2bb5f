"""What the warehouse says of parcels and shortages, as the code reads it."""

import json

import pytest
from pydantic import ValidationError

from orders.money import share_of
from orders.names import notify_shipment_id, order_id_of
from orders.parcels import MAX_PARCELS, Parcel, Shipment, Shortage, parse_shipment
from orders.parsing import parse_refund

LINE = {"productId": "1", "quantity": 2}


def test_a_product_that_is_listed_twice() -> None:
    """Its units are added up."""
    parcel = Parcel.model_validate({"shipmentId": "par_1", "lines": [LINE, {"productId": "0", "quantity": 1}, LINE]})
    assert [(line.product_id, line.quantity) for line in parcel.lines or ()] == [("0", 1), ("1", 4)]


def read(**said: object) -> Shipment:
    return parse_shipment(json.dumps({"id": "ful_1", "status": "shipping"} | said).encode())


@pytest.mark.parametrize("said", [b"<html>", b"[]", b'{"id": "ful_1"}', b'{"id": "ful_1", "status": 7}'])
def test_an_answer_that_is_no_shipment(said: bytes) -> None:
    """It is an outage, not a shipment without parcels."""
    with pytest.raises(ValidationError):
        parse_shipment(said)


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ({"lines": []}, "lines: "),
        ({"lines": "all"}, "lines: must be a list"),
        ({"lines": [LINE, {"productId": "SKU 7", "quantity": 1}]}, "lines[1].productId: "),
        ({"lines": [LINE] * 101}, "lines: "),
        ({"lines": [{"productId": "1", "quantity": 0}]}, "lines[0].quantity: "),
        ({"status": "in_transit"}, "status: "),
    ],
    ids=str,
)
def test_a_parcel_that_cannot_be_read(odd: dict[str, object], problem: str) -> None:
    """It is a problem of this parcel; the other ones are read."""
    shipment = read(parcels=[{"shipmentId": "par_1"} | odd, {"shipmentId": "par_2", "lines": [LINE]}])
    wrong, right = shipment.parcels or ()
    assert (wrong.shipment_id, wrong.lines) == ("par_1", None)
    assert f"cannot be read: {problem}" in (wrong.problem or "")
    assert (right.shipment_id, right.problem, shipment.unread) == ("par_2", None, ())


@pytest.mark.parametrize(
    "odd",
    [
        {"carrier": "x" * 101},
        {"carrier": ["UPS"]},
        {"tracking": 12345},
        {"trackingUrl": "https://carrier.example/a b"},
        {"problem": "none of the warehouse's fields"},
    ],
    ids=str,
)
def test_an_odd_text_of_a_parcel(odd: dict[str, object]) -> None:
    """It is left out: the goods count."""
    (parcel,) = read(parcels=[{"shipmentId": "par_1", "lines": [LINE]} | odd]).parcels or ()
    assert parcel == Parcel.model_validate({"shipmentId": "par_1", "lines": [LINE]})


def test_parcels_that_cannot_be_named() -> None:
    """They are left out, and said for the log; a list that is none has no parcels that could be believed."""
    found = read(parcels=[{"lines": [LINE]}, {"shipmentId": "par_2"}, {"shipmentId": 3}, "par_4"])
    assert [each.shipment_id for each in found.parcels or ()] == ["par_2"]
    assert [text.partition(":")[0] for text in found.unread] == ["parcels[0]", "parcels[2]", "parcels[3]"]
    assert (read(parcels="all").parcels, read(parcels=None).parcels, read().parcels) == ((), None, None)
    assert read(parcels="all").unread == ("parcels: must be a list",)
    many = read(parcels=[{"shipmentId": f"par_{number}"} for number in range(MAX_PARCELS + 1)])
    assert (len(many.parcels or ()), len(many.unread)) == (MAX_PARCELS, 1)


@pytest.mark.parametrize(
    ("shorted", "units", "problem"),
    [
        (None, {}, None),
        ([], {}, None),
        ([LINE, LINE], {"1": 4}, None),
        ([LINE, {"productId": "SKU 7", "quantity": 1}], {"1": 2}, "shorted[1]: productId: "),
        ([{"productId": "1", "quantity": -1}], {}, "shorted[0]: quantity: "),
        ([LINE] * 101, {}, "input: "),
        ("all", {}, "shorted: must be a list"),
    ],
    ids=["null", "none", "twice", "foreign", "negative", "many", "no list"],
)
def test_a_shortage_that_cannot_be_read(shorted: object, units: dict[str, int], problem: str | None) -> None:
    """The lines that can be read count."""
    shipment = read(shorted=shorted)
    assert {line.product_id: line.quantity for line in shipment.shorted} == units
    assert (shipment.problem or "").startswith(f"the warehouse's answer cannot be read: {problem}" if problem else "")
    assert (shipment.problem is None) == (problem is None)


@pytest.mark.parametrize(
    ("part", "whole", "net", "share"),
    [(5000, 10000, 5000, 2500), (10000, 10000, 5000, 5000), (1, 3, 10, 3), (2, 3, 10, 6), (1, 2, -5, 0), (0, 0, 7, 0)],
)
def test_the_share_of_a_line(part: int, whole: int, net: int, share: int) -> None:
    """Of what was paid for all lines, rounded down."""
    assert share_of(part, whole, net) == share


@pytest.mark.parametrize(("restock", "back"), [(True, 2), (False, 0)], ids=["restock", "write off"])
def test_the_refund_of_a_shortage(*, restock: bool, back: int) -> None:
    """Its units are refunded, and back in stock or not; the request says the same."""
    refund = Shortage("o1", 3, {"1": 2}, restock).refund("customer@example.com")
    assert (refund.refund_id, refund.lines[0].quantity, refund.lines[0].restock) == ("shorted-3", 2, back)
    assert parse_refund(refund.as_request()) == refund


def test_the_order_of_a_run() -> None:
    """Also if the id of the parcel has a colon, or somebody chose another workflow id."""
    assert order_id_of("notify-shipment", notify_shipment_id("o1", "a:b")) == "o1"
    assert order_id_of("notify-shipment", "mine") == "mine"
