"""The whole stack as separate processes, each of which can be killed, stopped and started again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import asyncpg
import httpx
from temporalio.client import Client
from temporalio.exceptions import TemporalError
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from audit.evidence import ProviderRecords
from config.temporal import plugin
from deploy.local.process import Child, StackError
from deploy.local.stack import Ports, Stack
from gateways.postgres import TRANSIENT
from orders.errors import NoAnswer, Unavailable
from tests.proof.chaos.plan import HOT, WORKERS, Plan

if TYPE_CHECKING:
    from gateways.postgres import Pool

T = TypeVar("T")

INHERITED: Final = ("PATH", "HOME", "TMPDIR", "LANG")  # all other settings come from the plan

# The programs give up soon on a request that hangs, and on customers who do not authenticate.
ENVIRONMENT: Final = {
    "HTTP_TIMEOUT_SECONDS": "2",
    "AUTHENTICATION_DEADLINE_SECONDS": "20",
    "AUTHENTICATION_POLL_SECONDS": "2",
    "PAYMENT_RETRY_SECONDS": "10",
    "RECONCILE_AFTER_SECONDS": "5",
    "LOG_LEVEL": "WARNING",
}

FILL_STOCK: Final = "UPDATE inventory SET quantity = 1000000 WHERE product_id <> $1"
LIMIT_STOCK: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"

UNREACHABLE: Final = (NoAnswer, Unavailable, RPCError, TemporalError, httpx.HTTPError, *TRANSIENT)
POLL_EVERY: Final = 0.3  # seconds
STARTS_WITHIN: Final = 120  # seconds, for a process that needs others that are down


async def until_answered(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again until there is an answer: the service may be unreachable for a while."""
    while True:
        try:
            return await ask()
        except UNREACHABLE:
            await asyncio.sleep(POLL_EVERY)


class Process:
    """One process of the stack. A fault holds its `turn`, so that faults of one process come one after another."""

    def __init__(self, start: Callable[[int], AbstractAsyncContextManager[Child]]) -> None:
        """`start` receives how often the process has been started."""
        self._start = start
        self._starts = 0
        self._life = AsyncExitStack()
        self._child: Child | None = None
        self.turn = asyncio.Lock()

    async def up(self) -> None:
        """Start it as a supervisor does, again while what it needs is down. Raises StackError."""
        deadline = asyncio.get_running_loop().time() + STARTS_WITHIN
        while self._child is None:
            self._starts += 1
            try:
                self._child = await self._life.enter_async_context(self._start(self._starts))
            except StackError:
                if asyncio.get_running_loop().time() > deadline:
                    raise

    async def down(self) -> None:
        """Stop it as an operator does: it finishes what it has begun."""
        self._child = None
        await self._life.aclose()

    async def kill(self) -> None:
        """End it and all its children at once."""
        self._signal(signal.SIGKILL)
        await self.down()

    def stop(self) -> None:
        """Suspend it: it answers no request."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._child:
            for pid in _process_tree(self._child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


class Cluster:
    """The processes by name, and a client for each way to reach them."""

    client: Client
    pool: "Pool"
    sandbox: httpx.AsyncClient

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._stack = Stack(folder / "data", Ports.free())
        settings = self._stack.sandbox.settings
        self.fulfillment_key = settings["FULFILLMENT_KEY"]
        given = {name: os.environ[name] for name in INHERITED if name in os.environ}
        chosen = {"PAYMENT_CAPTURE": plan.capture, "STEP_EXECUTION": plan.execution}
        self._environment = self._stack.environment(given | settings | ENVIRONMENT | chosen)
        stack = self._stack
        self.processes = {
            "postgres": Process(lambda _: stack.database()),
            "temporal": Process(lambda _: stack.temporal.running()),
            "sandbox": Process(lambda _: stack.sandbox.running()),
            "webhooks": Process(lambda _: stack.webhooks(self._environment)),
            **{f"worker.{number}": self._worker(number) for number in range(WORKERS)},
        }

    @asynccontextmanager
    async def open(self, hot_units: int) -> AsyncIterator[None]:
        """Start everything, with plenty of all products but the hot one; stop everything at the end."""
        async with AsyncExitStack() as stack:
            for process in self.processes.values():
                stack.push_async_callback(process.down)
                await process.up()
            self.client = await Client.connect(
                self._stack.temporal.address,
                plugins=[plugin()],
                runtime=Runtime(telemetry=TelemetryConfig(logging=None)),  # an unreachable server is expected here
            )
            self.pool = await stack.enter_async_context(
                asyncpg.create_pool(self._stack.postgres.url(), min_size=0, max_size=4, command_timeout=60)
            )
            self.sandbox = await stack.enter_async_context(
                httpx.AsyncClient(base_url=self._stack.sandbox.url, trust_env=False, timeout=60)
            )
            await self.pool.execute(FILL_STOCK, HOT)
            await self.pool.execute(LIMIT_STOCK, HOT, hot_units)
            yield

    async def records(self) -> ProviderRecords:
        return ProviderRecords.model_validate(await self._read_records())

    async def request_faults(self) -> dict[str, int]:
        """How many requests of each external service failed by which fault."""
        counts: dict[str, int] = (await self._read_records())["fault_hits"]
        return counts

    async def _read_records(self) -> Any:
        return (await self.sandbox.get("/_sandbox/records")).raise_for_status().json()

    def _worker(self, number: int) -> Process:
        return Process(lambda start: self._stack.worker(self._environment, f"worker.{number}.{start}"))


def _process_tree(pid: int) -> list[int]:
    """A process and its descendants where there is /proc, elsewhere the process alone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return [pid]
    return [pid, *(each for child in children.split() for each in _process_tree(int(child)))]
