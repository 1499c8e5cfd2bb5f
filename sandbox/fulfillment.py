"""The warehouse: one shipment per order, an address check, and a memory for orders cancelled before they came."""

import secrets
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import Field, JsonValue
from starlette.responses import JSONResponse, Response

from sandbox.call import Body, Call, Refused, Routes, plain
from sandbox.store import Shelf

UNDELIVERABLE_STATE: Final = "ZZ"
UNDELIVERABLE_STREET: Final = "Refuse"


class Item(Body):
    product_id: str
    quantity: int = Field(ge=1)


class Address(Body):
    street: str
    city: str
    state: str
    zip: str

    @property
    def undeliverable(self) -> bool:
        return self.state == UNDELIVERABLE_STATE or UNDELIVERABLE_STREET in self.street


class NewOrder(Body):
    order_id: str = Field(min_length=1)
    items: tuple[Item, ...] = Field(min_length=1)
    shipping_address: Address
    priority: str


class Shipment(Body):
    id: str
    order: NewOrder
    status: Literal["accepted", "cancelled", "shipped", "delivered"] = "accepted"

    @property
    def view(self) -> dict[str, JsonValue]:
        return {"id": self.id, "status": self.status, **self.order.model_dump(mode="json")}


@dataclass
class Fulfillment:
    """The shipments by order id, and the orders whose cancellation came first: those are never shipped."""

    shipments: Shelf[Shipment] = field(default_factory=lambda: Shelf(Shipment))
    cancelled_unseen: Shelf[bool] = field(default_factory=lambda: Shelf(bool))
    forgets_cancels: bool = False

    def create(self, call: Call) -> Response:
        """Accept an order, once however often it is sent."""
        _authenticate(call)
        order = NewOrder.model_validate(call.body)
        known = self.shipments.get(order.order_id)
        if order.order_id in self.cancelled_unseen or (known and known.status == "cancelled"):
            raise Refused(409, "order_cancelled", "This order was cancelled.")
        if known:
            return _answer(known)
        if order.shipping_address.undeliverable:
            raise Refused(422, "address_refused", "No carrier delivers to this address.")
        return _answer(self._keep(Shipment(id=f"ful_{secrets.token_hex(8)}", order=order)), 201)

    def cancel(self, call: Call) -> Response:
        """Cancel before it ships. An order not seen yet is 404 now, and refused if it ever comes."""
        _authenticate(call)
        order_id = call.ids["order_id"]
        if order_id not in self.shipments and not self.forgets_cancels:
            self.cancelled_unseen[order_id] = True
        shipment = self._shipment(order_id)
        if shipment.status in ("shipped", "delivered"):
            raise Refused(409, "already_shipped", "This order has left the warehouse.")
        return _answer(self._keep(shipment.model_copy(update={"status": "cancelled"})))

    def ship(self, call: Call) -> Response:
        return self._move_on(call, "shipped")

    def deliver(self, call: Call) -> Response:
        return self._move_on(call, "delivered")

    def show(self, call: Call) -> Response:
        _authenticate(call)
        return JSONResponse(self._shipment(call.ids["order_id"]).view)

    def _move_on(self, call: Call, status: str) -> Response:
        _authenticate(call)
        shipment = self._shipment(call.ids["order_id"])
        if shipment.status == "cancelled":
            raise Refused(409, "order_cancelled", "This order was cancelled.")
        if shipment.status == "delivered":
            return _answer(shipment)
        return _answer(self._keep(shipment.model_copy(update={"status": status})))

    def _shipment(self, order_id: str) -> Shipment:
        if order_id not in self.shipments:
            raise Refused(404, "order_unknown", "There is no such order.")
        return self.shipments[order_id]

    def _keep(self, shipment: Shipment) -> Shipment:
        self.shipments[shipment.order.order_id] = shipment
        return shipment


def _authenticate(call: Call) -> None:
    if not call.bearer:
        raise Refused(401, "unauthenticated", "There is no key in the Authorization header.")


def _answer(shipment: Shipment, status: int = 200) -> Response:
    body = {"id": shipment.id, "orderId": shipment.order.order_id, "status": shipment.status}
    return JSONResponse(body, status)


ROUTES: Final[Routes[Fulfillment]] = (
    ("POST", "/orders", plain(Fulfillment.create)),
    ("GET", "/orders/{order_id}", plain(Fulfillment.show)),
    ("POST", "/orders/{order_id}/cancel", plain(Fulfillment.cancel)),
    ("POST", "/orders/{order_id}/ship", plain(Fulfillment.ship)),
    ("POST", "/orders/{order_id}/deliver", plain(Fulfillment.deliver)),
)
