"""One chaos run: the stack, the load, the faults, the rest, the verdict."""

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from audit.evidence import read_snapshot
from deploy.local.postgres import temporary_folder
from orders.verification import Violation
from tests.proof.chaos.checker import Judge
from tests.proof.chaos.cluster import Cluster
from tests.proof.chaos.load import Load
from tests.proof.chaos.nemesis import Nemesis
from tests.proof.chaos.plan import Plan
from tests.proof.chaos.report import Durations, Report

CUSTOMERS: Final = 32  # at a time
TOLD: Final = 10  # times, how far it is, where nothing is live
QUIET_WITHIN: Final = 300  # seconds after the last planned


async def run_chaos(plan: Plan, console: Console, evidence: Path, customers: int = CUSTOMERS) -> Report:
    """Carry out a plan, with its progress on the console, and judge what is left.

    Args:
        plan: what happens.
        console: where to tell of it.
        evidence: a new folder, for all data and logs if a rule is broken.
        customers: how many order at a time.

    Raises:
        StackError: a part of the stack does not start.
    """
    console.print(f"seed {plan.seed}: {len(plan.errands)} orders, {len(plan.faults)} faults, plan {plan.fingerprint}")
    with temporary_folder() as folder, _progress(console) as progress:
        cluster = Cluster(folder, plan.capture)
        async with cluster.open(plan.hot_units):
            report = await Run(cluster, plan, progress).go(customers)
        if not report.passed:
            shutil.copytree(folder, evidence)
            console.print(f"data and logs: {evidence}")
    return report


class Run:
    """The parts of one run and its clock, in seconds of the monotonic one."""

    def __init__(self, cluster: Cluster, plan: Plan, progress: Progress) -> None:
        self._cluster = cluster
        self._plan = plan
        self._progress = progress
        self._bar = progress.add_task("orders", total=len(plan.errands))
        self._nemesis = Nemesis(cluster, plan)
        self._load = Load(cluster, self._order_begins)
        self._all_began = asyncio.Event()

    async def go(self, customers: int) -> Report:
        """Load and faults, then peace, then the verdict."""
        judge = Judge(self._cluster, (await read_snapshot(self._cluster.pool, [])).units)
        watching = asyncio.create_task(judge.watch_stock())
        load = asyncio.create_task(self._load.go(self._plan, customers))
        try:
            return await self._storm(judge, load, watching)
        finally:
            for task in (watching, load):
                task.cancel()
            await asyncio.gather(watching, load, self._nemesis.stop(), return_exceptions=True)

    async def _storm(self, judge: Judge, load: asyncio.Task[None], watching: asyncio.Task[None]) -> Report:
        began = time.monotonic()
        await _first(load, self._all_began.wait())
        self._say("the last faults fall")
        await self._nemesis.peace()
        peace = time.monotonic()
        self._say("peace; everything comes to rest")
        restless = await self._rest(load, judge)
        quiet = time.monotonic()
        await _stop(watching)
        self._say("the books are checked")
        snapshot, found = await judge.verdict(self._load)
        return Report(
            seed=self._plan.seed,
            plan=self._plan.fingerprint,
            capture=self._plan.capture,
            orders=len(self._plan.errands),
            answers=_answers(self._load),
            statuses=Counter(order.status for order in snapshot.orders),
            faults=self._nemesis.kinds,
            missed=self._nemesis.missed,
            request_faults=await self._cluster.request_faults(),
            authenticated=self._load.authenticated,
            retried_by_hand=judge.retried,
            stock_checks=judge.stock_checks,
            runs=judge.runs,
            replayed=judge.replayed,
            load_seconds=peace - began,
            quiet_seconds=quiet - peace,
            order_seconds=self._durations(),
            slowest_recovery_seconds=max(self._recoveries(), default=0),
            violations=(*restless, *found),
        )

    def _order_begins(self, number: int) -> None:
        self._nemesis.order_begins(number)
        orders = len(self._plan.errands)
        faults = f"{len(self._nemesis.fallen)} faults"
        self._progress.update(self._bar, advance=1, description=faults)
        if number % ceil(orders / TOLD) == 0:
            self._tell(f"order {number} of {orders}, {faults}")
        if number == orders - 1:
            self._all_began.set()

    def _say(self, words: str) -> None:
        self._progress.update(self._bar, description=words)
        self._tell(words)

    def _tell(self, words: str) -> None:
        """Where nothing is live."""
        if self._progress.disable:
            self._progress.console.print(words)

    async def _rest(self, load: asyncio.Task[None], judge: Judge) -> list[Violation]:
        try:
            async with asyncio.timeout(QUIET_WITHIN):
                await asyncio.gather(load, judge.rest())
                await judge.rest()  # a late cancel may have come in between
        except TimeoutError:
            waiting = len(self._plan.errands) - len(self._load.spans)
            what = f"not within {QUIET_WITHIN} s of peace; {waiting} customers still wait"
            return [Violation(subject="the shop", rule="everything comes to rest", what=what)]
        return []

    def _durations(self) -> Durations:
        spans = sorted(ended - began for began, ended in self._load.spans.values()) or [0.0]
        return Durations(median=median(spans), p99=spans[ceil(0.99 * len(spans)) - 1], slowest=spans[-1])

    def _recoveries(self) -> Iterator[float]:
        """Of every order upon which a planned fell: from the last one to its last answer."""
        faults = [fallen.at for fallen in self._nemesis.fallen if fallen.planned.is_on_a_process]
        for began, ended in self._load.spans.values():
            if during := [planned for planned in faults if began <= planned <= ended]:
                yield ended - max(during)


def _answers(load: Load) -> Counter[str]:
    orders = Counter(
        "placed" if outcome.success else str(outcome.error_code)
        for outcomes in load.orders.values()
        for outcome in outcomes
    )
    cancels = Counter(
        f"cancel: {'yes' if answer.cancelled else 'no'}, {answer.reason or 'refunded'}"
        for answers in load.cancels.values()
        for answer in answers
    )
    return orders + cancels


async def _stop(watching: asyncio.Task[None]) -> None:
    """End what goes on for ever; if it has ended by itself, its error is ours."""
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def _first(task: asyncio.Task[None], other: Coroutine[None, None, object]) -> None:
    """Wait for the other; an error of the task is ours."""
    waiting = asyncio.ensure_future(other)
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    await waiting


def _progress(console: Console) -> Progress:
    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
