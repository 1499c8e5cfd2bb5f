"""The whole stack, each part of which can be killed, stopped and started again while the others go on."""

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
from tests.proof.chaos.plan import HOT, WORKERS

if TYPE_CHECKING:
    from gateways.postgres import Pool

T = TypeVar("T")

INHERITED: Final = ("PATH", "HOME", "TMPDIR", "LANG")  # the shop is the plan's, whatever our own environment says

# How the programs are set up: what hangs is given up soon, and customers who do not come back are not waited for.
ENVIRONMENT: Final = {
    "HTTP_TIMEOUT_SECONDS": "2",
    "AUTHENTICATION_DEADLINE_SECONDS": "20",
    "AUTHENTICATION_POLL_SECONDS": "2",
    "RECONCILE_AFTER_SECONDS": "5",
    "LOG_LEVEL": "WARNING",
}

PLENTY: Final = "UPDATE inventory SET quantity = 1000000 WHERE product_id <> $1"
SCARCE: Final = "UPDATE inventory SET quantity = $2 WHERE product_id = $1"

OUT_OF_REACH: Final = (NoAnswer, Unavailable, RPCError, TemporalError, httpx.HTTPError, *TRANSIENT)
LOOK_AGAIN: Final = 0.3  # seconds
STANDS_WITHIN: Final = 120  # seconds, for a part whose external services are down as well


async def persist(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer of somebody who may be out of reach for a while."""
    while True:
        try:
            return await ask()
        except OUT_OF_REACH:
            await asyncio.sleep(LOOK_AGAIN)


class Part:
    """One process of the stack. Whoever does something to it holds its `turn`."""

    def __init__(self, start: Callable[[int], AbstractAsyncContextManager[Child]]) -> None:
        """`start` gets the number of the start."""
        self._start = start
        self._starts = 0
        self._life = AsyncExitStack()
        self._child: Child | None = None
        self.turn = asyncio.Lock()

    async def up(self) -> None:
        """Start it, and again as a supervisor would: it may need what is down at the moment. Raises StackError."""
        deadline = asyncio.get_running_loop().time() + STANDS_WITHIN
        while self._child is None:
            self._starts += 1
            try:
                self._child = await self._life.enter_async_context(self._start(self._starts))
            except StackError:
                if asyncio.get_running_loop().time() > deadline:
                    raise

    async def down(self) -> None:
        """StopUndo it as an operator would: it may finish what it does."""
        self._child = None
        await self._life.aclose()

    async def kill(self) -> None:
        """End it and all its children at once."""
        self._signal(signal.SIGKILL)
        await self.down()

    def stop(self) -> None:
        """It stands still, and answers nobody."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._child:
            for pid in _family(self._child.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)


class Cluster:
    """The parts by their names, and the ways in."""

    client: Client
    pool: "Pool"
    sandbox: httpx.AsyncClient

    def __init__(self, folder: Path, capture: str) -> None:
        self._stack = Stack(folder / "data", Ports.free())
        settings = self._stack.sandbox.settings
        self.fulfillment_key = settings["FULFILLMENT_KEY"]
        given = {name: os.environ[name] for name in INHERITED if name in os.environ}
        self._environment = self._stack.environment(given | settings | ENVIRONMENT | {"PAYMENT_CAPTURE": capture})
        stack = self._stack
        self.parts = {
            "postgres": Part(lambda _: stack.database()),
            "temporal": Part(lambda _: stack.temporal.running()),
            "sandbox": Part(lambda _: stack.sandbox.running()),
            "webhooks": Part(lambda _: stack.webhooks(self._environment)),
            **{f"worker.{number}": self._worker(number) for number in range(WORKERS)},
        }

    @asynccontextmanager
    async def open(self, hot_units: int) -> AsyncIterator[None]:
        """Start everything, with plenty of all products but the hot one; stop everything at the end."""
        async with AsyncExitStack() as stack:
            for part in self.parts.values():
                stack.push_async_callback(part.down)
                await part.up()
            self.client = await Client.connect(
                self._stack.temporal.address,
                plugins=[plugin()],
                runtime=Runtime(telemetry=TelemetryConfig(logging=None)),  # that nobody answers is no news here
            )
            self.pool = await stack.enter_async_context(
                asyncpg.create_pool(self._stack.postgres.url(), min_size=0, max_size=4, command_timeout=60)
            )
            self.sandbox = await stack.enter_async_context(
                httpx.AsyncClient(base_url=self._stack.sandbox.url, trust_env=False, timeout=60)
            )
            await self.pool.execute(PLENTY, HOT)
            await self.pool.execute(SCARCE, HOT, hot_units)
            yield

    async def books(self) -> ProviderRecords:
        return ProviderRecords.model_validate(await self._books())

    async def request_faults(self) -> dict[str, int]:
        """How often which fault struck which external service."""
        request_faults: dict[str, int] = (await self._books())["fault_hits"]
        return request_faults

    async def _books(self) -> Any:
        return (await self.sandbox.get("/_sandbox/records")).raise_for_status().json()

    def _worker(self, number: int) -> Part:
        return Part(lambda start: self._stack.worker(self._environment, f"worker.{number}.{start}"))


def _family(pid: int) -> list[int]:
    """A process and all that it started, where /proc tells; elsewhere the process alone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return [pid]
    return [pid, *(each for child in children.split() for each in _family(int(child)))]
