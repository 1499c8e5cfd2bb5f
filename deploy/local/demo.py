"""The demo: orders with different outcomes on the local stack, the invariants, low stock and recommendations.

It needs a worker with PAYMENT_RETRY_SECONDS, which `make demo` starts. It can run any number of times on the same data.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import httpx
from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text
from temporalio.client import Client, WorkflowFailureError

from app.cli.layout import Row, table
from audit.evidence import DatabaseSnapshot, Evidence, ProviderRecords, read_runs, read_snapshot
from audit.invariants import RULES_ABOUT, Rule, describe, violations
from client.orders import cancel_order, pay_order, refund_order, submit_order
from client.runs import view_run
from config.links import workflow_link
from config.settings import SANDBOX_STRIPE_KEY, Settings
from deploy.local.demo_products import ProductsReport, show_products
from orders.errors import InvalidInput, NoAnswer, OrderError
from orders.models import Model, OrderOutcome, Stage
from orders.verification import Violation

TIMEOUT: Final = 45  # seconds, for one order and for the delivery of the last notifications
POLL_INTERVAL: Final = 0.2  # seconds

# Repeated demos use up the stock of products 1 to 4. Product 5 keeps one unit: an order for two must be refused.
RESTOCK: Final = """
    UPDATE inventory SET quantity = quantity + 100 WHERE product_id IN ('1', '2', '3', '4') AND quantity < 10
    RETURNING product_name
"""

CUSTOMER: Final = "cus_123"
TRACKED: Final = {"carrier": "UPS", "tracking": "1Z999AA10123456784"}
DECLINED: Final = "pm_card_chargeDeclined"

Payload = dict[str, Any]


@dataclass
class DemoOrder:
    """One order of the demo, placed by `act`. `stage` is where it is until `got` is its outcome."""

    order_id: str
    title: str
    expected: str
    act: Callable[["Demo", str], Awaitable[str]]
    got: str = ""
    stage: Stage | None = None
    seconds: float = 0

    @property
    def passed(self) -> bool:
        return self.got == self.expected


class OrderReport(Model):
    order_id: str
    title: str
    expected: str
    got: str
    link: str


class Report(Model):
    """The results of the demo. `order_seconds` is the time of the plain order, from submit to outcome."""

    orders: tuple[OrderReport, ...]
    order_seconds: float
    violations: tuple[Violation, ...]
    products: ProductsReport
    passed: bool


async def run_demo(client: Client, settings: Settings, console: Console, *, verbose: bool = False) -> Report:
    """Run all parts of the demo, with live progress on the console; `verbose` shows every invariant by its text.

    Raises:
        InvalidInput: the settings do not name the sandbox.
        NoAnswer: a part of the stack is unreachable.
    """

    def link(workflow_id: str) -> str:
        return workflow_link(settings.temporal_ui_url, client.namespace, workflow_id)

    run = secrets.token_hex(2)
    async with _stack(settings) as (http, database):
        if restocked := await database.fetch(RESTOCK):
            names = ", ".join(row["product_name"] for row in restocked)
            console.print(f"Stock was low after earlier demos. Added 100 units of: {names}.\n")
        before = await read_snapshot(database, [])
        orders = demo_orders(run)
        await Demo(client, http, database).run(orders, console, link)
        ids = [order.order_id for order in orders]
        snapshot = await read_snapshot(database, ids)
        records = ProviderRecords.model_validate((await http.get("/_sandbox/records")).json())
        found = violations(Evidence(snapshot, records, before.units, await read_runs(client, ids)))
    console.print(_verdict(found, snapshot, verbose=verbose))
    console.print(f"\nThe plain order took {orders[0].seconds:.2f} s from submit to outcome.")
    products = await show_products(client, run, CUSTOMER, console, link)
    return Report(
        orders=tuple(_report(order, link(order.order_id)) for order in orders),
        order_seconds=orders[0].seconds,
        violations=tuple(found),
        products=products,
        passed=not found and all(order.passed for order in orders) and products.passed,
    )


def demo_orders(run: str) -> list[DemoOrder]:
    """Return the orders of one demo; `run` makes their ids unique."""

    def order(name: str, title: str, expected: str, act: Callable[["Demo", str], Awaitable[str]]) -> DemoOrder:
        return DemoOrder(f"demo-{run}-{name}", title, expected, act)

    return [
        order("plain", "a plain order", "placed", plain),
        order("charges", "with shipping, tax and a discount", "placed, for 63.31 usd", with_charges),
        order("free", "a voucher pays for all of it", "placed, nothing to pay", free),
        order("stock", "more units than are in stock", "out_of_stock", more_than_in_stock),
        order("declined", "the card is declined, and the customer gives up", "payment_required, cancelled", given_up),
        order("card", "the card is declined, and another one pays", "payment_required, placed", another_card),
        order("3ds", "the customer must authenticate the payment, and does", "placed", authenticated),
        order("refused", "the warehouse refuses the address, after authorization", "fulfillment_refused", refused),
        order("unpaid", "cancelled while the customer must authenticate", "cancelled", cancelled_before_payment),
        order("paid", "cancelled after payment", "cancelled, refunded", cancelled_after_payment),
        order("returned", "one of two units comes back", "placed, 29.99 usd refunded, 1 restocked", returned),
        order("parcels", "it leaves the warehouse in two parcels", "placed, shipping, shipped", in_two_parcels),
        order("thrice", "submitted three times at once", "placed once", submitted_three_times),
    ]


def order_payload(**changes: object) -> Payload:
    return {
        "customerId": CUSTOMER,
        "customerEmail": "customer@example.com",
        "items": [{"productId": "1", "quantity": 2, "price": 29.99}],
        "paymentMethodId": "pm_123",
        "shippingAddress": {"street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"},
        **changes,
    }


class Demo:
    """What the demo does as the shop's program, and as the customer on the bank's page."""

    def __init__(self, client: Client, http: httpx.AsyncClient, database: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.client = client
        self._http = http
        self._database = database

    async def run(self, orders: list[DemoOrder], console: Console, link: Callable[[str], str]) -> None:
        """Place the plain order alone, to measure its time; then all others together."""
        spinner = Spinner("dots")
        live = Live(console=console, get_renderable=lambda: _progress(orders, spinner), transient=True)
        with live if console.is_terminal else nullcontext():
            plain_order, *others = orders
            await self._run_order(plain_order)
            await asyncio.gather(*map(self._run_order, others))
        table(console, ("  order", "expected", "got"), [_result(each, link(each.order_id)) for each in orders])
        await self._settle(orders)

    async def submit(self, order_id: str, **changes: object) -> OrderOutcome:
        return await submit_order(self.client, order_id, order_payload(**changes))

    async def wait_for_customer(self, order_id: str, order: asyncio.Task[OrderOutcome]) -> str | None:
        """Wait until the customer must authenticate; return the PaymentIntent, or None if the order ended."""
        while not order.done():
            view = await view_run(self.client, order_id)
            if view and view.stage is Stage.AWAITING_CUSTOMER and (intent := getattr(view, "payment_intent", None)):
                return str(intent)
            await asyncio.sleep(POLL_INTERVAL)
        return None

    async def authenticate(self, payment_intent: str) -> None:
        """Pass the bank's page as the customer. Stripe then sends the shop a webhook."""
        answer = await self._http.post(f"/_sandbox/authenticate/{payment_intent}", json={"outcome": "succeed"})
        answer.raise_for_status()

    async def ship(self, order_id: str, parcel: Payload) -> str:
        """Let a parcel leave the warehouse; return the order's status once its webhook has come."""
        before = await self._status(order_id)
        key = {"Authorization": "Bearer demo"}
        answer = await self._http.post(f"/fulfillment/orders/{order_id}/ship", json=parcel, headers=key)
        answer.raise_for_status()
        while True:
            if (status := await self._status(order_id)) != before:
                return status
            await asyncio.sleep(POLL_INTERVAL)

    async def _status(self, order_id: str) -> str:
        return str(await self._database.fetchval("SELECT status FROM orders WHERE id = $1", order_id))

    async def _run_order(self, order: DemoOrder) -> None:
        watching = asyncio.create_task(self._watch(order))
        started = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT):
                order.got = await order.act(self, order.order_id)
        except TimeoutError:
            order.got = f"no outcome within {TIMEOUT} s"
        except NoAnswer:
            raise
        except (OrderError, httpx.HTTPError) as error:
            order.got = str(error)
        finally:
            order.seconds = time.perf_counter() - started
            watching.cancel()

    async def _watch(self, order: DemoOrder) -> None:
        while True:
            if view := await view_run(self.client, order.order_id):
                order.stage = view.stage
            await asyncio.sleep(POLL_INTERVAL)

    async def _settle(self, orders: list[DemoOrder]) -> None:
        """Wait until the runs end: their outcomes are answered before the notifications are sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                for order in orders:
                    with suppress(WorkflowFailureError):
                        await self.client.get_workflow_handle(order.order_id).result()


# ------------------------------------------------------------------------------------------------------------- orders


async def plain(demo: Demo, order_id: str) -> str:
    return _answer(await demo.submit(order_id))


async def with_charges(demo: Demo, order_id: str) -> str:
    charges = [
        {"type": "discount", "name": "WELCOME10", "amount": -6.00},
        {"type": "shipping", "name": "Standard", "amount": 4.95},
        {"type": "tax", "name": "Sales tax", "amount": 4.38},
    ]
    outcome = await demo.submit(order_id, charges=charges)
    return f"{_answer(outcome)}, for {outcome.total} {outcome.currency}"


async def free(demo: Demo, order_id: str) -> str:
    voucher = {"type": "discount", "name": "VOUCHER", "amount": -59.98}
    outcome = await demo.submit(order_id, charges=[voucher], paymentMethodId=None)
    return f"{_answer(outcome)}, {'nothing to pay' if outcome.payment_intent is None else outcome.payment_intent}"


async def more_than_in_stock(demo: Demo, order_id: str) -> str:
    return _answer(await demo.submit(order_id, items=[{"productId": "5", "quantity": 2}]))


async def given_up(demo: Demo, order_id: str) -> str:
    order = await demo.submit(order_id, paymentMethodId=DECLINED)
    cancelled = await cancel_order(demo.client, order_id)
    return f"{_answer(order)}, {'cancelled' if cancelled.cancelled else cancelled.reason}"


async def another_card(demo: Demo, order_id: str) -> str:
    order = await demo.submit(order_id, paymentMethodId=DECLINED)
    return f"{_answer(order)}, {_answer(await pay_order(demo.client, order_id, 'pm_card_visa'))}"


async def authenticated(demo: Demo, order_id: str) -> str:
    order = asyncio.create_task(demo.submit(order_id, paymentMethodId="pm_card_threeDSecure2Required"))
    if payment_intent := await demo.wait_for_customer(order_id, order):
        await demo.authenticate(payment_intent)
    return _answer(await order)


async def refused(demo: Demo, order_id: str) -> str:
    address = {"street": "1 Refuse Road", "city": "San Francisco", "state": "CA", "zip": "94102"}
    return _answer(await demo.submit(order_id, shippingAddress=address))


async def cancelled_before_payment(demo: Demo, order_id: str) -> str:
    order = asyncio.create_task(demo.submit(order_id, paymentMethodId="pm_card_threeDSecure2Required"))
    await demo.wait_for_customer(order_id, order)
    cancelled = await cancel_order(demo.client, order_id)
    return _answer(await order) if cancelled.cancelled else f"not cancelled: {cancelled.reason}"


async def cancelled_after_payment(demo: Demo, order_id: str) -> str:
    if not (order := await demo.submit(order_id, items=[{"productId": "2", "quantity": 1, "price": 89.00}])).success:
        return _answer(order)
    cancelled = await cancel_order(demo.client, order_id, "customer@example.com")
    money = "refunded" if cancelled.refunded else cancelled.reason
    return f"{'cancelled' if cancelled.cancelled else 'not cancelled'}, {money}"


async def returned(demo: Demo, order_id: str) -> str:
    order = await demo.submit(order_id)
    line = {"productId": "1", "quantity": 1, "restock": True}
    refund = await refund_order(demo.client, {"orderId": order_id, "refundId": "return-1", "lines": [line]})
    money = f"{refund.refund_amount} {refund.currency} refunded" if refund.refunded else refund.reason
    return f"{_answer(order)}, {money}, {refund.restocked} restocked"


async def in_two_parcels(demo: Demo, order_id: str) -> str:
    order = await demo.submit(order_id)
    first = await demo.ship(order_id, {"lines": [{"productId": "1", "quantity": 1}], **TRACKED})
    return ", ".join((_answer(order), first, await demo.ship(order_id, TRACKED)))


async def submitted_three_times(demo: Demo, order_id: str) -> str:
    answers = await asyncio.gather(*(demo.submit(order_id) for _ in range(3)))
    one = all(answer == answers[0] for answer in answers)
    return f"{_answer(answers[0])} once" if one else ", ".join(map(_answer, answers))


def _answer(outcome: OrderOutcome) -> str:
    return "placed" if outcome.success else outcome.error_code or "not placed"


# ------------------------------------------------------------------------------------------------------------- output


def _progress(orders: list[DemoOrder], spinner: RenderableType) -> Table:
    progress = Table("", "order", "expected", "got", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for order in orders:
        progress.add_row(_mark(order, spinner), order.title, order.expected, _state(order))
    return progress


def _result(order: DemoOrder, link: str) -> Row:
    title = Text(f"{'✓' if order.passed else '✗'} {order.title}", "" if order.passed else "red")
    return Row((title, order.expected, _state(order)), (f"  {link}",))


def _mark(order: DemoOrder, spinner: RenderableType) -> RenderableType:
    if order.got:
        return _tick(order.passed)
    return spinner if order.stage else ""


def _state(order: DemoOrder) -> Text:
    if order.got:
        return Text(order.got, "" if order.passed else "red")
    return Text(order.stage.replace("_", " ") if order.stage else "", "dim")


def _verdict(found: list[Violation], snapshot: DatabaseSnapshot, *, verbose: bool) -> Table:
    table = Table(
        "",
        f"\ninvariants of these {len(snapshot.orders)} orders, checked in Postgres and the sandbox's records",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for subject, rules in RULES_ABOUT.items():
        broken = {each.rule for each in found}
        if not verbose:
            intact = sum(rule.__name__ not in broken for rule in rules)
            table.add_row(_tick(intact == len(rules)), f"{subject}: {intact} of {len(rules)} rules hold")
        for rule in rules if verbose else [rule for rule in rules if rule.__name__ in broken]:
            table.add_row(_tick(rule.__name__ not in broken), _explain(rule, found))
    return table


def _tick(passed: bool) -> Text:  # noqa: FBT001 (the only thing that it shows)
    return Text("✓", "green") if passed else Text("✗", "red")


def _explain(rule: Rule, found: list[Violation]) -> str:
    return "".join(
        (describe(rule), *(f"\n{each.subject}: {each.what}" for each in found if each.rule == rule.__name__))
    )


def _report(order: DemoOrder, link: str) -> OrderReport:
    return OrderReport(order_id=order.order_id, title=order.title, expected=order.expected, got=order.got, link=link)


@asynccontextmanager
async def _stack(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, "asyncpg.Connection[asyncpg.Record]"]]:
    """Connect to the sandbox and the database of the local stack."""
    if settings.stripe_secret_key.get_secret_value() != SANDBOX_STRIPE_KEY:
        raise InvalidInput(["STRIPE_SECRET_KEY: the demo runs on the sandbox only; unset this key"])
    async with httpx.AsyncClient(base_url=settings.stripe_base.removesuffix("/stripe"), trust_env=False) as http:
        try:
            (await http.get("/_sandbox/health")).raise_for_status()
            database = await asyncpg.connect(settings.database_url.get_secret_value())
        except (httpx.HTTPError, OSError, asyncpg.PostgresError) as error:
            raise NoAnswer(f"the local stack is unreachable ({type(error).__name__}): run `make up` first") from None
        try:
            yield http, database
        finally:
            await database.close()
