"""Addresses of the world: what each country requires, and texts in any language; harmful texts are refused."""
# ruff: noqa: RUF001 (texts of other languages)

import json
from typing import Any

import pytest

from orders.errors import InvalidInput
from orders.models import Address
from orders.parsing import parse_order, read_json
from orders.plain_text import is_visible
from tests.support.shop import an_order

ADDRESS = an_order()["shippingAddress"]


def parse(address: dict[str, Any]) -> Address:
    return parse_order("o1", read_json(json.dumps(an_order(shippingAddress=address)))).shipping_address


def refused(address: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as refusal:
        parse(address)
    return refusal.value.problems


NAMES = (
    "Łódź '; DROP TABLE orders; -- 🏠",
    "{{7*7}} ${HOME} %s",
    "נתב״ג \u200fטרמינל 3",
    "شارع الملك فهد\u200c٢",
    "นางสาวสมหญิง",
    "東京都渋谷区神宮前１−２−３",
    "葛\U000e0100城市",
    "नई दिल्ली",
    "Nguyễn Thị Ánh",
    "O’Brien-Smythe & Söhne #4/5",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 👩🏽‍🚀",
    "\U0001fae8 \U0001fae9 \U0001face",  # emoji of Unicode 15, 16 and 17
    "a < b > c <3",
    "Amazon.com Locker",
)


@pytest.mark.parametrize("text", NAMES)
def test_texts_of_any_language(text: str) -> None:
    """They are kept unchanged; what shows them must escape them."""
    parts = ("name", "company", "street", "street2", "city", "state", "zip")
    address = dict.fromkeys(parts, text) | {"country": "US", "phone": "+1 415 555 0123"}
    assert parse(address).model_dump() == address


HARMFUL = {
    "a control character": "a\x07b",
    "a line break": "a\nb",
    "a line separator": "a\u2028b",
    "the direction turned": "a\u202eb",
    "the direction isolated": "a\u2067b",
    "invisible text": "a\U000e0068\U000e0069",
    "invisible text after a flag": "🏴\U000e0067\U000e0062\U000e007f\U000e0069",
    "half a character": "\ud83d",
    "a tag": "<b>x</b>",
    "an end tag": "x</td>",
    "a comment": "<!-- x -->",
    "a wide tag": "＜script＞",
    "a link": "see https://evil.example",
    "a link without a scheme": "WWW.evil.example",
    "a link in markdown": "[x](y)",
    "nothing": "",
    "blanks": " \u3000",
    "nothing that can be seen": "\u200b\u2060",
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL)
def test_texts_that_are_refused(text: str) -> None:
    """In every part of an address."""
    parts = {each: refused(ADDRESS | {each: text}) for each in ADDRESS}
    if is_visible(text):
        parts |= {each: refused(ADDRESS | {each: text}) for each in ("name", "company", "street2", "phone")}
    for part, problems in parts.items():
        assert problems[0].startswith(f"shippingAddress.{part}: "), problems


# As the postal services of the countries write them.
ADDRESSES: dict[str, dict[str, str]] = {
    "DE": {"street": "Marienplatz 1", "city": "München", "zip": "80331"},
    "GB": {"street": "10 Downing St", "city": "London", "zip": "SW1A 2AA"},
    "IE": {"street": "1 O’Connell St", "city": "Dublin"},
    "HK": {"street": "1 Queen’s Road", "city": "Central"},
    "AE": {"street": "Sheikh Zayed Road", "state": "Dubai"},
    "SG": {"street": "1 Raffles Place", "zip": "048616"},
    "JP": {"street": "神宮前1-2-3", "state": "東京都", "zip": "150-0001"},
    "AR": {"street": "Av. Corrientes 1", "city": "Buenos Aires"},
    "JM": {"street": "1 King St", "city": "Kingston", "state": "Kingston"},
    "US": {"street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"},
    "MO": {"street": "Avenida da Praia Grande 1"},
}


@pytest.mark.parametrize("country", ADDRESSES)
def test_an_address_needs_what_its_country_requires(country: str) -> None:
    """No more, and every part of it; a part that is empty or null is not there."""
    whole = ADDRESSES[country]
    address = parse(whole | {"country": country.lower(), "name": "A", "street2": ""})
    assert address.model_dump(exclude_none=True) == whole | {"country": country, "name": "A"}
    for part in whole.keys() - {"street"}:
        for nothing in ("", " ", None):
            problems = refused(whole | {"country": country, part: nothing})
            named = {problem.split(":")[0] for problem in problems}
            assert named == {f"shippingAddress.{part if country != 'HK' else 'state'}"}


@pytest.mark.parametrize("country", ["UK", "XX", "USA", "", "Germany", "ＵＳ"])
def test_a_country_that_is_none(country: str) -> None:
    """The problem says what to write; nothing else can be said of the address."""
    (problem,) = refused(ADDRESS | {"country": country, "state": None})
    assert problem == "shippingAddress.country: must be a country code of ISO 3166-1, such as US"


PHONES = ("+1 415 555 0123", "(415) 555-0123", "+49 (0)30/901820", "415.555.0123 x12", "0123 ext. 4", "112")


@pytest.mark.parametrize("phone", PHONES)
def test_a_telephone_number(phone: str) -> None:
    """It is kept as it was written."""
    assert parse(ADDRESS | {"phone": phone}).phone == phone


@pytest.mark.parametrize(
    "phone", ["call me", "12", "+", "٠١٢٣٤٥", "1" * 22, "0" + " " * 40 + "12", "+1+2+3", 4155550123]
)
def test_a_telephone_number_that_is_none(phone: Any) -> None:
    """The problem says how one looks."""
    (problem,) = refused(ADDRESS | {"phone": phone})
    assert problem.startswith("shippingAddress.phone: must ")
