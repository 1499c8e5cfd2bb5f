"""The warehouse: one shipment per idempotency key, an address check, and cancels that may arrive before their order.

It does not check for orders that it already has: an order sent under two keys is shipped twice.
"""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from pydantic import Field, JsonValue
from starlette.responses import JSONResponse, Response

from sandbox.call import REPLAYED, Body, Call, Refused, Routes, plain
from sandbox.persistence import PersistentDict

UNDELIVERABLE_STATE: Final = "ZZ"
UNDELIVERABLE_STREET: Final = "Refuse"

PROGRESS: Final = ("cancelled", "accepted", "shipping", "shipped", "delivered")


class Item(Body):
    product_id: str
    quantity: int = Field(ge=1)


class Address(Body):
    name: str | None = None
    company: str | None = None
    street: str
    street2: str | None = None
    city: str | None = None
    state: str | None = None
    zip: str | None = None
    country: str = "US"
    phone: str | None = None

    @property
    def undeliverable(self) -> bool:
        return self.state == UNDELIVERABLE_STATE or UNDELIVERABLE_STREET in self.street


class NewOrder(Body):
    order_id: str = Field(min_length=1)
    items: tuple[Item, ...] = Field(min_length=1)
    shipping_address: Address
    priority: str
    gift_message: str | None = None


class _Described(Body):
    lines: tuple[Item, ...] = ()
    carrier: str | None = None
    tracking: str | None = None
    tracking_url: str | None = None


class Departure(_Described):
    """What a test or a person says of a parcel that leaves. Without `lines` it has the whole rest.

    It is believed: a warehouse may say that more has left than was ordered.
    """

    shipment_id: str | None = None


class Arrival(Body):
    """Which parcel is delivered; None: all that have left, or the order as a whole."""

    shipment_id: str | None = None


class Lack(Body):
    """What can never be shipped; without `lines` all that is left."""

    lines: tuple[Item, ...] = ()


class Parcel(_Described):
    shipment_id: str
    status: Literal["shipped", "delivered"] = "shipped"


class Shipment(Body):
    """The whole order. One that leaves all at once has no parcels."""

    id: str
    order: NewOrder
    status: Literal["accepted", "cancelled", "shipping", "shipped", "delivered"] = "accepted"
    parcels: tuple[Parcel, ...] = ()
    shorted: tuple[Item, ...] = ()

    @property
    def view(self) -> dict[str, JsonValue]:
        return {"id": self.id, "status": self.status, **self.order.model_dump(mode="json")}

    @property
    def rest(self) -> tuple[Item, ...]:
        """What has not left, and can."""
        units = Counter({item.product_id: 0 for item in self.order.items})
        for item in self.order.items:
            units[item.product_id] += item.quantity
        for parcel in self.parcels:
            for line in parcel.lines:
                units[line.product_id] -= line.quantity
        for line in self.shorted:
            units[line.product_id] -= line.quantity
        return tuple(Item(product_id=product, quantity=left) for product, left in units.items() if left > 0)

    def sends(self, said: Departure) -> "Shipment":
        """The shipment after one more parcel has left; one with the id of an earlier parcel replaces it."""
        parcel = Parcel(
            shipment_id=said.shipment_id or f"par_{secrets.token_hex(8)}",
            lines=said.lines or self.rest,
            carrier=said.carrier,
            tracking=said.tracking,
            tracking_url=said.tracking_url,
        )
        others = tuple(each for each in self.parcels if each.shipment_id != parcel.shipment_id)
        sent = self.model_copy(update={"parcels": (*others, parcel)})
        return sent.model_copy(update={"status": "shipping" if sent.rest else "shipped"})

    def lacks(self, said: Lack) -> "Shipment":
        """The shipment after the warehouse found that it can never ship these lines."""
        short = self.model_copy(update={"shorted": (*self.shorted, *(said.lines or self.rest))})
        return short.model_copy(update={"status": "shipped"}) if short.parcels and not short.rest else short

    def arrives(self, said: Arrival) -> "Shipment":
        """The shipment after a parcel, or all of them, came to the customer."""
        parcels = tuple(
            each.model_copy(update={"status": "delivered"}) if said.shipment_id in (None, each.shipment_id) else each
            for each in self.parcels
        )
        is_over = not self.rest and all(each.status == "delivered" for each in parcels)
        return self.model_copy(update={"parcels": parcels, "status": "delivered" if is_over else self.status})


@dataclass(frozen=True)
class Kept:
    """The answer saved under an idempotency key, and the request that the key belongs to."""

    path: str
    body: JsonValue
    status: int
    answer: str


@dataclass
class Fulfillment:
    """The shipments, the answers saved by idempotency key, and the orders whose cancel came first.

    The key of an order's first shipment is the order id, that of any further one the shipment id. An order whose cancel
    came first is never shipped, unless `forgets_cancels` is set. With `hides_parcels` only events tell of parcels.
    """

    shipments: PersistentDict[Shipment] = field(default_factory=lambda: PersistentDict(Shipment))
    keys: PersistentDict[Kept] = field(default_factory=lambda: PersistentDict(Kept))
    cancelled_unseen: PersistentDict[bool] = field(default_factory=lambda: PersistentDict(bool))
    forgets_cancels: bool = False
    saves_refusals: bool = False
    hides_parcels: bool = False

    def create(self, call: Call) -> Response:
        """Accept an order, once per idempotency key."""
        return self._once(call, lambda: self._accept(NewOrder.model_validate(call.body)))

    def cancel(self, call: Call) -> Response:
        """Cancel what has not shipped. An unknown order is answered 404, and refused if it arrives later."""
        return self._once(call, lambda: self._cancel_open(call.ids["order_id"]))

    def ship(self, call: Call) -> Response:
        _authenticate(call)
        said = Departure.model_validate(call.body) if call.body else None
        return self.send(call.ids["order_id"], said)

    def deliver(self, call: Call) -> Response:
        _authenticate(call)
        return self.bring(call.ids["order_id"], Arrival.model_validate(call.body or {}))

    def show(self, call: Call) -> Response:
        _authenticate(call)
        found = self._furthest(call.ids["order_id"])
        parcels = [parcel.model_dump(mode="json") for parcel in found.parcels]
        shorted = [line.model_dump(mode="json") for line in found.shorted]
        return JSONResponse(
            found.view
            | ({"parcels": parcels} if parcels and not self.hides_parcels else {})
            | ({"shorted": shorted} if shorted else {})
        )

    def send(self, order_id: str, said: Departure | None) -> Response:
        """Let a parcel leave; None: what is left of the order, as a whole if nothing has left. Raises Refused."""
        furthest = self._furthest(order_id)
        if said is None and not furthest.parcels:
            return self.move_on(order_id, "shipped")
        if furthest.status == "cancelled":
            raise Refused(409, "order_cancelled", "This order was cancelled.")
        sent = furthest.sends(said or Departure())
        self.shipments[self._key(furthest)] = sent
        return _answer(sent)

    def short(self, call: Call) -> Response:
        _authenticate(call)
        return self.lack(call.ids["order_id"], Lack.model_validate(call.body or {}))

    def lack(self, order_id: str, said: Lack) -> Response:
        """Find that lines can never be shipped. Raises Refused."""
        furthest = self._furthest(order_id)
        if furthest.status not in ("accepted", "shipping"):
            raise Refused(409, "not_open", f"This order is {furthest.status}.")
        self.shipments[self._key(furthest)] = furthest.lacks(said)
        return _answer(self._furthest(order_id))

    def send_part(self, order_id: str) -> Response:
        """Let one unit leave in a parcel of its own. Raises Refused."""
        rest = self._furthest(order_id).rest
        if not rest:
            raise Refused(409, "already_shipped", "This order has left the warehouse.")
        return self.send(order_id, Departure(lines=(rest[0].model_copy(update={"quantity": 1}),)))

    def bring(self, order_id: str, said: Arrival) -> Response:
        """Let a parcel arrive, or the whole order. Raises Refused."""
        furthest = self._furthest(order_id)
        if not furthest.parcels:
            return self.move_on(order_id, "delivered")
        if said.shipment_id and said.shipment_id not in {each.shipment_id for each in furthest.parcels}:
            raise Refused(404, "parcel_unknown", "There is no such parcel.")
        brought = furthest.arrives(said)
        self.shipments[self._key(furthest)] = brought
        return _answer(brought)

    def move_on(self, order_id: str, status: Literal["shipped", "delivered"]) -> Response:
        """Set all shipments of the order that are not cancelled to this status. Raises Refused."""
        if self._furthest(order_id).status == "cancelled":
            raise Refused(409, "order_cancelled", "This order was cancelled.")
        for key, shipment in self._shipments(order_id).items():
            if shipment.status in ("accepted", "shipped"):
                self._put(key, shipment, status)
        return _answer(self._furthest(order_id))

    def forget(self, order_id: str) -> None:
        """Forget the shipments of the order: it is unknown from now on."""
        for key in [key for key, each in self.shipments.items() if each.order.order_id == order_id]:
            del self.shipments[key]

    def _once(self, call: Call, act: Callable[[], Response]) -> Response:
        """Act once per key, or every time without a key. Unless `saves_refusals`, a later attempt may succeed."""
        _authenticate(call)
        if call.key is None:
            return act()
        if kept := self.keys.get(call.key):
            if (kept.path, kept.body) != (call.path, call.body):
                raise Refused(409, "idempotency_key_reused", "This idempotency key belongs to another request.")
            return Response(kept.answer, kept.status, {REPLAYED: "true"}, media_type="application/json")
        try:
            answer = act()
        except Refused as refusal:
            if not self.saves_refusals:
                raise
            answer = refusal.answer
        self.keys[call.key] = Kept(call.path, call.body, answer.status_code, bytes(answer.body).decode())
        return answer

    def _accept(self, order: NewOrder) -> Response:
        known = self.shipments.get(order.order_id)
        if order.order_id in self.cancelled_unseen or (known and known.status == "cancelled"):
            raise Refused(409, "order_cancelled", "This order was cancelled.")
        if order.shipping_address.undeliverable:
            raise Refused(422, "address_refused", "No carrier delivers to this address.")
        shipment = Shipment(id=f"ful_{secrets.token_hex(8)}", order=order)
        self.shipments[shipment.id if known else order.order_id] = shipment
        return _answer(shipment, 201)

    def _cancel_open(self, order_id: str) -> Response:
        if order_id not in self.shipments and not self.forgets_cancels:
            self.cancelled_unseen[order_id] = True
        for key, shipment in self._shipments(order_id).items():
            if shipment.status == "accepted":
                self._put(key, shipment, "cancelled")
        furthest = self._furthest(order_id)
        if furthest.status != "cancelled":
            raise Refused(409, "already_shipped", "This order has left the warehouse.")
        return _answer(furthest)

    def _shipments(self, order_id: str) -> dict[str, Shipment]:
        found = {key: each for key, each in self.shipments.items() if each.order.order_id == order_id}
        if not found:
            raise Refused(404, "order_unknown", "There is no such order.")
        return found

    def _furthest(self, order_id: str) -> Shipment:
        return max(self._shipments(order_id).values(), key=lambda each: PROGRESS.index(each.status))

    def _key(self, shipment: Shipment) -> str:
        return next(key for key, each in self._shipments(shipment.order.order_id).items() if each.id == shipment.id)

    def _put(self, key: str, shipment: Shipment, status: str) -> None:
        self.shipments[key] = shipment.model_copy(update={"status": status})


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
    ("POST", "/orders/{order_id}/short", plain(Fulfillment.short)),
)
