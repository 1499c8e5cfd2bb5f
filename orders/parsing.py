"""The edge: JSON from any client in; a validated order out, or every problem with it by field."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal, NoReturn, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from temporalio.common import RawValue

from orders import money
from orders.card_numbers import has_card_number
from orders.countries import REQUIRED, is_required
from orders.errors import InvalidInput, Unreadable
from orders.models import (
    Address,
    ChargeType,
    Line,
    Model,
    Order,
    OrderCharge,
    Priority,
    Refund,
    RefundCharge,
    RefundLine,
)
from orders.plain_text import has_markup, is_harmful, is_visible

SEALED: Final = b"binary/encrypted"  # the encoding of an encrypted payload
UNOPENED: Final = b"binary/unopened"  # that of one which is marked as encrypted, and which no key can decrypt
SEALED_WITH: Final = "sealed-with"  # the metadata of one that is decrypted: the id of its key
NO_KEYS: Final = (
    "this is encrypted, and the program has no keys: set PAYLOAD_KEYS as the workers have it. "
    "What was asked for may be under way; with the keys, ask again"
)
NOT_OPENED: Final = "is marked as encrypted, and is not what a key of PAYLOAD_KEYS encrypted"
SEVERAL: Final = b"several arguments"  # the encoding of an input that is none, see config.replay_guard
MAX_INPUT: Final = 64 * 1024  # bytes
MAX_DEPTH: Final = 20  # levels of nesting
MAX_LINES: Final = 100
MAX_UNITS: Final = 10_000  # of one product
MAX_CHARGES: Final = 20
ORDER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # no colon: ids of other runs are derived with one
IDS: Final = {
    "orderId",
    "order_id",
    "refundId",
    "refund_id",
    "customerId",
    "customer_id",
    "productId",
    "product_id",
}  # the shop mints them
PAYMENT_METHOD_IDS: Final = {"paymentMethodId", "payment_method_id"}
PAYMENT_METHOD: Final = r"^(pm|card)_[A-Za-z0-9_]{1,100}$"
PHONE: Final = re.compile(r"(\+ ?)?[0-9 ()./-]+( ?(x|ext\.?) ?[0-9]{1,6})?")
PHONE_DIGITS: Final = range(3, 22)  # fifteen (ITU-T E.164), and an extension
MAX_GIFT_MESSAGE: Final = 500  # characters
MAX_SHOWN: Final = 60  # characters of a name that the client chose
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
    "a valid tuple": "a list",
}


def _harmless(text: str) -> str:
    if is_harmful(text):
        raise ValueError("must not contain control characters, or any that turn the direction of text")
    return text


def _plain(text: str) -> str:
    if not is_visible(text):
        raise ValueError("must not be empty")
    if has_markup(_harmless(text)):
        raise ValueError("must not contain links or markup")
    return text


def blank_is_none(value: object) -> object:
    """A text of spaces counts as none."""
    return None if isinstance(value, str) and not value.strip() else value


def _email(text: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", _harmless(text)):
        raise ValueError("must be an e-mail address")
    return text


def _phone(text: str) -> str:
    if not PHONE.fullmatch(text) or sum(map(str.isdigit, text)) not in PHONE_DIGITS:
        raise ValueError("must be a telephone number, such as +1 415 555 0123")
    return text


def _known_currency(currency: str) -> str:
    if currency not in money.DECIMALS:
        raise ValueError(f"must be one of {', '.join(money.DECIMALS)}")
    return currency


def _known_country(country: str) -> str:
    if country not in REQUIRED:
        raise ValueError("must be a country code of ISO 3166-1, such as US")
    return country


def _number(value: object) -> object:
    return Decimal(value) if type(value) is int else value


def _countable(amount: Decimal) -> Decimal:
    if not money.is_countable(amount):
        raise ValueError(f"must be a number of at most {money.MAX_DIGITS} digits")
    return amount


Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=200), AfterValidator(_plain)]
OptionalText = Annotated[Text | None, BeforeValidator(blank_is_none)]
Message = Annotated[
    str, StringConstraints(strict=True, min_length=1, max_length=MAX_GIFT_MESSAGE), AfterValidator(_plain)
]
OptionalMessage = Annotated[Message | None, BeforeValidator(blank_is_none)]
Phone = Annotated[str, StringConstraints(strict=True, max_length=40), AfterValidator(_phone)]
OptionalPhone = Annotated[Phone | None, BeforeValidator(blank_is_none)]
Id = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Email = Annotated[str, StringConstraints(strict=True, max_length=254), AfterValidator(_email)]
PaymentMethod = Annotated[str, StringConstraints(strict=True, pattern=PAYMENT_METHOD)]
Country = Annotated[str, StringConstraints(strict=True, to_upper=True), AfterValidator(_known_country)]
Currency = Annotated[str, StringConstraints(strict=True, to_lower=True), AfterValidator(_known_currency)]
Units = Annotated[int, Field(strict=True, ge=1, le=MAX_UNITS)]
Amount = Annotated[Decimal, BeforeValidator(_number), Field(strict=True), AfterValidator(_countable)]
Price = Annotated[Amount, Field(ge=0)]
Reason = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=MAX_REASON), AfterValidator(_plain)]
OptionalReason = Annotated[Reason | None, BeforeValidator(blank_is_none)]


class Request(Model):
    model_config = ConfigDict(extra="forbid")


RequestT = TypeVar("RequestT", bound=Request)


class ItemRequest(Request):
    product_id: Id
    quantity: Units
    price: Price | None = None


class ChargeRequest(Request):
    """What an order costs beside its products. The amount of a discount is negative, of anything else positive."""

    type: ChargeType
    name: OptionalText = None  # what the customer reads, e.g. the code of a coupon
    amount: Amount

    @field_validator("amount")
    @classmethod
    def _has_its_sign(cls, amount: Decimal, info: ValidationInfo) -> Decimal:
        type_ = info.data.get("type")
        if type_ is ChargeType.DISCOUNT and amount > 0:
            raise ValueError("must not be above zero: it is a discount")
        if type_ not in (None, ChargeType.DISCOUNT) and amount < 0:
            raise ValueError("must not be below zero: only a discount is")
        return amount


class AddressRequest(Request):
    """Where a parcel goes. The country, which is validated first, decides which of the optional parts are required."""

    country: Country = "US"
    name: OptionalText = None  # the recipient's
    company: OptionalText = None
    street: Text
    street2: OptionalText = None
    city: OptionalText = Field(default=None, validate_default=True)
    state: OptionalText = Field(default=None, validate_default=True)
    zip: OptionalText = Field(default=None, validate_default=True)
    phone: OptionalPhone = None  # of the recipient, for the carrier

    @field_validator("city", "state", "zip")
    @classmethod
    def _is_there_if_required(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and is_required(str(info.field_name), info.data):
            raise ValueError(f"is required in {info.data['country']}")
        return value


class OrderRequest(Request):
    """The input of process-order."""

    customer_id: Id
    customer_email: Email
    # A list: of a tuple pydantic counts only the valid items.
    items: Annotated[list[ItemRequest], Field(min_length=1, max_length=MAX_LINES)]
    charges: Annotated[list[ChargeRequest], Field(default_factory=list, max_length=MAX_CHARGES)]
    payment_method_id: PaymentMethod | None = None
    shipping_address: AddressRequest
    priority: Priority = Priority.STANDARD
    gift_message: OptionalMessage = None
    currency: Currency = "usd"


class CancelRequest(Request):
    """The input of cancel-order; without an address no e-mail is sent."""

    order_id: str
    customer_email: Email | None = None


class PayRequest(Request):
    """The argument of the update `pay`: another payment method for an order that waits for one."""

    payment_method_id: PaymentMethod


class RefundLineRequest(Request):
    """Units that are refunded; `restock`: they go back into stock."""

    product_id: Id
    quantity: Units
    restock: Annotated[bool, Field(strict=True)] = False


class RefundChargeRequest(Request):
    """A part of what the order costs beside its products; a discount is nothing that was paid."""

    type: Literal["shipping", "tax", "fee"]
    amount: Annotated[Amount, Field(gt=0)]


class RefundRequest(Request):
    """The input of refund-order; without an address no e-mail is sent."""

    order_id: str
    refund_id: str
    lines: Annotated[list[RefundLineRequest], Field(default_factory=list, max_length=MAX_LINES)]
    charges: Annotated[list[RefundChargeRequest], Field(default_factory=list, max_length=MAX_CHARGES)]
    amount: Price | None = None
    reason: OptionalReason = None
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
    """JSON with exact numbers, and each name once in its object: another reader could take the other value.

    Raises:
        InvalidInput: the text is too large, is not JSON, or repeats a name.
    """
    encoded = as_utf8(text)
    if len(encoded) > MAX_INPUT:
        raise InvalidInput([f"input: must be at most {MAX_INPUT} bytes"])
    if not encoded.strip():
        raise InvalidInput(["input: must be JSON, but is empty"])
    try:
        return json.loads(
            encoded, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated_names
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidInput([f"input: must be JSON; at {place}: {error.msg}"]) from None
    except (ValueError, ArithmeticError, RecursionError):
        raise InvalidInput(["input: must be JSON, with every number in range"]) from None


def as_utf8(text: bytes | str) -> bytes:
    """The text without a byte order mark, which editors on Windows write, as they write UTF-16.

    Raises:
        InvalidInput: the bytes are neither UTF-8 nor UTF-16.
    """
    try:
        plain = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text
        return plain.removeprefix("\ufeff").encode()
    except UnicodeError:
        raise InvalidInput(["input: must be JSON in UTF-8"]) from None


def read_payload(raw: RawValue | None) -> object:
    """What a Temporal client sent as the workflow's input; None if it sent nothing.

    Raises:
        InvalidInput: the input is several arguments, too large, not JSON, or cannot be decrypted by any key.
        Unreadable: it is encrypted, and this program has no keys.
    """
    encoding = raw.payload.metadata.get("encoding") if raw else None
    if raw is None or encoding == b"binary/null":
        return None
    if encoding == SEVERAL:
        raise InvalidInput(["input: must be one argument, not several"])
    if encoding == SEALED:
        raise Unreadable(NO_KEYS)
    if encoding == UNOPENED:
        raise InvalidInput([f"input: {NOT_OPENED}"])
    if encoding != b"json/plain":
        raise InvalidInput(["input: must be JSON"])
    return read_json(raw.payload.data)


def came_sealed(raw: RawValue | None) -> bool:
    """Whether the input was encrypted when Temporal got it."""
    return raw is not None and SEALED_WITH in raw.payload.metadata


def parse_order(order_id: str, data: object) -> Order:
    """The order that `data` describes: amounts in minor units, each product once.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    problems = [*_order_id_problems(order_id), *_card_number_problems(data), *_payment_problems(data)]
    request = validate(OrderRequest, data, problems)
    lines, charges = _merge(request), _charges(request)
    return Order(
        id=order_id,
        customer_id=request.customer_id,
        customer_email=request.customer_email,
        payment_method_id=request.payment_method_id,
        currency=request.currency,
        lines=lines,
        charges=charges,
        shipping_address=Address(**request.shipping_address.model_dump()),
        priority=request.priority,
        gift_message=request.gift_message,
        request_hash=_fingerprint(request, lines, charges),
    )


def parse_cancel(data: object) -> CancelRequest:
    """The request to cancel that `data` describes.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    problems = _card_number_problems(data)
    if isinstance(data, Mapping) and isinstance(data.get("orderId"), str):
        problems += _order_id_problems(data["orderId"])
    return validate(CancelRequest, data, problems)


def parse_refund(data: object) -> Refund:
    """The refund of a part of an order that `data` describes: each product and each type of charge once.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    problems = _card_number_problems(data)
    if isinstance(data, Mapping):
        if isinstance(data.get("orderId"), str):
            problems += _order_id_problems(data["orderId"])
        if isinstance(data.get("refundId"), str):
            problems += _order_id_problems(data["refundId"], "refundId")
        if not any(data.get(part) for part in ("lines", "charges", "amount")):
            problems.append("amount: must be above zero, unless there are lines or charges")
    request = validate(RefundRequest, data, problems)
    return Refund(
        order_id=request.order_id,
        refund_id=request.refund_id,
        lines=_merge_refunded(request),
        charges=_sum_refunded(request),
        amount=request.amount,
        reason=request.reason,
        customer_email=request.customer_email,
    )


def parse_pay(*arguments: object) -> PayRequest:
    """The payment method that the arguments of a `pay` name.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    if len(arguments) != 1:
        raise InvalidInput([f"pay takes one object with paymentMethodId, not {len(arguments)} arguments"])
    return validate(PayRequest, arguments[0], _card_number_problems(arguments[0]))


def parse_customer(data: object) -> CustomerRequest:
    """The customer that `data` names.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    return validate(CustomerRequest, data, _card_number_problems(data))


def parse_restock(data: object) -> RestockRequest:
    """The units and the product that `data` names.

    Raises:
        InvalidInput: naming every field that is wrong.
    """
    return validate(RestockRequest, data, [])


def parse_nothing(data: object) -> None:
    """Accept `{}`, null, or no input.

    Raises:
        InvalidInput: naming every field that was sent.
    """
    validate(NoRequest, {} if data is None else data, [])


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


def validate(model: type[RequestT], data: object, problems: list[str]) -> RequestT:
    """The model of the data. Raises InvalidInput, with these problems and each that the model has with a field."""
    try:
        request = model.model_validate(data)
    except ValidationError as error:
        problems += problems_of(error)
    if problems:
        raise InvalidInput(problems)
    return request


def problems_of(error: ValidationError) -> list[str]:
    """Each problem with its field, without what was sent."""
    return [f"{_path(e['loc'])}: {_message(e['msg'])}" for e in error.errors(include_url=False, include_input=False)]


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


def _merge_refunded(request: RefundRequest) -> tuple[RefundLine, ...]:
    """The lines with each product once, in product order."""
    quantities: Counter[str] = Counter()
    restock: Counter[str] = Counter()
    for line in request.lines:
        quantities[line.product_id] += line.quantity
        restock[line.product_id] += line.quantity if line.restock else 0
    return tuple(
        RefundLine(product_id=product, quantity=quantities[product], restock=restock[product])
        for product in sorted(quantities)
    )


def _sum_refunded(request: RefundRequest) -> tuple[RefundCharge, ...]:
    """The charges with each type once. Their decimals are checked when the currency of the order is known."""
    sums: dict[ChargeType, Decimal] = {}
    for charge in request.charges:
        type_ = ChargeType(charge.type)
        sums[type_] = sums.get(type_, Decimal(0)) + charge.amount
    return tuple(RefundCharge(type=type_, amount=sums[type_]) for type_ in sorted(sums))


def _charges(request: OrderRequest) -> tuple[OrderCharge, ...]:
    """The charges in minor units, in the order in which the customer reads them."""
    return tuple(
        OrderCharge(
            type=each.type,
            name=each.name,
            amount=money.to_minor(each.amount, request.currency, f"charges[{index}].amount"),
        )
        for index, each in enumerate(request.charges)
    )


def _fingerprint(request: OrderRequest, lines: tuple[Line, ...], charges: tuple[OrderCharge, ...]) -> str:
    # Without defaults: a field that a later version adds does not change the hashes of earlier orders.
    asked = request.model_dump(mode="json", exclude={"items", "charges"}, exclude_defaults=True)
    meaning = asked | {"lines": [line.model_dump() for line in lines]}
    if charges:
        meaning["charges"] = [charge.model_dump() for charge in charges]
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()


def _order_id_problems(order_id: str, field: str = "orderId") -> list[str]:
    if not ORDER_ID.fullmatch(order_id):
        return [f"{field}: must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"]
    return []


def _payment_problems(data: object) -> list[str]:
    """An order without a discount cannot be free. Whether one with a discount is, the catalogue's prices decide."""
    if not isinstance(data, Mapping) or any(data.get(name) is not None for name in PAYMENT_METHOD_IDS):
        return []
    charges = data.get("charges")
    each_charge = charges if isinstance(charges, list) else []
    if any(isinstance(each, Mapping) and each.get("type") == ChargeType.DISCOUNT for each in each_charge):
        return []
    return ["paymentMethodId: is required, unless discounts make the order free"]


def _card_number_problems(data: object) -> list[str]:
    """Each field that holds a card number, which no request may; the number is not repeated."""
    return [
        f"{_path(path)}: looks like a card number; send ids only"
        for path, value in _leaves(data)
        if not _is_id(path, value) and has_card_number(value)
    ]


def _is_id(path: tuple[str | int, ...], value: str) -> bool:
    name = str(path[-1]) if path else ""
    return name in IDS or (name in PAYMENT_METHOD_IDS and bool(re.match(PAYMENT_METHOD, value)))


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


def _path(location: tuple[str | int, ...]) -> str:
    """`items[0].quantity`. The client chooses the names: they are cut, and escaped to ASCII."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{'…' if has_card_number(part) else part[:MAX_SHOWN]}"
    return path.removeprefix(".").encode("ascii", "backslashreplace").decode() or "input"


def _message(message: str) -> str:
    if message.startswith("Input should be a valid dictionary"):  # … or instance of a class of ours
        return "must be an object"
    for theirs, ours in MESSAGES.items():
        message = message.replace(theirs, ours)
    return message


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse_repeated_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    counts = Counter(name for name, _ in pairs)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise InvalidInput([f"{_path((name,))}: appears more than once in one object" for name in repeated])
    return dict(pairs)
