"""The page at /: what every external service has of each order, and forms that act on it.

The server renders all of it. The one script only tells when there is news, and remembers which orders are open.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, get_args
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sandbox.faults import Kind
from sandbox.overview import read_orders
from sandbox.scenarios import SCENARIOS, calls_of, title_of
from sandbox.world import World

if TYPE_CHECKING:
    from jinja2 import Environment

HERE: Final = Path(__file__).parent
SHOWN: Final = 20  # orders, until more are asked for
MAX_SHOWN: Final = 200
LATEST: Final = 50  # requests and alerts
ZERO_DECIMAL: Final = ("jpy",)
NO_JINJA2: Final = "The page needs jinja2, which this Python lacks: install requirements-local.txt. All else works.\n"

# No markup that a request smuggled in could load or send anything.
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


class Page:
    """`workflows`: the address of the workflows in Temporal's Web UI, to which an order's id is added; "": no links."""

    def __init__(self, world: World, workflows: str) -> None:
        self._world = world
        self._workflows = workflows.rstrip("/")

    def routes(self) -> list[Route]:
        return [Route("/", self.show), Route("/_sandbox/latest", self.latest)]

    async def show(self, request: Request) -> Response:
        return self.response(request.query_params, opened=request.query_params.getlist("open"))

    async def latest(self, _: Request) -> Response:
        """Return the id of the latest request, so that a page that is open knows whether there is news."""
        return JSONResponse({"latest": self._latest})

    def response(
        self, given: Mapping[str, str], problem: str = "", status: int = 200, opened: Iterable[str] = ()
    ) -> Response:
        """Render the page for the query that was given, with a problem at its top if there is one.

        Without jinja2 it is one line of text: the problem, or what to install.
        """
        if not self._templates:
            return PlainTextResponse(f"{problem}\n" if problem else NO_JINJA2, status if problem else 501)
        world, wanted = self._world, given.get("order", "").strip()
        shown = int(given.get("show", "")) if given.get("show", "").isdecimal() else SHOWN
        orders, found = read_orders(world, wanted, min(shown, MAX_SHOWN))
        html = self._templates.get_template("page.html").render(
            problem=problem,
            wanted=wanted,
            orders=orders,
            found=found,
            more=min(len(orders) + SHOWN, MAX_SHOWN) if len(orders) < min(found, MAX_SHOWN) else 0,
            opened={*opened, *(each.id for each in orders if each.id == wanted)},
            latest=self._latest,
            faults=world.faults.pending(),
            scenarios=SCENARIOS,
            services=world.faults.services,
            kinds=[kind for each in get_args(Kind) for kind in get_args(each) or (each,)],
            alerts=world.inbox.alerts[: -LATEST - 1 : -1],
            requests=[entry for _, entry in [*world.journal.lines.values()][: -LATEST - 1 : -1]],
            webhooks=world.webhook_sender,
        )
        return HTMLResponse(html, status, HEADERS)

    @cached_property
    def _templates(self) -> "Environment | None":
        """None: jinja2 is not installed, as in the image that deploy/compose.yaml starts."""
        try:
            from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 (the image lacks it)
        except ModuleNotFoundError:
            return None
        templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        templates.filters |= {"amount": amount, "clock": clock, "pretty": pretty, "compact": compact}
        templates.globals |= {"title_of": title_of, "calls_of": calls_of, "workflow_link": self._workflow_link}
        return templates

    @property
    def _latest(self) -> str:
        return next(reversed(self._world.journal.lines), "")

    def _workflow_link(self, order: str) -> str:
        return f"{self._workflows}/{quote(order, safe='')}" if self._workflows else ""


STATIC: Final = Mount("/static", StaticFiles(directory=HERE / "static"))


def amount(minor: int, currency: str) -> str:
    return f"{Decimal(minor).scaleb(0 if currency in ZERO_DECIMAL else -2)} {currency}"


def clock(at: str) -> str:
    """Show an ISO time to the second; with its date unless that is today."""
    if not at:
        return "earlier"
    time = datetime.fromisoformat(at)
    today = time.date() == datetime.now(UTC).date()
    return time.strftime("%H:%M:%S UTC" if today else "%Y-%m-%d %H:%M:%S UTC")


def compact(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def pretty(content: object) -> str:
    """Show JSON on several lines, and anything else as it is."""
    if isinstance(content, str):
        try:
            parsed = json.loads(content)
        except ValueError:
            return content
        return pretty(parsed) if isinstance(parsed, dict | list) else content
    return json.dumps(content, ensure_ascii=False, indent=2)
