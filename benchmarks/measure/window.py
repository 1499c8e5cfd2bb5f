"""What the processes and databases did while a window of time was open, for each order that ended in it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from benchmarks.measure.cpu import Reading, read_cpu
from benchmarks.measure.postgres import Counters, read_counters
from benchmarks.results import Flushed


@dataclass(frozen=True)
class Mark:
    """The counters at one moment, which `at` is by time.perf_counter."""

    at: float
    cpu: Reading
    postgres: Mapping[str, Counters]


@dataclass(frozen=True)
class Window:
    begin: Mark
    end: Mark

    @property
    def seconds(self) -> float:
        return self.end.at - self.begin.at

    @property
    def foreign(self) -> float:
        """How many cores other programs used: what the machine did beyond what our processes did."""
        machine = self.end.cpu.machine - self.begin.cpu.machine
        return max(0.0, machine - (self.end.cpu.ours - self.begin.cpu.ours)) / self.seconds

    def cpu(self, orders: int) -> dict[str, float]:
        """Milliseconds for each order, by group of processes."""
        before = self.begin.cpu.groups
        return {name: 1000 * (after - before[name]) / orders for name, after in self.end.cpu.groups.items()}

    def flushed(self, orders: int) -> dict[str, Flushed]:
        """For each order, by database."""
        return {
            name: Flushed(
                fsyncs=(after.fsyncs - self.begin.postgres[name].fsyncs) / orders,
                wal_bytes=(after.wal_bytes - self.begin.postgres[name].wal_bytes) / orders,
            )
            for name, after in self.end.postgres.items()
        }


async def mark(processes: Mapping[str, tuple[int, ...]], databases: Mapping[str, asyncpg.Connection]) -> Mark:
    """Read all counters now."""
    counters = {name: await read_counters(connection) for name, connection in databases.items()}
    return Mark(time.perf_counter(), read_cpu(processes), counters)
