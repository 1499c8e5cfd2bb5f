"""How fast is it, and beside what? `python -m benchmarks run`, `hot`, `scale`, `report`: see docs/performance.md."""

import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from benchmarks.arms.arm import Rules
from benchmarks.arms.registry import ARMS, missing
from benchmarks.cells import PROFILES, Cell, Profile
from benchmarks.docs import write_into_docs
from benchmarks.header import read_header
from benchmarks.hot import measure_hot
from benchmarks.invariants import WrongRun, check_orders
from benchmarks.plots import draw_all
from benchmarks.report import report as tables
from benchmarks.results import CellResult, Header, Result, read, write
from benchmarks.run import Run, open_run
from benchmarks.scale import measure_scale
from benchmarks.servers import Engine, Servers, open_servers
from config.temporal import leave
from deploy.local.data import DATA_DIR
from deploy.local.process import StackError
from deploy.local.stack import until_signaled

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

console: Final = Console(stderr=True, highlight=False, soft_wrap=True)


@app.callback()
def _main() -> None:
    """How fast is it, and beside what? See docs/performance.md."""


@app.command()
def run(  # noqa: PLR0913, PLR0917 (one for each option)
    profile: Annotated[str, typer.Option(help=f"One of: {', '.join(PROFILES)}.")] = "quick",
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm; may be repeated.")] = None,
    customers: Annotated[list[int] | None, typer.Option(help="Only cells with so many; may be repeated.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="How often each cell is measured.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.5, help="How long each cell is measured.")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="Begin no round that would end later; 0: no limit.")] = 0,
    engine: Annotated[Engine, typer.Option(help="The Temporal: dev, or postgres after `make bench-server`.")] = "dev",
    process: Annotated[list[str] | None, typer.Option(help="NAME=PID of a given server on this machine.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file of results.")] = None,
) -> None:
    """Measure all arms side by side. The result is a file of JSON lines, and tables on standard output."""
    chosen = _profile(profile, arm)
    cells = tuple(cell for cell in chosen.cells if not customers or cell.customers in customers)
    chosen = replace(chosen, cells=cells, rounds=rounds or chosen.rounds, seconds=seconds or chosen.seconds)
    bench = Bench(chosen, out or _new_file("run"), minutes)
    pids = {name: int(pid) for name, _, pid in (each.partition("=") for each in process or ())}
    leave(asyncio.run(until_signaled(bench.run(engine, pids), interrupted=130)))


@app.command()
def hot(
    rounds: Annotated[int, typer.Option(min=1, help="How often each cell is measured.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="For each cell; a quarter of it is warm-up.")] = 4,
    out: Annotated[Path | None, typer.Option(help="The file of results.")] = None,
) -> None:
    """Measure reservations alone, of one product that everybody wants and of a thousand: about three minutes."""
    leave(asyncio.run(until_signaled(_keep(measure_hot(rounds, seconds), out or _new_file("hot")), interrupted=130)))


@app.command()
def scale(
    orders: Annotated[int, typer.Option(min=2000, help="How many orders the shop has had in the end.")] = 1_000_000,
    open_runs: Annotated[int, typer.Option(min=0, help="How many runs wait for their customers.")] = 5000,
    out: Annotated[Path | None, typer.Option(help="The file of results.")] = None,
) -> None:
    """Measure a shop of a million orders, thousands of open runs, and several workers: about half an hour."""
    lines = measure_scale(orders, open_runs)
    leave(asyncio.run(until_signaled(_keep(lines, out or _new_file("scale")), interrupted=130)))


@app.command()
def report(
    files: Annotated[list[Path], typer.Argument(help="Files of results.")],
    *,
    docs: Annotated[bool, typer.Option("--docs", help="Write tables and plots into docs/performance.md.")] = False,
) -> None:
    """Show the tables of files of results."""
    found = [read(file) for file in files]
    text = "\n\n".join(tables(header, results) for header, results in found)
    if docs:
        plots = draw_all([result for _, results in found for result in results])
        write_into_docs("\n\n".join(("## The last run", text, *plots)))
    else:
        sys.stdout.write(f"{text}\n")


async def _keep(lines: AsyncIterator[Header | Result], out: Path) -> int:
    """Write the lines of a run, and show them as they come. Exit status 1: it could not run, or its stock is wrong."""
    try:
        async for line in lines:
            write(out, [line])
            console.print(line.model_dump_json(exclude={"kind"}), markup=False)
    except (StackError, WrongRun) as error:
        _discard(out, error)
        return 1
    return _show(out)


def _discard(out: Path, error: Exception) -> None:
    console.print(f"No result: {error}", style="red", markup=False)
    out.unlink(missing_ok=True)


def _show(out: Path) -> int:
    sys.stdout.write(f"{tables(*read(out))}\n")
    console.print(f"Results: {out}")
    return 0


def _profile(name: str, arms: Sequence[str] | None) -> Profile:
    """The profile of that name, with other arms if any are named. Raises BadParameter."""
    if name not in PROFILES:
        raise typer.BadParameter(f"no profile {name}; there are: {', '.join(PROFILES)}")
    names = [arm.name for arm in ARMS]
    if unknown := {*(arms or ())} - {*names}:
        raise typer.BadParameter(f"no arm {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    return replace(PROFILES[name], arms=tuple(arms)) if arms else PROFILES[name]


def _new_file(name: str) -> Path:
    return DATA_DIR / "benchmarks" / f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}.jsonl"


class Bench:
    """One run, from its servers to its tables."""

    def __init__(self, profile: Profile, out: Path, minutes: float) -> None:
        self._profile = profile
        self._out = out
        self._deadline = time.monotonic() + 60 * minutes if minutes else float("inf")

    async def run(self, engine: Engine, pids: dict[str, int]) -> int:
        """Exit status 1: it could not run, or its orders are wrong."""
        try:
            async with open_servers(engine, pids) as servers:
                await self._measure(servers)
        except (StackError, WrongRun) as error:
            _discard(self._out, error)
            return 1
        return _show(self._out)

    async def _measure(self, servers: Servers) -> None:
        wanted = [arm for arm in ARMS if self._profile.arms is None or arm.name in self._profile.arms]
        skipped = {arm.name: why for arm in wanted if (why := missing(arm))}
        arms = [arm for arm in wanted if arm.name not in skipped]
        write(self._out, [await read_header(self._profile, servers, arms, skipped)])
        for name, why in skipped.items():
            console.print(f"Skipped: {name}, because {why}.")
        console.print(f"Starting and warming up: {', '.join(arm.name for arm in arms)} …")
        async with open_run(self._profile, arms, servers) as running:
            await running.warm_up()
            await self._rounds(running)
            console.print("Checking all orders …")
            await check_orders(servers, _orders(running))

    async def _rounds(self, running: Run) -> None:
        rounds = list(running.rounds())
        total = sum(map(len, rounds))
        done, began = 0, time.monotonic()
        for number, pairs in enumerate(rounds):
            pace = (time.monotonic() - began) / done if done else 0
            if time.monotonic() + pace * len(pairs) > self._deadline:
                console.print(f"The time is over after {number} of {len(rounds)} rounds.")
                return
            for runner, cell in pairs:
                result = await running.measure(runner, cell, number)
                write(self._out, [result])
                done += 1
                left = (time.monotonic() - began) / done * (total - done)
                console.print(f"{done}/{total}, {left / 60:.0f} min left: {_line(result, cell)}")


def _orders(running: Run) -> dict[Rules, list[str]]:
    found: dict[Rules, list[str]] = defaultdict(list)
    for runner in running.runners:
        found[runner.arm.rules] += runner.orders
    return found


def _line(result: CellResult, cell: Cell) -> str:
    flag = f", disturbed by {result.foreign:.1f} cores of other programs" if result.is_flagged else ""
    return f"{result.arm}, {cell.name}: {result.rate:.1f} orders/s, first answer in {result.answer.p50:.0f} ms{flag}"


if __name__ == "__main__":
    app()
