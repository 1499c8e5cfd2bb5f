"""The demo: a cast of orders on the local stack, one for each thing that orders meet; the books; and the shelves.

It may be played again and again on the same data.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import httpx
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError

from audit.evidence import DatabaseSnapshot, Evidence, ProviderRecords, read_runs, read_snapshot
from audit.invariants import RULES, describe, violations
from client.links import workflow_link
from client.orders import cancel_order, submit_order
from client.runs import view_run
from config.settings import SANDBOX_STRIPE_KEY, Settings
from deploy.local.demo_products import ShelvesReport, look_at_shelves
from orders.errors import InvalidInput, NoAnswer, OrderError
from orders.models import Model, OrderOutcome, Stage
from orders.verification import Violation

PATIENCE: Final = 45  # seconds for one order of the cast, and for the last notifications to be delivered
LOOK_AGAIN: Final = 0.2

# What is used up by playing again and again comes back: product 1 to 4, when one is low.
RESTOCK: Final = """
    UPDATE inventory SET quantity = quantity + 100 WHERE product_id IN ('1', '2', '3', '4') AND quantity < 10
    RETURNING product_name
"""

CUSTOMER: Final = "cus_123"

Payload = dict[str, Any]


@dataclass
class Part:
    """One order of the cast. `got` is what became of it, `stage` where it stands until then."""

    order_id: str
    story: str
    expected: str
    act: Callable[["Play", str], Awaitable[str]]
    got: str = ""
    stage: Stage | None = None
    seconds: float = 0

    @property
    def passed(self) -> bool:
        return self.got == self.expected


class PartReport(Model):
    order_id: str
    story: str
    expected: str
    got: str
    link: str


class Report(Model):
    """How the demo went. `order_seconds` is what a plain order took, from submit to outcome."""

    parts: tuple[PartReport, ...]
    order_seconds: float
    violations: tuple[Violation, ...]
    shelves: ShelvesReport
    passed: bool


async def play(client: Client, settings: Settings, console: Console) -> Report:
    """Play the cast, with live progress on the console.

    Raises:
        InvalidInput: the settings do not name the sandbox.
        NoAnswer: a part of the stack is out of reach.
    """

    def link(workflow_id: str) -> str:
        return workflow_link(settings.temporal_ui_url, client.namespace, workflow_id)

    run = secrets.token_hex(2)
    async with _stack(settings) as (http, database):
        if restocked := await database.fetch(RESTOCK):
            console.print(f"Low on stock, 100 more of: {', '.join(row['product_name'] for row in restocked)}.\n")
        before = await read_snapshot(database, [])
        cast = a_cast(run)
        await Play(client, http).run(cast, console, link)
        orders = [part.order_id for part in cast]
        snapshot = await read_snapshot(database, orders)
        books = ProviderRecords.model_validate((await http.get("/_sandbox/records")).json())
        found = violations(Evidence(snapshot, books, before.units, await read_runs(client, orders)))
    if not console.is_terminal:
        console.print()  # where nothing is live, the table ends without an end of line
    console.print(_verdict(found, snapshot))
    console.print(f"\nThe plain order took {cast[0].seconds:.2f} s from submit to outcome.")
    shelves = await look_at_shelves(client, run, CUSTOMER, console, link)
    return Report(
        parts=tuple(_report(part, link(part.order_id)) for part in cast),
        order_seconds=cast[0].seconds,
        violations=tuple(found),
        shelves=shelves,
        passed=not found and all(part.passed for part in cast) and shelves.passed,
    )


def a_cast(run: str) -> list[Part]:
    """The orders of one demo, which `run` tells from those of all others."""

    def part(name: str, story: str, expected: str, act: Callable[["Play", str], Awaitable[str]]) -> Part:
        return Part(f"demo-{run}-{name}", story, expected, act)

    return [
        part("plain", "a plain order", "placed", plain),
        part("stock", "more units than there are", "out_of_stock", more_than_there_is),
        part("declined", "the card is declined", "card_declined", declined),
        part("3ds", "the customer must authenticate the payment, and does", "placed", authenticated),
        part("refused", "the warehouse refuses the address, after the authorization", "fulfillment_refused", refused),
        part("halfway", "cancelled half-way, while the customer is to authenticate", "cancelled", cancelled_halfway),
        part("returned", "cancelled after it was paid", "cancelled, refunded", cancelled_when_paid),
        part("thrice", "submitted three times at once", "placed once", submitted_thrice),
    ]


def an_order(**changes: object) -> Payload:
    return {
        "customerId": CUSTOMER,
        "customerEmail": "customer@example.com",
        "items": [{"productId": "1", "quantity": 2, "price": 29.99}],
        "paymentMethodId": "pm_123",
        "shippingAddress": {"street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"},
        **changes,
    }


class Play:
    """What the acts do: as the shop's program, and as the customer in front of the bank's page."""

    def __init__(self, client: Client, http: httpx.AsyncClient) -> None:
        self.client = client
        self._http = http

    async def run(self, cast: list[Part], console: Console, link: Callable[[str], str]) -> None:
        """The plain order first and alone, so that its time is its own; then all the others together."""
        spinner = Spinner("dots")
        with Live(console=console, get_renderable=lambda: _table(cast, link, spinner), refresh_per_second=8):
            plain_order, *others = cast
            await self._act(plain_order)
            await asyncio.gather(*map(self._act, others))
        await self._settle(cast)

    async def submit(self, order_id: str, **changes: object) -> OrderOutcome:
        return await submit_order(self.client, order_id, an_order(**changes))

    async def until_the_customer_is_asked(self, order_id: str, order: asyncio.Task[OrderOutcome]) -> str | None:
        """The PaymentIntent that the customer is to authenticate; None if the order ended before."""
        while not order.done():
            view = await view_run(self.client, order_id)
            if view and view.stage is Stage.AWAITING_CUSTOMER and (intent := getattr(view, "payment_intent", None)):
                return str(intent)
            await asyncio.sleep(LOOK_AGAIN)
        return None

    async def authenticate(self, payment_intent: str) -> None:
        """The customer passes the bank's page; the shop hears of it from Stripe."""
        answer = await self._http.post(f"/_sandbox/authenticate/{payment_intent}", json={"outcome": "succeed"})
        answer.raise_for_status()

    async def _act(self, part: Part) -> None:
        watching = asyncio.create_task(self._watch(part))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE):
                part.got = await part.act(self, part.order_id)
        except TimeoutError:
            part.got = f"nothing within {PATIENCE} s"
        except NoAnswer:
            raise
        except (OrderError, httpx.HTTPError) as error:
            part.got = str(error)
        finally:
            part.seconds = time.perf_counter() - started
            watching.cancel()

    async def _watch(self, part: Part) -> None:
        while True:
            if view := await view_run(self.client, part.order_id):
                part.stage = view.stage
            await asyncio.sleep(LOOK_AGAIN)

    async def _settle(self, cast: list[Part]) -> None:
        """Wait for the last notifications; the outcomes were answered before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for part in cast:
                    with suppress(WorkflowFailureError):
                        await self.client.get_workflow_handle(part.order_id).result()


# --------------------------------------------------------------------------------------------------------------- acts


async def plain(on: Play, order_id: str) -> str:
    return _answer(await on.submit(order_id))


async def more_than_there_is(on: Play, order_id: str) -> str:
    return _answer(await on.submit(order_id, items=[{"productId": "5", "quantity": 2}]))


async def declined(on: Play, order_id: str) -> str:
    return _answer(await on.submit(order_id, paymentMethodId="pm_card_chargeDeclined"))


async def authenticated(on: Play, order_id: str) -> str:
    order = asyncio.create_task(on.submit(order_id, paymentMethodId="pm_card_threeDSecure2Required"))
    if payment_intent := await on.until_the_customer_is_asked(order_id, order):
        await on.authenticate(payment_intent)
    return _answer(await order)


async def refused(on: Play, order_id: str) -> str:
    address = {"street": "1 Refuse Road", "city": "San Francisco", "state": "CA", "zip": "94102"}
    return _answer(await on.submit(order_id, shippingAddress=address))


async def cancelled_halfway(on: Play, order_id: str) -> str:
    order = asyncio.create_task(on.submit(order_id, paymentMethodId="pm_card_threeDSecure2Required"))
    await on.until_the_customer_is_asked(order_id, order)
    cancelled = await cancel_order(on.client, order_id)
    return _answer(await order) if cancelled.cancelled else f"not cancelled: {cancelled.reason}"


async def cancelled_when_paid(on: Play, order_id: str) -> str:
    if not (order := await on.submit(order_id, items=[{"productId": "2", "quantity": 1, "price": 89.00}])).success:
        return _answer(order)
    cancelled = await cancel_order(on.client, order_id, "customer@example.com")
    money = "refunded" if cancelled.refunded else cancelled.reason
    return f"{'cancelled' if cancelled.cancelled else 'not cancelled'}, {money}"


async def submitted_thrice(on: Play, order_id: str) -> str:
    answers = await asyncio.gather(*(on.submit(order_id) for _ in range(3)))
    one = all(answer == answers[0] for answer in answers)
    return f"{_answer(answers[0])} once" if one else ", ".join(map(_answer, answers))


def _answer(outcome: OrderOutcome) -> str:
    return "placed" if outcome.success else outcome.error_code or "not placed"


# --------------------------------------------------------------------------------------------------------------- shows


def _table(cast: list[Part], link: Callable[[str], str], spinner: RenderableType) -> Table:
    table = Table("", "order", "expected", "got", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for part in cast:
        name = Group(part.story, Text(link(part.order_id), style="dim", overflow="fold"))
        table.add_row(_mark(part, spinner), name, part.expected, _state(part))
    return table


def _mark(part: Part, spinner: RenderableType) -> RenderableType:
    if part.got:
        return Text("✓", "green") if part.passed else Text("✗", "red")
    return spinner if part.stage else ""


def _state(part: Part) -> Text:
    if part.got:
        return Text(part.got, "" if part.passed else "red")
    return Text(part.stage.replace("_", " ") if part.stage else "", "dim")


def _verdict(found: list[Violation], snapshot: DatabaseSnapshot) -> Table:
    table = Table(
        "",
        f"\nstock and money of these {len(snapshot.orders)} orders, by Postgres and the sandbox's books",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for rule in RULES:
        broken = [f"\n{each.subject}: {each.what}" for each in found if each.rule == rule.__name__]
        table.add_row(Text("✗", "red") if broken else Text("✓", "green"), "".join((describe(rule), *broken)))
    return table


def _report(part: Part, link: str) -> PartReport:
    return PartReport(order_id=part.order_id, story=part.story, expected=part.expected, got=part.got, link=link)


@asynccontextmanager
async def _stack(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, "asyncpg.Connection[asyncpg.Record]"]]:
    """The sandbox and the database of the local stack."""
    if settings.stripe_secret_key.get_secret_value() != SANDBOX_STRIPE_KEY:
        raise InvalidInput(["STRIPE_SECRET_KEY: the demo is for the sandbox alone"])
    async with httpx.AsyncClient(base_url=settings.stripe_base.removesuffix("/stripe"), trust_env=False) as http:
        try:
            (await http.get("/_sandbox/health")).raise_for_status()
            database = await asyncpg.connect(settings.database_url.get_secret_value())
        except (httpx.HTTPError, OSError, asyncpg.PostgresError) as error:
            raise NoAnswer(
                f"the local stack is out of reach ({type(error).__name__}): start it with `make up`"
            ) from None
        try:
            yield http, database
        finally:
            await database.close()
