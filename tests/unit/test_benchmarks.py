"""The measuring code of benchmarks/: percentiles, ratios, CPU times, and what is kept out of a ratio."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from random import Random

import pytest

from benchmarks.arms.arm import Payload
from benchmarks.cells import Cell
from benchmarks.load import Load, during
from benchmarks.measure.cpu import Reading, machine_seconds, process_times, read_cpu
from benchmarks.measure.postgres import Counters
from benchmarks.measure.statistics import Spread, percentile, ratios, spread
from benchmarks.measure.window import Mark, Window
from benchmarks.orders import payloads
from benchmarks.report import rate, report
from benchmarks.results import CellResult, Flushed, Header, Latency, read, write


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """The smallest one that so many do not exceed."""
    values = [float(each) for each in range(1, 101)]
    assert [percentile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([7], 0.99) == 7
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_ratios_are_of_the_same_round() -> None:
    """A round in which one of both is missing counts for nothing: the machine was another in other minutes."""
    assert ratios({0: 10, 1: 30, 2: 50}, {0: 5, 1: 10, 3: 1}) == Spread(2.5, 2, 3, 2)
    assert ratios({0: 1}, {1: 1}) is None
    assert ratios({0: 1}, {0: 0}) is None
    assert spread([]) is None


def test_proc_is_read_right() -> None:
    """A process may have a name with spaces and brackets; children that it waited for count with it."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = f"S 41 1 1 0 -1 0 0 0 0 0 {2 * ticks} {3 * ticks} {5 * ticks} {7 * ticks} 20 0"
    assert process_times(f"42 (a (strange) name) {fields}") == (41, 17)
    busy = " ".join(str(each * ticks) for each in (1, 2, 4, 1000, 1000, 8, 16, 32, 1000, 1000))
    assert machine_seconds(f"cpu  {busy}\ncpu0 1 1 1\n") == 63


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_process_counts_with_its_descendants() -> None:
    """Also those that have ended, and only in its own group."""
    burn = "import time\nwhile time.process_time() < 0.15: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}]); input()"
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:  # noqa: S603 (our own code)
        before = read_cpu({"it": [process.pid], "other": []})
        deadline = time.monotonic() + 30
        while (now := read_cpu({"it": [process.pid], "other": []})).groups["it"] < 0.15:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.communicate(b"\n")
    assert now.groups["other"] == 0
    assert now.ours - before.ours >= now.groups["it"] - before.groups["it"] - 0.05
    assert now.machine >= before.machine


def a_window(ours: float, machine: float) -> Window:
    begin = Mark(100, Reading({"worker": 1}, 5, 50), {"shop": Counters(10, 1000)})
    end = Mark(110, Reading({"worker": 3}, 5 + ours, 50 + machine), {"shop": Counters(70, 9000)})
    return Window(begin, end)


def test_a_window_is_shared_out_to_its_orders() -> None:
    """Milliseconds of CPU, flushes and bytes for each order; foreign is what our processes did not use."""
    window = a_window(ours=12, machine=15)
    assert window.seconds == 10
    assert window.cpu(20) == {"worker": 100}
    assert window.flushed(20) == {"shop": Flushed(fsyncs=3, wal_bytes=400)}
    assert window.foreign == pytest.approx(0.3)
    assert a_window(ours=12, machine=11.9).foreign == 0  # ticks are coarse


def a_result(arm: str, number: int, orders_per_second: float, foreign: float = 0) -> CellResult:
    return CellResult(
        arm=arm,
        round=number,
        customers=16,
        items=3,
        offered=None,
        seconds=10,
        orders=100,
        rate=orders_per_second,
        answer=Latency(p50=1, p99=2),
        done=Latency(p50=3, p99=4),
        cpu={"worker": 10, "client": 5},
        postgres={name: Flushed(fsyncs=1, wal_bytes=1000) for name in ("engine", "shop")},
        events=47,
        workflow_tasks=6,
        history_bytes=9000,
        foreign=foreign,
    )


HEADER = Header(
    when="2026-11-29 12:00 UTC",
    commit="0123456789",
    profile="quick",
    engine="dev",
    cores=2,
    processor="a processor",
    versions={"Python": "3.11"},
    arms={"floor": "the floor", "product": "the product"},
    skipped={"dbos-7": "the package dbos is not installed"},
    seconds=10,
    seed=1,
)


def test_a_disturbed_cell_is_shown_and_enters_no_ratio() -> None:
    """Neither its own ratio nor that of another arm; a figure with calm rounds forgets the others."""
    results = [
        *(a_result("floor", number, 20) for number in range(3)),
        a_result("product", 0, 10),
        a_result("product", 1, 12),
        a_result("product", 2, 2, foreign=0.3),
    ]
    text = report(HEADER, results)
    assert "| orders/s through the floor's, 16 customers | 0.55x (0.50–0.60) |" in text  # noqa: RUF001
    assert "| product | 11.0 (10.0–12.0) |" in text  # noqa: RUF001
    assert "Skipped: dbos-7, because the package dbos is not installed." in text
    disturbed = report(HEADER, [*results[:3], a_result("product", 0, 10, foreign=0.3)])
    assert "| product | 10.0† |" in disturbed
    assert "through the floor's" not in disturbed
    assert rate(results[0]) == 20


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    """A file without a header is refused."""
    path = tmp_path / "folder" / "results.jsonl"
    results = [a_result("floor", 0, 20)]
    write(path, [HEADER])
    write(path, results)
    assert read(path) == (HEADER, results)
    path.write_text("")
    with pytest.raises(ValueError, match="no header"):
        read(path)


def test_the_same_seed_orders_the_same() -> None:
    """Each product once in a cart."""
    first, again = payloads(50, 7), payloads(50, 7)
    assert next(first) == (cart := next(again))
    assert len({item["productId"] for item in cart["items"]}) == 50


async def test_customers_of_a_closed_loop_order_one_after_the_other() -> None:
    """As many at a time as there are customers; each finishes the last order."""
    active, most = 0, 0

    async def place(_id: str, _payload: Payload, answered: Callable[[], None]) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0)
        answered()
        active -= 1

    load = Load(place, ({} for _ in count()), "order")
    task = asyncio.create_task(load.closed(3))
    await during(task, load.until_done(10))
    load.stop()
    await task
    assert (active, most) == (0, 3)
    assert len({sample.order_id for sample in load.samples}) == len(load.samples) >= 10


@pytest.mark.prove
async def test_customers_of_an_open_loop_are_timed_from_when_they_were_due() -> None:
    """Also while the program is late, which would otherwise hide the wait."""

    async def place(_id: str, _payload: Payload, answered: Callable[[], None]) -> None:
        time.sleep(0.02)  # noqa: ASYNC251 (the loop is held up on purpose)
        answered()

    load = Load(place, ({} for _ in count()), "order")
    task = asyncio.create_task(load.open(1000, Random(1)))  # noqa: S311
    await during(task, load.until_done(10))
    load.stop()
    await task
    waits = [sample.answered - sample.began for sample in load.samples]
    assert waits[9] > 5 * 0.02


async def test_an_order_that_fails_ends_the_cell() -> None:
    """It is not left out of the figures."""

    async def place(*_: object) -> None:
        raise RuntimeError("refused")

    load = Load(place, ({} for _ in count()), "order")
    task = asyncio.create_task(load.closed(1))
    with pytest.raises(RuntimeError, match="refused"):
        await during(task, load.until_done(1))


def test_an_open_cell_is_another_cell() -> None:
    """It is named by its load."""
    assert Cell(0, is_open=True).name == "open loop at 70%, 3 items"
    assert (Cell(16).name, Cell(1, 1).name) == ("16 customers, 3 items", "1 customer, 1 item")
