"""What the warehouse says of an order's parcels: what has left, and with which carrier.

A parcel is what leaves at one time. The same words come in an event of the warehouse and in its answer about an order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Final, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.alias_generators import to_camel

from orders.models import Refund, RefundLine
from orders.parsing import MAX_LINES, ORDER_ID, Email, Id, Request, Units, blank_is_none, problems_of, validate
from orders.plain_text import has_markup, is_harmful, shorten

MAX_PARCELS: Final = 200  # of one order
MAX_PROBLEM: Final = 300  # characters
SHORTAGE_REFUND: Final = "shorted-"  # how the ids of refunds of shortages begin: no other refund may be called so

Token = Annotated[str, Field(pattern=r"^[!-~]{1,255}$")]
ParcelId = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]


def _plain(text: str) -> str:
    if is_harmful(text) or has_markup(text):
        raise ValueError("must be plain text")
    return text


def _odd_is_none(value: object, read: ValidatorFunctionWrapHandler) -> object:
    try:
        return read(value)
    except ValidationError:
        return None


# A customer reads these in an e-mail: a link only where one belongs, and nothing that hides. What is anything else is
# left out, because goods have left all the same.
PlainText = Annotated[
    Annotated[str, StringConstraints(max_length=100), AfterValidator(_plain)] | None,
    BeforeValidator(blank_is_none),
    WrapValidator(_odd_is_none),
]
Link = Annotated[
    Annotated[str, StringConstraints(pattern=r"^https?://[!-~]{1,500}$")] | None,
    BeforeValidator(blank_is_none),
    WrapValidator(_odd_is_none),
]


def units_text(units: Mapping[str, int]) -> str:
    """Units by product, for people."""
    return ", ".join(f"{quantity} of product {product}" for product, quantity in units.items())


class Shortage(NamedTuple):
    """Units of an order that the warehouse can never ship, and the refund that makes up for them.

    `restock`: the warehouse has them, so they are back in stock. Else they are lost.
    """

    order_id: str
    number: int
    lines: Mapping[str, int]
    restock: bool = False

    @property
    def refund_id(self) -> str:
        return f"{SHORTAGE_REFUND}{self.number}"

    @property
    def text(self) -> str:
        return units_text(self.lines)

    def refund(self, customer_email: str | None, amount: Decimal | None = None) -> Refund:
        return Refund(
            order_id=self.order_id,
            refund_id=self.refund_id,
            lines=tuple(
                RefundLine(product_id=product, quantity=units, restock=units if self.restock else 0)
                for product, units in self.lines.items()
            ),
            amount=amount,
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


class _ParcelAnswer(_Said):
    shipment_id: ParcelId
    lines: ParcelLines | None = None
    status: Literal["shipped", "delivered"] = "shipped"
    carrier: PlainText = None
    tracking: PlainText = None
    tracking_url: Link = None


class Parcel(_ParcelAnswer):
    """One parcel. Without `lines` it has the whole rest of the order; `problem` says why it could not be read."""

    problem: str | None = None


class Shipment(_Said):
    """The shipment of an order, as the warehouse describes it.

    Known statuses are accepted, cancelled, shipping (a part has left), shipped and delivered. `parcels` are all that
    have left; None: the warehouse does not tell. `shorted` is all that it can never ship. `problem` says what of
    `shorted` cannot be read, `unread` are the parcels that cannot even be named.
    """

    id: Token
    status: Token
    shorted: Lines = ()
    parcels: tuple[Parcel, ...] | None = None
    problem: str | None = None
    unread: tuple[str, ...] = ()


class _Answer(_Said):
    id: Token
    status: Token
    parcels: object = None
    shorted: object = None


class _Named(_Said):
    shipment_id: ParcelId


_LINES: Final[TypeAdapter[tuple[ParcelLine, ...]]] = TypeAdapter(Lines)


def parse_shipment(said: bytes) -> Shipment:
    """The shipment in an answer of the warehouse. A parcel or a line that is wrong stops only itself.

    Raises:
        ValidationError: the answer has no id or no status.
    """
    answer = _Answer.model_validate_json(said)
    shorted, problem = _read_shorted(answer.shorted)
    parcels, unread = _read_parcels(answer.parcels)
    return Shipment(
        id=answer.id, status=answer.status, shorted=shorted, parcels=parcels, problem=problem, unread=tuple(unread)
    )


def _read_shorted(said: object) -> tuple[tuple[ParcelLine, ...], str | None]:
    """The lines that can be read, and what is wrong with the others."""
    items = _items(said)
    if items is None:
        return (), _unreadable(["shorted: must be a list"]) if said is not None else None
    lines: list[ParcelLine] = []
    problems: list[str] = []
    for number, each in enumerate(items):
        try:
            lines.append(ParcelLine.model_validate(each))
        except ValidationError as error:
            problems += [f"shorted[{number}]: {problem}" for problem in problems_of(error)]
    try:
        return _LINES.validate_python(lines), _unreadable(problems) if problems else None
    except ValidationError as error:  # too many
        return (), _unreadable(problems_of(error))


def _read_parcels(said: object) -> tuple[tuple[Parcel, ...] | None, list[str]]:
    """The parcels that have an id, and what is wrong with the others. A list that cannot be read names none."""
    if said is None:
        return None, []
    items = _items(said)
    if items is None:
        return (), ["parcels: must be a list"]
    unread = [f"parcels: {len(items)}, only {MAX_PARCELS} are read"] if len(items) > MAX_PARCELS else []
    parcels: list[Parcel] = []
    for number, each in enumerate(items[:MAX_PARCELS]):
        try:
            parcels.append(_read_parcel(each))
        except ValidationError as error:
            unread += [f"parcels[{number}]: {problem}" for problem in problems_of(error)]
    return tuple(parcels), unread


def _read_parcel(said: object) -> Parcel:
    """The parcel, or what is wrong with it under its id. Raises ValidationError: it has none."""
    named = _Named.model_validate(said)
    try:
        return Parcel(**dict(_ParcelAnswer.model_validate(said)))
    except ValidationError as error:
        return Parcel(shipment_id=named.shipment_id, problem=_unreadable(problems_of(error)))


def _items(said: object) -> Sequence[object] | None:
    return said if isinstance(said, list) else None


def _unreadable(problems: Sequence[str]) -> str:
    return shorten(f"the warehouse's answer cannot be read: {'; '.join(problems)}", MAX_PROBLEM)
