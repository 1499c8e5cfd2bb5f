"""A catalogue as CSV: one line for each product in, or every problem with it by line and column; and out again."""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, BinaryIO, Final, NamedTuple, TextIO

from pydantic import AfterValidator, BeforeValidator, ConfigDict, StringConstraints

from orders import money
from orders.errors import InvalidInput
from orders.models import Model
from orders.parsing import Currency, Id, Request, Text, validate
from orders.plain_text import is_harmful
from orders.stock import MAX_STOCK

REQUIRED: Final = ("id", "name", "price", "currency")
OPTIONAL: Final = ("description", "reorder_level", "stock", "sold")
COLUMNS: Final = (*REQUIRED, *OPTIONAL)

MAX_PRODUCTS: Final = 1_000_000
MAX_LINE: Final = 64 * 1024  # bytes
MAX_DESCRIPTION: Final = 5_000  # characters
MAX_PROBLEMS: Final = 50  # that are named
OTHER_SEPARATORS: Final = {";": "semicolons", "\t": "tabs"}
UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")


def _amount(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,8}(\.[0-9]{1,4})?", text):
        raise ValueError("must be a number such as 29.99: a point, at most eight digits before it, no currency")
    return text


def _units(text: object) -> object:
    if not re.fullmatch(r"[0-9]{1,10}", str(text)) or int(str(text)) > MAX_STOCK:
        raise ValueError(f"must be a whole number from 0 to {MAX_STOCK}")
    return int(str(text))


def _units_sold(text: object) -> object:
    if not re.fullmatch(r"[0-9]{1,18}", str(text)):
        raise ValueError("must be the number of `catalogue export`, or empty")
    return int(str(text))


def _described(text: str) -> str:
    if is_harmful(text.replace("\n", "").replace("\r", "").replace("\t", "")):
        raise ValueError("must not contain control characters, or any that turn the direction of text")
    return text


Amount = Annotated[str, AfterValidator(_amount)]
UnitsInStock = Annotated[int, BeforeValidator(_units)]
UnitsSold = Annotated[int, BeforeValidator(_units_sold)]
Description = Annotated[str, StringConstraints(max_length=MAX_DESCRIPTION), AfterValidator(_described)]


class _Cells(Request):
    model_config = ConfigDict(alias_generator=None)  # as in the file

    id: Id
    name: Text
    price: Amount
    currency: Currency
    description: Description | None = None
    reorder_level: UnitsInStock | None = None
    stock: UnitsInStock | None = None
    sold: UnitsSold | None = None


class ProductLine(NamedTuple):
    """A product of the file, its price in minor units. What is None, the file leaves as it is.

    `sold` is never written: it tells how many units were sold when the file was exported.
    """

    line: int
    id: str
    name: str
    price: int
    currency: str
    description: str | None
    reorder_level: int | None
    stock: int | None
    sold: int | None


class FieldChange(Model):
    """One value of a product, before and after an import."""

    field: str
    before: str
    after: str


class ProductChange(Model):
    """What an import changes at one product; a new one has no fields here."""

    product_id: str
    line: int
    is_new: bool
    fields: tuple[FieldChange, ...]


class ImportReport(Model):
    """What an import did, or would do. `changes` has the first of them, in the order of the file.

    `counted` products exist, and get the stock of a line that does not tell how many units were sold by then.
    """

    applied: bool
    created: int
    changed: int
    unchanged: int
    counted: int
    changes: tuple[ProductChange, ...]


def read_catalogue(file: BinaryIO) -> list[ProductLine]:
    """Every product of the file.

    Raises:
        InvalidInput: naming line and column of each problem; nothing of the file can be used.
    """
    problems: list[str] = []
    found: list[ProductLine] = []
    seen: dict[str, int] = {}
    for line, cells in _records(file, problems):
        try:
            product = _product(line, cells)
        except InvalidInput as error:
            problems += error.problems
            continue
        first = seen.setdefault(product.id, line)
        if first != line:
            problems.append(f"line {line}, id: {product.id} is on line {first} already")
        found.append(product)
        if len(found) > MAX_PRODUCTS:
            raise InvalidInput([f"line {line}: a file has at most {MAX_PRODUCTS} products: split it"])
    if problems:
        raise InvalidInput(_first(problems))
    if not found:
        raise InvalidInput(["the file has no product below its header"])
    return found


def write_catalogue(products: Iterable[Mapping[str, Any]], file: TextIO) -> None:
    """The catalogue in the form that `read_catalogue` reads.

    Raises:
        InvalidInput: a product has a currency that is none of ours, so its price has no decimals.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for each in products:
        if each["currency"] not in money.DECIMALS:
            raise InvalidInput([f"product {each['id']} has the currency {each['currency']}: correct its row"])
        price = money.to_decimal(each["price"], each["currency"])
        writer.writerow([price if name == "price" else each[name] for name in COLUMNS])


def _price(amount: str, currency: str) -> int:
    """In minor units. Raises InvalidInput."""
    price = money.to_minor(Decimal(amount), currency, "price")
    if not 0 < price <= money.MAX_AMOUNT:
        raise InvalidInput([f"price: must be from 1 to {money.MAX_AMOUNT} minor units"])
    return price


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - MAX_PROBLEMS
    return problems if more <= 0 else [*problems[:MAX_PROBLEMS], f"and {more} more problems"]


def _records(file: BinaryIO, problems: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The records below the header, each with the number of its first line. Raises InvalidInput."""
    reader = csv.reader(_text(file), strict=True)
    try:
        header = _header(next(reader, []))
        begins = reader.line_num + 1
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if len(cells) == len(header):
                yield line, {name: cell.strip() for name, cell in zip(header, cells, strict=True) if cell.strip()}
            elif cells:
                problems.append(
                    f"line {line}: has {len(cells)} cells, but the header has {len(header)}: a cell with a comma in it "
                    'must be in quotation marks, as "12,5"'
                )
    except csv.Error as error:
        raise InvalidInput(_first([*problems, f"line {reader.line_num}: is not CSV: {error}"])) from None


def _text(file: BinaryIO) -> Iterator[str]:
    """The lines of the file. Raises InvalidInput, naming the line."""
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if number == 1 and raw.startswith(UTF_16):
            raise InvalidInput(["line 1: the file is UTF-16: save it as CSV in UTF-8"])
        if len(raw) > MAX_LINE:
            raise InvalidInput([f"line {number}: is longer than {MAX_LINE} bytes"])
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise InvalidInput([f"line {number}: is not UTF-8: save the file as CSV in UTF-8"]) from None


def _header(cells: list[str]) -> list[str]:
    """The names of the columns. Raises InvalidInput."""
    names = [cell.strip() for cell in cells]
    for separator, name in OTHER_SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise InvalidInput([f"line 1: the columns are separated by {name}: save the file with commas"])
    problems = [f"line 1: the column {name} is missing" for name in REQUIRED if name not in names]
    problems += [f"line 1: the column {name} is there twice" for name in COLUMNS if names.count(name) > 1]
    problems += [
        f"line 1: the column {name[:30]!a} is not known; the columns are {', '.join(COLUMNS)}"
        for name in names
        if name not in COLUMNS
    ]
    if problems:
        raise InvalidInput(problems)
    return names


def _product(line: int, cells: dict[str, str]) -> ProductLine:
    try:
        given = validate(_Cells, cells, [])
        price = _price(given.price, given.currency)
    except InvalidInput as error:
        raise InvalidInput([f"line {line}, {problem}" for problem in error.problems]) from None
    cells_left = (given.description, given.reorder_level, given.stock, given.sold)
    return ProductLine(line, given.id, given.name, price, given.currency, *cells_left)
