"""What the warehouse says of parcels and shortages, as the code reads it."""

import pytest
from pydantic import ValidationError

from orders.names import notify_shipment_id, order_id_of
from orders.parcels import MAX_PARCELS, Parcel, Shipment, Shortage
from orders.parsing import parse_refund

LINE = {"productId": "1", "quantity": 2}


def test_a_product_that_is_listed_twice() -> None:
    """Its units are added up."""
    parcel = Parcel.model_validate({"shipmentId": "par_1", "lines": [LINE, {"productId": "0", "quantity": 1}, LINE]})
    assert [(line.product_id, line.quantity) for line in parcel.lines or ()] == [("0", 1), ("1", 4)]


@pytest.mark.parametrize(
    "said",
    [
        {"id": "ful_1", "status": 7},
        {"id": "ful_1", "status": "shipped", "parcels": "all"},
        {"id": "ful_1", "status": "shipped", "parcels": [{"shipmentId": "par_1"}] * (MAX_PARCELS + 1)},
        {"id": "ful_1", "status": "shipped", "parcels": [{"shipmentId": "par_1", "status": "lost"}]},
        {"id": "ful_1", "status": "shipped", "shorted": [{"productId": "1", "quantity": -1}]},
    ],
)
def test_an_answer_that_is_no_shipment(said: dict[str, object]) -> None:
    """It is an outage, not a shipment without parcels."""
    with pytest.raises(ValidationError):
        Shipment.model_validate(said)


@pytest.mark.parametrize(("restock", "back"), [(True, 2), (False, 0)], ids=["restock", "write off"])
def test_the_refund_of_a_shortage(*, restock: bool, back: int) -> None:
    """Its units are refunded, and back in stock or not; the request says the same."""
    refund = Shortage("o1", 3, {"1": 2}).refund("customer@example.com", restock=restock)
    assert (refund.refund_id, refund.lines[0].quantity, refund.lines[0].restock) == ("shorted-3", 2, back)
    assert parse_refund(refund.as_request()) == refund


def test_the_order_of_a_run() -> None:
    """Also if the id of the parcel has a colon, or somebody chose another workflow id."""
    assert order_id_of("notify-shipment", notify_shipment_id("o1", "a:b")) == "o1"
    assert order_id_of("notify-shipment", "mine") == "mine"
