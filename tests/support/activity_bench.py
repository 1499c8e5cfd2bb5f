"""The activities without Temporal: wired as in app/wiring.py, with a real Postgres and the sandbox.

Each call is one attempt. An attempt can be stopped at a gate, so that a test decides what happens before it goes on.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from openai import AsyncOpenAI
from stripe import StripeClient
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.fulfillment import Fulfillment
from activities.inventory import Inventory
from activities.order_state import OrderState
from activities.payments import Payments
from app.wiring import activities_of
from config.settings import Settings
from gateways.http import open_http
from gateways.openai import MAX_ANSWER, openai_client
from gateways.order_store import read_shop_id
from gateways.postgres import LOCKED, Database, open_pool
from gateways.stripe import stripe_client
from orders.errors import Unavailable
from orders.models import (
    ErrorCode,
    FulfillmentAnswer,
    FulfillmentRequest,
    Order,
    OrderRow,
    Payment,
    PaymentRequest,
    Status,
    UndoClaim,
)
from orders.parsing import parse_order, read_json
from sandbox.faults import Fault
from sandbox.server import Running
from sandbox.world import World
from tests.support.rows import Rows
from tests.support.shop import PATIENCE, an_order

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.connection import LoggedQuery

    from gateways.postgres import Connection, Pool

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")


@dataclass
class Gate:
    """Stops an attempt before its transaction number `before`, counted from 1."""

    before: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)


class ObservedDatabase(Database):
    """Records every statement, and stops at the gate."""

    def __init__(self, pool: "Pool") -> None:
        super().__init__(pool)
        self.statements: list[str] = []
        self.gate: Gate | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        await self.stand()
        async with super().transaction() as connection:
            with connection.query_logger(self._record):
                yield connection

    async def stand(self) -> None:
        """Called before every transaction."""
        gate = self.gate
        if gate is None or gate.reached.is_set():
            return
        gate.before -= 1
        if not gate.before:
            gate.reached.set()
            await gate.opened.wait()

    def _record(self, query: "LoggedQuery") -> None:
        self.statements.append(query.query)


@dataclass
class ActivityBench(Rows):
    """Runs activities for a test; their workflow id is `bench` unless the test names another one."""

    pool: "asyncpg.Pool[asyncpg.Record]"
    sandbox: Running
    database: ObservedDatabase
    begin_worker: Callable[[], dict[str, Callable[..., Any]]]  # the activities of one more worker
    activities: dict[str, Callable[..., Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.activities = self.begin_worker()

    def another_worker(self) -> "ActivityBench":
        """The same shop, served by another worker: what one of them sleeps over does not hold up the other."""
        return replace(self)

    @property
    def world(self) -> World:
        return self.sandbox.world

    async def do(
        self, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, *, run: str = "bench", attempt: int = 1
    ) -> ResultT:
        """One attempt, of that number, called by the workflow with the id `run`."""
        environment = ActivityEnvironment()
        environment.info = replace(environment.info, workflow_id=run, attempt=attempt)
        result: ResultT = await environment.run(self.activities[activity.__name__], arg)
        return result

    async def stop_at(
        self, gate: Gate, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT
    ) -> "asyncio.Task[ResultT]":
        """An attempt that has reached the gate."""
        self.database.gate = gate
        attempt = asyncio.create_task(self.do(activity, arg))
        async with asyncio.timeout(PATIENCE):
            await gate.reached.wait()
        return attempt

    def fault(self, service: str, kind: str, route: str = "*", **more: Any) -> None:
        self.world.faults.add(Fault.model_validate({"service": service, "kind": kind, "route": route, **more}))

    def calls(self, service: str, path: str = "") -> list[dict[str, Any]]:
        """The POSTs that the service got, to paths with this end."""
        return [
            entry
            for entry in self.world.journal.about()
            if entry["service"] == service and entry["method"] == "POST" and entry["path"].endswith(path)
        ]

    # ----------------------------------------------------------------------------------------- the steps of an order

    async def reserve(self, order: Order) -> OrderRow:
        return await self.do(Inventory.reserve_stock, order.reservation)

    async def insist(self, order: Order) -> OrderRow:
        """Reserve as Temporal does: an attempt that waits too long for a lock is repeated. A deadlock is an error."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await self.reserve(order)
                except Unavailable as error:
                    if error.type not in {"stock_busy", LOCKED}:
                        raise

    async def authorize(self, order: Order) -> Payment:
        return await self.do(Payments.authorize_payment, payment(order))

    async def fulfill(self, order: Order) -> FulfillmentAnswer:
        return await self.do(Fulfillment.request_fulfillment, fulfillment(order))

    async def capture(self, order: Order) -> bool:
        return await self.do(Payments.capture_payment, order.id)

    async def finalize(self, order: Order) -> OrderRow:
        return await self.do(Inventory.finalize_order, order.id)

    async def claim_undo(self, order: Order, closing: Status = Status.FAILED) -> OrderRow:
        return await self.do(OrderState.claim_undo, undo(order, closing))

    async def bring(self, order: Order, last: str) -> None:
        """Execute all steps up to the step `last`; a free order is not authorized."""
        row = await self.reserve(order)
        for step in (self.reserve, self.authorize, self.fulfill, self.capture, self.finalize):
            if step != self.authorize or not row.is_free:
                await step(order)
            if step.__name__ == last:
                return


def order_of(order_id: str = "o1", **changes: Any) -> Order:
    """A validated order: the reference's order, with changes."""
    return parse_order(order_id, read_json(json.dumps(an_order(**changes))))


def payment(order: Order) -> PaymentRequest:
    return order.payment


def fulfillment(order: Order) -> FulfillmentRequest:
    return order.fulfillment


def undo(order: Order, closing: Status = Status.FAILED) -> UndoClaim:
    return UndoClaim(order=order.reservation, closing=closing, error_code=ErrorCode.FAILED, error="it failed")


@dataclass(frozen=True)
class Clients:
    """Clients, which are slow to open; tests can share them. The client of Temporal has no server."""

    temporal: Client
    http: httpx.AsyncClient
    stripe: StripeClient
    openai: AsyncOpenAI | None


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[Clients]:
    seconds = settings.http_timeout_seconds
    async with open_http(seconds) as http, open_http(seconds, MAX_ANSWER) as models:
        stripe = stripe_client(http, settings.stripe_secret_key.get_secret_value(), settings.stripe_base)
        openai = openai_client(models, settings.openai_api_key.get_secret_value(), settings.openai_base)
        yield Clients(await Client.connect("127.0.0.1:1", lazy=True), http, stripe, openai)


@asynccontextmanager
async def open_activity_bench(
    settings: Settings, sandbox: Running, clients: Clients, watched: type[ObservedDatabase] = ObservedDatabase
) -> AsyncIterator[ActivityBench]:
    """A bench with its own connections to PostgreSQL."""
    async with await open_pool(settings.database_url.get_secret_value(), settings.database_pool_size) as pool:
        database = watched(pool)
        shop_id = await read_shop_id(Database(pool))

        def begin_worker() -> dict[str, Callable[..., Any]]:
            activities = activities_of(
                settings, clients.temporal, database, shop_id, clients.http, clients.stripe, clients.openai
            )
            return {activity.__name__: activity for activity in activities}

        yield ActivityBench(pool, sandbox, database, begin_worker)
