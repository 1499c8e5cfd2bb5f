"""Carries out a profile: all arms side by side, in rounds, each round in another order."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Final

import asyncpg
import httpx

from benchmarks.arms.arm import Arm, Entrance, Place
from benchmarks.cells import CART, FAR_FROM_SATURATION, Cell, Profile
from benchmarks.load import Load, Sample, during, raise_failure
from benchmarks.measure.histories import History, read_histories
from benchmarks.measure.statistics import percentile
from benchmarks.measure.window import Mark, Window, mark
from benchmarks.orders import payloads
from benchmarks.results import CellResult, Latency
from benchmarks.servers import Servers, open_worker
from deploy.local.process import HOST, free_ports

MIN_ORDERS: Final = 3  # of one cell, however slow
PATIENCE: Final = 60  # seconds until a slow cell is measured with what it has
FIRST_ORDERS: Final = 24  # of each arm before the first cell: they fill caches and prepare statements
FIRST_CUSTOMERS: Final = 8
SAMPLED_HISTORIES: Final = 6


@dataclass
class Runner:
    """An arm whose workers are up, with the process ids of all that is its own. `orders` are all that it has placed."""

    arm: Arm
    task_queue: str
    place: Place
    processes: Mapping[str, tuple[int, ...]]
    orders: list[str] = field(default_factory=list)


class Run:
    """All arms, on the same servers, with one client."""

    def __init__(
        self,
        profile: Profile,
        servers: Servers,
        runners: Sequence[Runner],
        databases: Mapping[str, asyncpg.Connection],
    ) -> None:
        self._profile = profile
        self._servers = servers
        self.runners = runners
        self._databases = databases
        self._random = Random(servers.seed)  # noqa: S311 (to repeat, not to hide)
        self._loads = 0
        self._rates: dict[str, list[float]] = defaultdict(list)  # of closed loops, by arm

    async def warm_up(self) -> None:
        """Let every arm place its first orders, which nobody measures."""
        for runner in self.runners:
            async with self._loaded(runner, Cell(FIRST_CUSTOMERS)) as (load, task):
                await during(task, load.until_done(FIRST_ORDERS))

    def rounds(self) -> Iterator[list[tuple[Runner, Cell]]]:
        """The cells of each round, shuffled: first the closed loops, then the open ones, whose rates those decide."""
        for is_open in (False, True):
            cells = [cell for cell in self._profile.cells if cell.is_open is is_open]
            for _ in range(self._profile.rounds if cells else 0):
                pairs = [(each, cell) for each in self.runners for cell in cells if each.arm.cart or cell.items == CART]
                self._random.shuffle(pairs)
                yield pairs

    async def measure(self, runner: Runner, cell: Cell, number: int) -> CellResult:
        """One cell of the round of that number."""
        async with self._loaded(runner, cell) as (load, task):
            await during(task, self._settle(load, cell))
            begin = await self._mark(runner)
            await during(task, self._fill(load))
            window = Window(begin, await self._mark(runner))
        inside = [sample for sample in load.samples if begin.at < sample.done <= window.end.at]
        if not inside:
            raise RuntimeError(f"{runner.arm.name}: no order was done within {PATIENCE} seconds")
        history = await self._history(runner, inside)
        result = CellResult(
            arm=runner.arm.name,
            round=number,
            customers=cell.customers,
            items=cell.items,
            offered=self._offered(runner) if cell.is_open else None,
            seconds=window.seconds,
            orders=len(inside),
            rate=len(inside) / window.seconds,
            answer=_latency([each.answered - each.began for each in inside]),
            done=_latency([each.done - each.began for each in inside]),
            cpu=window.cpu(len(inside)),
            postgres=window.flushed(len(inside)),
            events=history and history.events,
            workflow_tasks=history and history.workflow_tasks,
            history_bytes=history and history.bytes,
            foreign=window.foreign,
        )
        if not cell.is_open and cell.items == CART and cell.customers > 1:
            self._rates[runner.arm.name].append(result.rate)
        return result

    @asynccontextmanager
    async def _loaded(self, runner: Runner, cell: Cell) -> AsyncIterator[tuple[Load, asyncio.Task[None]]]:
        """Customers of the cell, until the block ends; then all their orders are done."""
        self._loads += 1
        prefix = f"bench-{self._servers.seed:x}-{runner.arm.name}-{self._loads}"
        load = Load(runner.place, payloads(cell.items, self._random.randrange(1 << 32)), prefix)
        work = load.open(self._offered(runner), self._random) if cell.is_open else load.closed(cell.customers)
        task = asyncio.create_task(work)
        try:
            yield load, task
        finally:
            load.stop()
            await asyncio.wait({task})
            runner.orders += [sample.order_id for sample in load.samples]
        raise_failure(task)

    def _offered(self, runner: Runner) -> float:
        return FAR_FROM_SATURATION * median(self._rates[runner.arm.name])

    async def _settle(self, load: Load, cell: Cell) -> None:
        """Wait until each customer has had an order, and the warm-up is over."""
        await asyncio.sleep(self._profile.warm_up)
        await _patiently(load.until_done(cell.customers))

    async def _fill(self, load: Load) -> None:
        """Wait until the window is long enough, and has enough orders."""
        enough = len(load.samples) + MIN_ORDERS
        await asyncio.sleep(self._profile.seconds)
        await _patiently(load.until_done(enough))

    async def _mark(self, runner: Runner) -> Mark:
        return await mark({**self._servers.processes, **runner.processes}, self._databases)

    async def _history(self, runner: Runner, samples: Sequence[Sample]) -> History | None:
        if runner.arm.engine != "temporal":
            return None
        return await read_histories(self._servers.client, [each.order_id for each in samples[:SAMPLED_HISTORIES]])


@asynccontextmanager
async def open_run(profile: Profile, arms: Sequence[Arm], servers: Servers, workers: int = 1) -> AsyncIterator[Run]:
    """Start the workers of all arms, so many of each, each arm with a task queue or port of its own.

    Raises:
        StackError: a worker does not start.
    """
    async with AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=PATIENCE, limits=limits))
        runners = [await stack.enter_async_context(_open_runner(arm, servers, http, workers)) for arm in arms]
        databases = {}
        for name, url in (("shop", servers.database), ("engine", servers.engine_database)):
            databases[name] = await asyncpg.connect(url)
            stack.push_async_callback(databases[name].close)
        yield Run(profile, servers, runners, databases)


@asynccontextmanager
async def _open_runner(arm: Arm, servers: Servers, http: httpx.AsyncClient, workers: int) -> AsyncIterator[Runner]:
    port = free_ports(1)[0]
    queue = f"bench-{servers.seed:x}-{arm.name}-{workers}"
    engine_url, url = servers.engine_database, f"http://{HOST}:{port}"
    processes: dict[str, tuple[int, ...]] = {}
    async with AsyncExitStack() as stack:
        if arm.server:
            own = await stack.enter_async_context(arm.server(servers.folder / arm.name))
            engine_url, url = own.worker_url, own.client_url
            processes[arm.engine] = (own.pid,)
        options = {"task-queue": queue, "port": str(port), "engine-url": engine_url}
        children = [
            await stack.enter_async_context(open_worker(servers, arm, f"{arm.name}-{workers}.{number}", options))
            for number in range(workers)
        ]
        place = arm.client(Entrance(servers.client, http, queue, url))
        processes["worker"] = tuple(child.pid for child in children)
        yield Runner(arm, queue, place, processes)


def _latency(seconds: Sequence[float]) -> Latency:
    return Latency(p50=1000 * percentile(seconds, 0.5), p99=1000 * percentile(seconds, 0.99))


async def _patiently(condition: Awaitable[None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await condition
