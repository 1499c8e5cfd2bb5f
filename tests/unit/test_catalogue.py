"""A catalogue as CSV: what is read of it exactly, and every problem by line and column."""

import io
from decimal import Decimal

import pytest

from orders.catalogue import MAX_PROBLEMS, read_catalogue, write_catalogue
from orders.errors import InvalidInput

HEADER = "id,name,price,currency,description,reorder_level,stock"
EXPORTED = f"{HEADER},sold"


def problems(content: str | bytes) -> list[str]:
    with pytest.raises(InvalidInput) as refusal:
        read_catalogue(io.BytesIO(content if isinstance(content, bytes) else content.encode()))
    return list(refusal.value.problems)


def test_everything_is_read_exactly() -> None:
    """Prices to the last digit, names in any script, a cell over two lines; what is empty stays as it is."""
    text = (
        f'{HEADER}\r\n1,"Größe ""L"", 日本",29.99,USD,"two\nlines",10,100\r\n\r\n  2 , Mug ,1500,jpy,,,\r\n'
        "3,Pen,0.07,eur,,0,0\r\n"
    )
    first, second, third = read_catalogue(io.BytesIO(b"\xef\xbb\xbf" + text.encode()))
    assert first == (2, "1", 'Größe "L", 日本', 2999, "usd", "two\nlines", 10, 100, None)
    assert second == (5, "2", "Mug", 1500, "jpy", None, None, None, None)
    assert third == (6, "3", "Pen", 7, "eur", None, 0, 0, None)


def test_columns_in_any_order() -> None:
    """Only four are needed."""
    (product,) = read_catalogue(io.BytesIO(b"price,currency,name,id\n1.5,usd,Pen,a.b_c-1"))
    assert product == (2, "a.b_c-1", "Pen", 150, "usd", None, None, None, None)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1,Pen,1.999,usd,,,", "line 2, price: usd has 2 decimals"),
        ("1,Pen,0.5,jpy,,,", "line 2, price: jpy has 0 decimals"),
        ("1,Pen,0.00,usd,,,", "line 2, price: must be from 1 to 99999999 minor units"),
        ("1,Pen,1000000,usd,,,", "line 2, price: must be at most 999999.99 usd"),
        ("1,Pen,-1,usd,,,", "line 2, price: must be a number such as 29.99"),
        ("1,Pen,1e3,usd,,,", "line 2, price: must be a number such as 29.99"),
        ("1,Pen,NaN,usd,,,", "line 2, price: must be a number such as 29.99"),
        ("1,Pen,$5,usd,,,", "line 2, price: must be a number such as 29.99"),
        ('1,Pen,"29,99",usd,,,', "line 2, price: must be a number such as 29.99"),
        ("1,Pen,\u0661,usd,,,", "line 2, price: must be a number such as 29.99"),
        (f"1,Pen,{'9' * 400},usd,,,", "line 2, price: must be a number such as 29.99"),
        ("1,Pen,29,99,usd,,,", "line 2: has 8 cells, but the header has 7: a cell with a comma"),
        ("1,Pen", "line 2: has 2 cells, but the header has 7"),
        ("1,,5,usd,,,", "line 2, name: is required"),
        ("1,<b>Pen</b>,5,usd,,,", "line 2, name: must not contain links or markup"),
        ("1,Pen\u202eneP,5,usd,,,", "line 2, name: must not contain control characters"),
        ("1,Pen,5,usd,\x1b[2J,,", "line 2, description: must not contain control characters"),
        ("1,Pen,5,usd," + "x" * 5001 + ",,", "line 2, description: must have at most 5000 characters"),
        ("a b,Pen,5,usd,,,", "line 2, id: must match pattern"),
        (f"{'x' * 65},Pen,5,usd,,,", "line 2, id: must match pattern"),
        ("1,Pen,5,kwd,,,", "line 2, currency: must be one of aud, "),
        ("1,Pen,5,usd,,-1,", "line 2, reorder_level: must be a whole number from 0 to 1000000000"),
        ("1,Pen,5,usd,,1.0,", "line 2, reorder_level: must be a whole number"),
        ("1,Pen,5,usd,,,1000000001", "line 2, stock: must be a whole number from 0 to 1000000000"),
        ("1,Pen,5,usd,,,ten", "line 2, stock: must be a whole number"),
        ('1,"Pen,5,usd,,,', "line 2: is not CSV: unexpected end of data"),
        ('1,"Pen"s,5,usd,,,', "line 2: is not CSV: "),
        ("", "the file has no product below its header"),
    ],
)
def test_a_bad_line_is_named(line: str, problem: str) -> None:
    """With its column."""
    (said,) = problems(f"{HEADER}\n{line}\n")
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "line 1: the column id is missing"),
        (
            b"id;name;price;currency\n1;Pen;5;usd\n",
            "line 1: the columns are separated by semicolons: save the file with",
        ),
        (b"id\tname\tprice\tcurrency\n", "line 1: the columns are separated by tabs"),
        (b"id,name,price,currency,Stock\n", "line 1: the column 'Stock' is not known; the columns are id, name, price"),
        (b"id,name,price,currency,id\n", "line 1: the column id is there twice"),
        ("id,name,price,currency\n".encode("utf-16"), "line 1: the file is UTF-16: save it as CSV in UTF-8"),
        (f"{HEADER}\n1,Größe,5,usd,,,\n".encode("latin-1"), "line 2: is not UTF-8: save the file as CSV in UTF-8"),
        (b"id,name,price,currency\n" + b"x" * 70_000, "line 2: is longer than 65536 bytes"),
    ],
)
def test_another_file_is_told_what_it_is(content: bytes, problem: str) -> None:
    """Semicolons, another encoding, other columns: the first line says it."""
    assert problems(content)[0].startswith(problem)


def test_what_was_sold_is_a_number() -> None:
    """Of the export."""
    with pytest.raises(InvalidInput, match="line 2, sold: must be the number of `catalogue export`, or empty"):
        read_catalogue(io.BytesIO(f"{EXPORTED}\n1,Pen,5,usd,,,1,-1\n".encode()))


def test_every_problem_is_named_up_to_a_limit() -> None:
    """A product that comes twice too; a file of another kind does not fill the terminal."""
    said = problems(f"{HEADER}\n1,Pen,5,usd,,,\n2,Mug,5.555,usd,,,\n1,Pen,6,usd,,x,\n1,Pen,7,usd,,,\n")
    assert [each.partition(":")[0] for each in said] == ["line 3, price", "line 4, reorder_level", "line 5, id"]
    assert said[2].endswith("1 is on line 2 already")
    many = problems(HEADER + "\n1,Pen,x,usd,,," * (MAX_PROBLEMS + 7))
    assert (len(many), many[-1]) == (MAX_PROBLEMS + 1, "and 7 more problems")


def test_what_is_written_is_read_again() -> None:
    """Exactly."""
    row = {"id": "1", "name": 'a "b", c', "price": 7, "currency": "usd", "description": "x\ny"}
    file = io.StringIO()
    write_catalogue([row | {"reorder_level": 3, "stock": 9, "sold": 4}], file)
    (product,) = read_catalogue(io.BytesIO(file.getvalue().encode()))
    assert product == (2, "1", 'a "b", c', 7, "usd", "x\ny", 3, 9, 4)
    with pytest.raises(InvalidInput, match="has the currency kwd"):
        write_catalogue([row | {"price": Decimal(1), "currency": "kwd"}], file)
