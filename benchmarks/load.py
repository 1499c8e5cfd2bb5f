"""Customers that place orders, in a closed or an open loop, and what they saw of time."""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from random import Random
from typing import Any, NamedTuple

from benchmarks.arms.arm import Payload, Place


class Sample(NamedTuple):
    """One order: when the customer came, was answered, and all was done. Seconds of time.perf_counter."""

    order_id: str
    began: float
    answered: float
    done: float


class Load:
    """The customers of one cell. `samples` are the orders that are done, in the order in which they ended."""

    def __init__(self, place: Place, payloads: Iterator[Payload], prefix: str) -> None:
        """`prefix` begins the ids of the orders."""
        self._place = place
        self._payloads = payloads
        self._prefix = prefix
        self._count = 0
        self._changed = asyncio.Event()
        self._stopped = asyncio.Event()
        self.samples: list[Sample] = []

    async def closed(self, customers: int) -> None:
        """Let so many customers order again and again, until `stop`; each finishes the last order."""

        async def customer() -> None:
            while not self._stopped.is_set():
                await self._order(time.perf_counter())

        async with asyncio.TaskGroup() as group:
            for _ in range(customers):
                group.create_task(customer())

    async def open(self, rate: float, random: Random) -> None:
        """Let customers come at random, so many a second, until `stop`. Each is timed from the moment it was due."""
        due = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while not self._stopped.is_set():
                due += random.expovariate(rate)
                await self._sleep_until(due)
                group.create_task(self._order(due))

    def stop(self) -> None:
        self._stopped.set()

    async def until_done(self, orders: int) -> None:
        """Wait until so many orders are done."""
        while len(self.samples) < orders:
            self._changed.clear()
            await self._changed.wait()

    async def _order(self, began: float) -> None:
        order_id = f"{self._prefix}-{self._count}"
        self._count += 1
        answered: list[float] = []
        await self._place(order_id, next(self._payloads), lambda: answered.append(time.perf_counter()))
        self.samples.append(Sample(order_id, began, answered[0], time.perf_counter()))
        self._changed.set()

    async def _sleep_until(self, due: float) -> None:
        if (pause := due - time.perf_counter()) > 0:
            await asyncio.wait([asyncio.ensure_future(self._stopped.wait())], timeout=pause)


async def during(load: asyncio.Task[Any], work: Coroutine[Any, Any, None]) -> None:
    """Do the work while the load goes on. Raises what ends the load early."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({load, task}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise_failure(load)
            raise RuntimeError("the load ended by itself")
        task.result()
    finally:
        task.cancel()


def raise_failure(load: asyncio.Task[Any]) -> None:
    """Raise the first error of the customers, without their group."""
    try:
        load.result()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
