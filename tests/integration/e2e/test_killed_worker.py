"""A worker that dies in the middle of every kind of step, and another one that finds everything as it was left."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client, WorkflowHandle

from config.temporal import plugin
from deploy.local.postgres import temporary_folder
from deploy.local.stack import Ports, Stack
from orders.models import OrderOutcome
from orders.names import PROCESS_ORDER, TASK_QUEUE
from tests.support.shop import an_order, eventually

# Where each order is when the worker dies: a call of an external service that hangs, before or after it took effect.
HANGING = {
    "create": ("stripe", "POST /v1/payment_intents", "hang_after"),
    "confirm-before": ("stripe", "POST /v1/payment_intents/*/confirm", "hang_before"),
    "confirm-after": ("stripe", "POST /v1/payment_intents/*/confirm", "hang_after"),
    "fulfill": ("fulfillment", "POST /orders", "hang_after"),
    "capture-before": ("stripe", "POST /v1/payment_intents/*/capture", "hang_before"),
    "capture-after": ("stripe", "POST /v1/payment_intents/*/capture", "hang_after"),
    "email": ("email", "POST /send", "hang_after"),
    "void": ("stripe", "POST /v1/payment_intents/*/cancel", "hang_after"),
}
# These hang in the database instead, behind a lock that the test holds.
LOCKED = {"reserve": "2", "finalize": "3"}


@asynccontextmanager
async def a_stack() -> AsyncIterator[Stack]:
    with temporary_folder() as folder:
        stack = Stack(folder / "data", Ports.free(), fast=True)
        async with stack.running():
            yield stack


@pytest.mark.prove
@pytest.mark.timeout(240)
async def test_orders_end_right_after_a_kill_in_each_step() -> None:
    """Every order but the refused one is placed and paid once; the refused one has no money and no stock."""
    async with (
        a_stack() as stack,
        httpx.AsyncClient(base_url=stack.sandbox.url, trust_env=False) as sandbox,
        asyncpg.create_pool(stack.postgres.url(), min_size=1, max_size=4) as pool,
    ):
        client = await Client.connect(stack.temporal.address, plugins=[plugin()])
        environment = stack.environment({**os.environ, "HTTP_TIMEOUT_SECONDS": "5"})
        for name, (service, route, kind) in HANGING.items():
            fault = {"service": service, "route": route, "kind": kind, "order": f"kill-{name}"}
            (await sandbox.post("/_sandbox/faults", json=fault)).raise_for_status()

        async with _locked_stock(pool, LOCKED["reserve"]) as let_reserve_go, stack.worker(environment) as first:
            # finalize: the capture goes through, then the stock is locked before it can be sold.
            capture = {
                "service": "stripe",
                "route": "*/capture",
                "kind": "delay",
                "seconds": 2,
                "order": "kill-finalize",
            }
            (await sandbox.post("/_sandbox/faults", json=capture)).raise_for_status()
            finalizing = await _start(client, "finalize", product=LOCKED["finalize"])
            await eventually(_is(pool, "kill-finalize", "capturing"), "finalize's order is being captured")
            async with _locked_stock(pool, LOCKED["finalize"]) as let_finalize_go:
                handles = {
                    "finalize": finalizing,
                    "reserve": await _start(client, "reserve", product=LOCKED["reserve"]),
                }
                handles |= {name: await _start(client, name) for name in HANGING}
                await eventually(_all_in_flight(sandbox), "a call of each order hangs")
                for name, activity in {"reserve": "reserve_stock", "finalize": "finalize_order"}.items():
                    await eventually(partial(_is_tried, handles[name], activity), f"{activity} is tried")
                await eventually(lambda: _waits_for_a_lock(pool), "a transaction waits for the locked stock")
                os.kill(first.pid, signal.SIGKILL)
                await first.wait()
                await let_finalize_go()
                await let_reserve_go()

        async with stack.worker(environment):
            outcomes = {name: await handle.result() for name, handle in handles.items()}

        refused = outcomes.pop("void")
        assert refused.error_code == "fulfillment_refused"
        assert all(outcome.success for outcome in outcomes.values()), outcomes
        await _check_books(sandbox, pool, set(outcomes))


async def _start(client: Client, name: str, product: str = "1") -> WorkflowHandle[Any, OrderOutcome]:
    address = an_order()["shippingAddress"] | ({"street": "1 Refuse Street"} if name == "void" else {})
    return await client.start_workflow(
        PROCESS_ORDER,
        an_order(items=[{"productId": product, "quantity": 1}], shippingAddress=address),
        id=f"kill-{name}",
        task_queue=TASK_QUEUE,
        result_type=OrderOutcome,
    )


@asynccontextmanager
async def _locked_stock(
    pool: "asyncpg.Pool[asyncpg.Record]", product: str
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Hold the lock of a product's stock until told, or until the block ends."""
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT 1 FROM inventory WHERE product_id = $1 FOR UPDATE", product)
        let_go = asyncio.Event()

        async def release() -> None:
            if not let_go.is_set():
                let_go.set()
                await transaction.rollback()

        try:
            yield release
        finally:
            await release()


def _is(pool: "asyncpg.Pool[asyncpg.Record]", order_id: str, status: str) -> Callable[[], Awaitable[bool]]:
    async def reached() -> bool:
        return bool(await pool.fetchval("SELECT status = $2 FROM orders WHERE id = $1", order_id, status))

    return reached


def _all_in_flight(sandbox: httpx.AsyncClient) -> Callable[[], Awaitable[bool]]:
    """No scripted fault is left to strike: each has somebody waiting, or has let somebody go."""

    async def struck() -> bool:
        return not (await sandbox.get("/_sandbox/faults")).json()

    return struck


async def _is_tried(run: WorkflowHandle[Any, OrderOutcome], activity: str) -> bool:
    pending = (await run.describe()).raw_description.pending_activities
    return activity in {each.activity_type.name for each in pending}


async def _waits_for_a_lock(pool: "asyncpg.Pool[asyncpg.Record]") -> bool:
    """Either of the two: an attempt waits only briefly, so both rarely wait at the same time."""
    return bool(await pool.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


async def _check_books(sandbox: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]", placed: set[str]) -> None:
    books = (await sandbox.get("/_sandbox/records")).json()
    totals = {row["id"]: row["total"] for row in await pool.fetch("SELECT id, total FROM orders")}
    for order_id, money in books["orders"].items():
        due = totals[order_id] if order_id.removeprefix("kill-") in placed else 0
        assert (money["captured"] - money["refunded"], money["authorized"]) == (due, 0), order_id
    shipped = [shipment["orderId"] for shipment in books["fulfillment"] if shipment["status"] == "accepted"]
    assert sorted(shipped) == sorted(f"kill-{name}" for name in placed)
    confirmed = [email["data"]["orderNumber"] for email in books["emails"] if email["template"] == "order_confirmation"]
    assert sorted(confirmed) == sorted(f"kill-{name}" for name in placed)
    assert await pool.fetchval("SELECT sum(reserved) FROM inventory") == 0
    sold = await pool.fetchval("SELECT sum(quantity) FROM reservations WHERE state = 'sold'")
    assert sold == len(placed)
