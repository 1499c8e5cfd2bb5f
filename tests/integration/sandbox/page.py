"""The sandbox's page as a browser without JavaScript reads and uses it."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Final

import httpx

BROWSER: Final = {"Accept": "text/html"}
VOID: Final = ("meta", "link", "input", "br")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    children: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, with single spaces."""
        parts = (each if isinstance(each, str) else each.text for each in self.children)
        return " ".join(" ".join(parts).split())

    def all(self, tag: str = "", **attributes: str) -> "list[Element]":
        """Return the elements inside that have this tag and these attributes; `class_` is one of the classes."""
        found = []
        for each in self.children:
            if isinstance(each, Element):
                if tag in ("", each.tag) and all(each.has(name, value) for name, value in attributes.items()):
                    found.append(each)
                found += each.all(tag, **attributes)
        return found

    def one(self, tag: str = "", **attributes: str) -> "Element":
        (found,) = self.all(tag, **attributes)
        return found

    def has(self, name: str, value: str) -> bool:
        if name == "class_":
            return value in (self.attributes.get("class") or "").split()
        return self.attributes.get(name) == value


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag in (tag, "option"), f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """Parse a page whose elements are all closed."""
    parser = _Parser()
    parser.feed(html)
    (root,) = parser.open
    return root


@dataclass
class Browser:
    """One window: the address that it shows, and the page."""

    http: httpx.AsyncClient
    url: str = "/"
    page: Element = field(default_factory=lambda: Element("", {}))

    async def go(self, url: str) -> Element:
        answer = await self.http.get(url, headers=BROWSER)
        assert answer.status_code == 200, answer.text
        self.url, self.page = url, parse(answer.text)
        return self.page

    def order(self, order: str) -> Element:
        return self.page.one("details", **{"data-order": order})

    async def press(self, label: str, within: Element | None = None, **fields: str) -> httpx.Response:
        """Press the button with this label; `fields` are what is typed or chosen in its form. Follows the redirect."""
        forms = [form for form in (within or self.page).all("form") if label in _labels(form)]
        assert len(forms) == 1, f"{len(forms)} buttons: {label}"
        (form,) = forms
        data = _values(form)
        assert not fields.keys() - data.keys(), f"no such fields: {fields.keys() - data.keys()}"
        answer = await self.http.request(
            (form.attributes["method"] or "").upper(),
            form.attributes["action"] or "",
            data=data | fields,
            headers=BROWSER | {"Referer": f"{self.http.base_url}".rstrip("/") + self.url},
        )
        if answer.status_code == 303:
            await self.go(answer.headers["Location"].partition("#")[0])
        return answer


def _labels(form: Element) -> list[str | None]:
    return [button.attributes.get("aria-label") or button.text for button in form.all("button")]


def _values(form: Element) -> dict[str, str]:
    values = {each.attributes["name"] or "": each.attributes.get("value") or "" for each in form.all("input")}
    for select in form.all("select"):
        first = select.all("option")[0]
        values[select.attributes["name"] or ""] = first.attributes.get("value") or first.text
    return values
