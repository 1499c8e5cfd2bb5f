"""The edge: JSON from any client in; a validated order out, or every problem with it by field."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Final, NoReturn, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from temporalio.common import RawValue

from orders import money
from orders.errors import InvalidInput
from orders.models import Address, Line, Model, Order, Priority

SEVERAL: Final = b"several arguments"  # the encoding of an input that is none, see config.replay_guard
MAX_INPUT: Final = 64 * 1024  # bytes
MAX_DEPTH: Final = 20  # levels of nesting
MAX_LINES: Final = 100
MAX_UNITS: Final = 10_000  # of one product
ORDER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # no colon: ids of other runs are derived with one
CARD_NUMBER: Final = re.compile(r"(?<!\d)[2-6](?:[ -]?\d){12,18}(?!\d)")
MAX_GTIN: Final = 14  # digits of a trade item number, which a product id may be
MAX_REASON: Final = 500  # characters; the workflow has the same limits
MAX_NAME: Final = 100

MESSAGES: Final = {  # pydantic's terms, in those of the JSON's author
    "Value error, ": "",
    "Input should": "must",
    "List should": "must",
    "String should": "must",
    "Field required": "is required",
    "Extra inputs are not permitted": "is unknown",
    " after validation, not": ", not",
    "an instance of Decimal": "a number",
}


def _visible(text: str) -> str:
    if any(ord(c) < ord(" ") or "\x7f" <= c <= "\x9f" for c in text):
        raise ValueError("must not contain control characters")
    return text


def _email(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", _visible(text)):
        raise ValueError("must be an e-mail address")
    return text


def _known_currency(currency: str) -> str:
    if currency not in money.DECIMALS:
        raise ValueError(f"must be one of {', '.join(money.DECIMALS)}")
    return currency


def _number(value: object) -> object:
    return Decimal(value) if type(value) is int else value


Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200), AfterValidator(_visible)]
Id = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Email = Annotated[str, StringConstraints(strict=True, max_length=254), AfterValidator(_email)]
PaymentMethod = Annotated[str, StringConstraints(strict=True, pattern=r"^(pm|card)_[A-Za-z0-9_]{1,100}$")]
Country = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Z]{2}$")]
Currency = Annotated[str, StringConstraints(strict=True, to_lower=True), AfterValidator(_known_currency)]
Units = Annotated[int, Field(strict=True, ge=1, le=MAX_UNITS)]
Price = Annotated[Decimal, BeforeValidator(_number), Field(strict=True, ge=0)]


class Request(Model):
    model_config = ConfigDict(extra="forbid")


RequestT = TypeVar("RequestT", bound=Request)


class ItemRequest(Request):
    product_id: Id
    quantity: Units
    price: Price | None = None


class AddressRequest(Request):
    street: Text
    city: Text
    state: Text
    zip: Text
    country: Country = "US"


class OrderRequest(Request):
    """The input of process-order."""

    customer_id: Id
    customer_email: Email
    # A list: of a tuple pydantic counts only the valid items.
    items: Annotated[list[ItemRequest], Field(min_length=1, max_length=MAX_LINES)]
    payment_method_id: PaymentMethod
    shipping_address: AddressRequest
    priority: Priority = Priority.STANDARD
    currency: Currency = "usd"


class CancelRequest(Request):
    """The input of cancel-order; without an address no e-mail is sent."""

    order_id: str
    customer_email: Email | None = None


class CustomerRequest(Request):
    """The input of product-recommendations."""

    customer_id: Id


class RestockRequest(Request):
    """Units that are added to the stock of a product."""

    product_id: Id
    quantity: Units


class NoRequest(Request):
    """The input of a workflow that takes none."""


def read_json(text: bytes | str) -> object:
    """JSON with exact numbers.

    Raises:
        InvalidInput: the text is too large, or not JSON.
    """
    if len(text) > MAX_INPUT:
        raise InvalidInput([f"input: must be at most {MAX_INPUT} bytes"])
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, ArithmeticError, RecursionError):
        raise InvalidInput(["input: must be JSON, with every number in range"]) from None


def read_payload(raw: RawValue | None) -> object:
    """What a Temporal client sent as the workflow's input; None if it sent nothing.

    Raises:
        InvalidInput: the input is several arguments, too large, or not JSON.
    """
    encoding = raw.payload.metadata.get("encoding") if raw else None
    if raw is None or encoding == b"binary/null":
        return None
    if encoding == SEVERAL:
        raise InvalidInput(["input: must be one argument, not several"])
    if encoding != b"json/plain":
        raise InvalidInput(["input: must be JSON"])
    return read_json(raw.payload.data)


def parse_order(order_id: str, data: object) -> Order:
    """The order that `data` describes: prices in minor units, each product once.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    problems = [*_order_id_problems(order_id), *_card_number_problems(data)]
    request = _validate(OrderRequest, data, problems)
    lines = _merge(request)
    return Order(
        id=order_id,
        customer_id=request.customer_id,
        customer_email=request.customer_email,
        payment_method_id=request.payment_method_id,
        currency=request.currency,
        lines=lines,
        shipping_address=Address(**request.shipping_address.model_dump()),
        priority=request.priority,
        request_hash=_fingerprint(request, lines),
    )


def parse_cancel(data: object) -> CancelRequest:
    """The request to cancel that `data` describes.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    problems = _card_number_problems(data)
    if isinstance(data, Mapping) and isinstance(data.get("orderId"), str):
        problems += _order_id_problems(data["orderId"])
    return _validate(CancelRequest, data, problems)


def parse_customer(data: object) -> CustomerRequest:
    """The customer that `data` names.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    return _validate(CustomerRequest, data, _card_number_problems(data))


def parse_restock(data: object) -> RestockRequest:
    """The units and the product that `data` names.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    return _validate(RestockRequest, data, [])


def parse_nothing(data: object) -> None:
    """Accept `{}`, null, or no input.

    Raises:
        InvalidInput: naming every field that was sent.
    """
    _validate(NoRequest, {} if data is None else data, [])


def check_operator_texts(reason: str, by: str = "operator") -> None:
    """Check the texts that are kept with an operator's decision.

    Raises:
        InvalidInput: naming each that is empty or too long.
    """
    limits = {"reason": (reason, MAX_REASON), "by": (by, MAX_NAME)}
    if problems := [
        f"{field}: must have 1 to {longest} characters"
        for field, (text, longest) in limits.items()
        if not 1 <= len(text) <= longest
    ]:
        raise InvalidInput(problems)


def _validate(model: type[RequestT], data: object, problems: list[str]) -> RequestT:
    try:
        request = model.model_validate(data)
    except ValidationError as error:
        problems += [
            f"{_path(e['loc'])}: {_message(e['msg'])}" for e in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise InvalidInput(problems)
    return request


def _merge(request: OrderRequest) -> tuple[Line, ...]:
    """The cart with each product once, in product order: the order in which rows are locked."""
    problems: list[str] = []
    lines: dict[str, Line] = {}
    for index, item in enumerate(request.items):
        field = f"items[{index}]"
        try:
            price = None if item.price is None else money.to_minor(item.price, request.currency, f"{field}.price")
        except InvalidInput as error:
            problems += error.problems
            continue
        seen = lines.get(item.product_id, Line(product_id=item.product_id, quantity=0, unit_price=price))
        if seen.unit_price != price:
            problems.append(f"{field}.price: differs from an earlier line of the same product")
        if seen.quantity + item.quantity > MAX_UNITS:
            problems.append(f"{field}.quantity: more than {MAX_UNITS} units of one product")
        lines[item.product_id] = seen.model_copy(update={"quantity": seen.quantity + item.quantity})
    if problems:
        raise InvalidInput(problems)
    return tuple(lines[product] for product in sorted(lines))


def _fingerprint(request: OrderRequest, lines: tuple[Line, ...]) -> str:
    # Without defaults: a field that a later version adds does not change the hashes of earlier orders.
    asked = request.model_dump(mode="json", exclude={"items"}, exclude_defaults=True)
    meaning = asked | {"lines": [line.model_dump() for line in lines]}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _order_id_problems(order_id: str) -> list[str]:
    if not ORDER_ID.fullmatch(order_id):
        return ["orderId: must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"]
    return ["orderId: looks like a card number"] if _is_card_number(order_id) else []


def _card_number_problems(data: object) -> list[str]:
    """Each field that holds a card number, which no request may; the number is not repeated."""
    return [
        f"{_path(path)}: looks like a card number; send ids only"
        for path, value in _leaves(data)
        if _is_card_number(value) and not (path[-1:] == ("productId",) and len(value) <= MAX_GTIN)
    ]


def _leaves(data: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if len(path) > MAX_DEPTH:
        raise InvalidInput([f"input: must be at most {MAX_DEPTH} levels deep"])
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _leaves(value, (*path, index))
    elif isinstance(data, str | int | Decimal) and not isinstance(data, bool):
        yield path, str(data)


def _is_card_number(text: str) -> bool:
    return any(_passes_luhn(re.sub(r"\D", "", match.group())) for match in CARD_NUMBER.finditer(text))


def _passes_luhn(digits: str) -> bool:
    doubled = (int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits)))
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0  # noqa: PLR2004 (the digits of a two-digit product)


def _path(location: tuple[str | int, ...]) -> str:
    """`items[0].quantity`. The client chooses the names: they are cut, and escaped to ASCII."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{CARD_NUMBER.sub('…', part[:60])}"
    return path.removeprefix(".").encode("ascii", "backslashreplace").decode() or "input"


def _message(message: str) -> str:
    if message.startswith("Input should be a valid dictionary"):  # … or instance of a class of ours
        return "must be an object"
    for theirs, ours in MESSAGES.items():
        message = message.replace(theirs, ours)
    return message


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)
