"""The numbers of the shop as gauges: read from PostgreSQL and Temporal regularly, by the web process.

A worker's memory cannot hold them: each process would have another truth, and one that was stopped none. Where a source
gives no answer its gauges keep their last values, and READ_TIMESTAMP_SECONDS tells how old they are.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import structlog
from temporalio.client import Client

from gateways.gauge_store import read_numbers
from gateways.postgres import Database
from gateways.temporal import find_runs, find_schedule, reaching_temporal
from orders.metrics import (
    BROKEN_INVARIANTS,
    FAILED_REFUNDS,
    OLDEST_OPEN_ORDER_SECONDS,
    OPEN_ORDERS,
    OPEN_WARNINGS,
    PARKED_ORDERS,
    READ_TIMESTAMP_SECONDS,
    SCHEDULE_APPLIED,
    SCHEDULE_LATE_INTERVALS,
)
from orders.names import SCHEDULED, VERIFY_ORDERS
from orders.verification import VerifyReport

READ_SECONDS: Final = 10  # between two readings: as often as Prometheus asks, and cheap however many ask
VERIFIED: Final = f"WorkflowType = '{VERIFY_ORDERS}' AND ExecutionStatus = 'Completed'"

log = structlog.get_logger()


@asynccontextmanager
async def gauges(database: Database, client: Client) -> AsyncIterator[None]:
    """Keep the gauges up to date while the block lasts."""
    temporal = TemporalGauges(client)
    tasks = [
        asyncio.create_task(_keep_reading("postgresql", lambda: show_numbers(database))),
        asyncio.create_task(_keep_reading("temporal", temporal.show)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def _keep_reading(source: str, show: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await show()
            READ_TIMESTAMP_SECONDS.show(time.time(), source=source)
        except Exception as error:  # noqa: BLE001 (the events of the shop must be taken without its gauges)
            log.warning("the gauges are not read", source=source, why=str(error))
        await asyncio.sleep(READ_SECONDS)


async def show_numbers(database: Database) -> None:
    """What PostgreSQL says. Raises Unavailable."""
    numbers = await read_numbers(database)
    for status, count in numbers.open_orders.items():
        OPEN_ORDERS.show(count, status=status)
    PARKED_ORDERS.show(numbers.parked)
    OLDEST_OPEN_ORDER_SECONDS.show(numbers.oldest)
    FAILED_REFUNDS.show(numbers.failed_refunds)
    for kind, count in numbers.open_warnings.items():
        OPEN_WARNINGS.show(count, kind=kind)


class TemporalGauges:
    """What Temporal says: the Schedules, and the newest report of verify-orders, which is read once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._run = ""  # whose report is shown

    async def show(self) -> None:
        """Raises NoAnswer."""
        for name in SCHEDULED:
            await self._show_schedule(name)
        async for run in find_runs(self._client, VERIFIED, 1):
            if run.run_id != self._run:
                handle = self._client.get_workflow_handle(run.workflow_id, run_id=run.run_id, result_type=VerifyReport)
                with reaching_temporal():
                    report = await handle.result()
                BROKEN_INVARIANTS.show(report.count)
                self._run = run.run_id

    async def _show_schedule(self, name: str) -> None:
        found = await find_schedule(self._client, name)
        late = 0.0
        if found and found.every and not found.paused:
            late = (datetime.now(UTC) - found.succeeded) / found.every
        SCHEDULE_APPLIED.show(1 if found else 0, schedule=name)
        SCHEDULE_LATE_INTERVALS.show(late, schedule=name)
