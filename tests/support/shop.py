"""A whole shop for tests: a database, the sandbox, and a worker on its own task queue."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
from pydantic import SecretStr
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from app.wiring import open_worker
from config.settings import SANDBOX_OPENAI_KEY, SANDBOX_STRIPE_KEY, Settings, sandbox_addresses
from orders.models import CancelOutcome, OrderOutcome, RefundOutcome
from orders.names import CANCEL_ORDER, PROCESS_ORDER, REFUND_ORDER, cancel_order_id, refund_order_id
from sandbox.server import Running, serve
from sandbox.world import World
from tests.support.activity_hooks import ActivityHooks
from tests.support.rows import Rows
from tests.support.servers import copy_database, open_postgres, open_temporal, reset_database

Payload = dict[str, Any]

PATIENCE = 30  # seconds until a condition that tests wait for counts as failed


def an_order(**changes: Any) -> Payload:
    """The payload of the source document's test: two of product 1 at 29.99."""
    return {
        "customerId": "cus_123",
        "customerEmail": "customer@example.com",
        "items": [{"productId": "1", "quantity": 2, "price": 29.99}],
        "paymentMethodId": "pm_123",
        "shippingAddress": {"street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"},
    } | changes


# What an order may cost beside its products: of `an_order`, 9.86 in all. And an order that is free.
CHARGES: list[Payload] = [
    {"type": "shipping", "name": "Express", "amount": 12.5},
    {"type": "tax", "name": "Sales tax", "amount": 5.12},
    {"type": "fee", "name": "Gift wrapping", "amount": 2.24},
    {"type": "discount", "name": "WELCOME", "amount": -10},
]
VOUCHER: Payload = {"type": "discount", "name": "VOUCHER", "amount": -59.98}
FREE: Payload = an_order(charges=[VOUCHER], paymentMethodId=None)


@dataclass
class Shop(Rows):
    """What a test does with the shop, and what it sees of it."""

    settings: Settings
    client: Client
    env: WorkflowEnvironment
    sandbox: Running
    pool: "asyncpg.Pool[asyncpg.Record]"
    task_queue: str
    hooks: ActivityHooks = field(default_factory=ActivityHooks)

    @property
    def world(self) -> World:
        return self.sandbox.world

    @property
    def database_url(self) -> str:
        """The address of the database for its owner."""
        return self.settings.database_url.get_secret_value().partition("?")[0]

    async def start(
        self, payload: Any = None, order_id: str | None = None, **options: Any
    ) -> WorkflowHandle[Any, OrderOutcome]:
        """Start process-order as any client does: by name, with plain JSON."""
        return await self.client.start_workflow(
            PROCESS_ORDER,
            an_order() if payload is None else payload,
            id=order_id or new_order_id(),
            task_queue=self.task_queue,
            result_type=OrderOutcome,
            **options,
        )

    async def place(self, payload: Any = None, order_id: str | None = None, **options: Any) -> OrderOutcome:
        return await (await self.start(payload, order_id, **options)).result()

    async def start_cancel(
        self, order_id: str, email: str | None = "customer@example.com", **options: Any
    ) -> WorkflowHandle[Any, CancelOutcome]:
        return await self.client.start_workflow(
            CANCEL_ORDER,
            {"orderId": order_id} | ({"customerEmail": email} if email else {}),
            id=cancel_order_id(order_id),
            task_queue=self.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            result_type=CancelOutcome,
            **options,
        )

    async def cancel(self, order_id: str, email: str | None = "customer@example.com") -> CancelOutcome:
        return await (await self.start_cancel(order_id, email)).result()

    async def start_refund(
        self,
        order_id: str,
        refund_id: str,
        workflow_id: str | None = None,
        task_timeout: timedelta | None = None,
        **asked: Any,
    ) -> WorkflowHandle[Any, RefundOutcome]:
        """Start refund-order; `asked` are fields of its payload, by default one unit of product 1 that comes back."""
        email = {"customerEmail": "customer@example.com"}
        parts = asked or {"lines": [{"productId": "1", "quantity": 1, "restock": True}]}
        return await self.client.start_workflow(
            REFUND_ORDER,
            {"orderId": order_id, "refundId": refund_id} | email | parts,
            id=workflow_id or refund_order_id(order_id, refund_id),
            task_queue=self.task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            result_type=RefundOutcome,
            task_timeout=task_timeout,
        )

    async def refund(
        self, order_id: str, refund_id: str, workflow_id: str | None = None, **asked: Any
    ) -> RefundOutcome:
        return await (await self.start_refund(order_id, refund_id, workflow_id, **asked)).result()

    async def advance(self, run: WorkflowHandle[Any, Any], by: timedelta) -> None:
        """Move the run's clock forward, once the run waits for time alone: then the same happens on a slow machine.

        A run that is over by then needs no more time.
        """
        await eventually(lambda: waits_for_time(run), "the run waits for time alone")
        try:
            await self.env.fast_forward(run, by)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def ship(self, order_id: str, parcel: Payload | None = None) -> None:
        """Let the warehouse ship the order, or a parcel of it."""
        await self.at_warehouse(order_id, "ship", parcel)

    async def deliver(self, order_id: str, parcel: Payload | None = None) -> None:
        """Let the order arrive, or a parcel of it."""
        await self.at_warehouse(order_id, "deliver", parcel)

    async def at_warehouse(self, order_id: str, act: str, parcel: Payload | None = None) -> None:
        key = self.settings.fulfillment_key.get_secret_value()
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"{self.settings.fulfillment_api}/orders/{order_id}/{act}"
            (await http.post(url, headers={"Authorization": f"Bearer {key}"}, json=parcel)).raise_for_status()

    async def clear(self) -> None:
        """Make the shop as new."""
        await self.stop_work()
        await reset_database(self.pool)

    async def stop_work(self) -> None:
        """End all runs and attempts, remove all hooks, and empty the sandbox; the database stays as it is."""
        await self.end_all_runs()
        await self.hooks.reset()
        self.world.reset()

    async def end_all_runs(self) -> None:
        """Terminate what a test has left open: the next test may use the same order id."""
        query = f"TaskQueue = '{self.task_queue}' AND ExecutionStatus = 'Running'"
        listed = [run.id async for run in self.client.list_workflows(query)]
        for workflow_id in {*listed, *(called for called, _ in self.hooks.calls)}:  # the list lags behind
            with suppress(RPCError):
                await self.client.get_workflow_handle(workflow_id).terminate()


async def eventually(condition: Callable[[], Awaitable[Any]], what: str) -> Any:
    """The first true value of `condition`; fails with `what` when it takes too long."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not (value := await condition()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE} s: {what}") from None
    return value


async def waits_for_time(run: WorkflowHandle[Any, Any]) -> bool:
    """Whether all that the run waits for is a timer, a signal, or the next attempt of an activity; or it is over."""
    found = (await run.describe()).raw_description
    at_work = any(not each.HasField("next_attempt_schedule_time") for each in found.pending_activities)
    return not at_work and not found.HasField("pending_workflow_task")


def new_order_id() -> str:
    return f"order-{uuid.uuid4().hex[:12]}"


def settings_for(database_url: str, sandbox: Running, **changes: Any) -> Settings:
    given: dict[str, Any] = {
        "http_timeout_seconds": 3,
        "openai_api_key": SecretStr(SANDBOX_OPENAI_KEY),
        "fulfillment_remembers_cancels": True,
    } | changes
    addresses = {name.lower(): address for name, address in sandbox_addresses(sandbox.url).items()}
    return Settings.model_validate(
        {"database_url": database_url, "stripe_secret_key": SANDBOX_STRIPE_KEY, **addresses, **given}
    )


@asynccontextmanager
async def open_shop(
    database_url: str,
    env: WorkflowEnvironment,
    task_queue: str | None = None,
    run: Callable[[Worker], AbstractAsyncContextManager[None]] | None = None,
    client: Client | None = None,
    **changes: Any,
) -> AsyncIterator[Shop]:
    """Open a shop, on a queue of its own unless one is named; `run` runs its worker, `changes` are settings.

    `client` replaces the client of `env`.
    """
    client = client or env.client
    hooks = ActivityHooks()
    task_queue = task_queue or f"orders-{uuid.uuid4().hex[:8]}"
    async with serve() as sandbox, asyncpg.create_pool(database_url, min_size=1, max_size=4) as pool:
        # The worker may do what it may in production.
        settings = settings_for(f"{database_url}?role=orders_app", sandbox, **changes)
        async with (
            open_worker(settings, client, task_queue=task_queue, interceptors=[hooks]) as worker,
            (run or running)(worker),
        ):
            shop = Shop(settings, client, env, sandbox, pool, task_queue, hooks)
            yield shop
            await shop.end_all_runs()


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    async with worker:
        yield


@asynccontextmanager
async def open_everything(**settings: Any) -> AsyncIterator[Shop]:
    """A shop with servers of its own, for the tools."""
    async with (
        open_postgres() as server,
        copy_database(server) as database_url,
        open_temporal() as env,
        open_shop(database_url, env, **settings) as shop,
    ):
        yield shop
