"""What the warehouse says of an order's parcels: what has left, and with which carrier.

A parcel is what leaves at one time. The same words come in an event of the warehouse and in its answer about an order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from orders.models import Refund, RefundLine
from orders.parsing import MAX_LINES, ORDER_ID, Email, Id, Request, Units, validate
from orders.plain_text import has_markup, is_harmful

MAX_PARCELS: Final = 200  # of one order
SHORTAGE_REFUND: Final = "shorted-"  # how the ids of refunds of shortages begin: no other refund may be called so

Token = Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]
ParcelId = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]


def _plain(text: str) -> str:
    if is_harmful(text) or has_markup(text):
        raise ValueError("must be plain text")
    return text


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


# A customer reads these in an e-mail: a link only where one belongs, and nothing that hides.
PlainText = Annotated[
    Annotated[str, StringConstraints(max_length=100), AfterValidator(_plain)] | None, BeforeValidator(_blank_is_none)
]
Link = Annotated[
    Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,500}$")] | None, BeforeValidator(_blank_is_none)
]


def units_text(units: Mapping[str, int]) -> str:
    """Units by product, for people."""
    return ", ".join(f"{quantity} of product {product}" for product, quantity in units.items())


class Shortage(NamedTuple):
    """Units of an order that the warehouse can never ship, and the refund that makes up for them."""

    order_id: str
    number: int
    lines: Mapping[str, int]

    @property
    def refund_id(self) -> str:
        return f"{SHORTAGE_REFUND}{self.number}"

    @property
    def text(self) -> str:
        return units_text(self.lines)

    def refund(self, customer_email: str | None, *, restock: bool) -> Refund:
        return Refund(
            order_id=self.order_id,
            refund_id=self.refund_id,
            lines=tuple(
                RefundLine(product_id=product, quantity=units, restock=units if restock else 0)
                for product, units in self.lines.items()
            ),
            reason="the warehouse cannot ship it",
            customer_email=customer_email,
        )


class ParcelNotice(Request):
    """The input of notify-shipment: the parcel to tell the customer of.

    Without `customer_email` the message goes to the address that the order was placed with.
    """

    order_id: Annotated[str, Field(pattern=f"^{ORDER_ID.pattern}$")]
    shipment_id: ParcelId
    customer_email: Email | None = None


def parse_notice(data: object) -> ParcelNotice:
    """The parcel that `data` names.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    return validate(ParcelNotice, data, [])


class _Said(BaseModel):
    """What is not named here is not read: a warehouse may say more."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, validate_by_name=True, hide_input_in_errors=True)


class ParcelLine(_Said):
    product_id: Id
    quantity: Units


def _merged(lines: Sequence[ParcelLine]) -> tuple[ParcelLine, ...]:
    """Each product once, in product order."""
    units: Counter[str] = Counter()
    for line in lines:
        units[line.product_id] += line.quantity
    return tuple(ParcelLine(product_id=product, quantity=units[product]) for product in sorted(units))


Lines = Annotated[tuple[ParcelLine, ...], Field(max_length=MAX_LINES), AfterValidator(_merged)]
ParcelLines = Annotated[Lines, Field(min_length=1)]


class Parcel(_Said):
    """One parcel. Without `lines` it has the whole rest of the order."""

    shipment_id: ParcelId
    lines: ParcelLines | None = None
    status: Literal["shipped", "delivered"] = "shipped"
    carrier: PlainText = None
    tracking: PlainText = None
    tracking_url: Link = None


class Shipment(_Said):
    """The shipment of an order, as the warehouse describes it.

    Known statuses are accepted, cancelled, shipping (a part has left), shipped and delivered. `parcels` are all that
    have left; None: the warehouse does not tell. `shorted` is all that it can never ship.
    """

    id: Token
    status: Token
    shorted: Lines = ()
    parcels: Annotated[tuple[Parcel, ...], Field(max_length=MAX_PARCELS)] | None = None
