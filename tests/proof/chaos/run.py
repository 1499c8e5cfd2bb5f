"""One chaos run: start the stack, place orders while faults are injected, wait for rest, check all rules."""

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
from tests.proof.chaos.checker import Checker
from tests.proof.chaos.cluster import Cluster
from tests.proof.chaos.load import Load
from tests.proof.chaos.nemesis import Nemesis
from tests.proof.chaos.plan import Plan
from tests.proof.chaos.report import Durations, Report
from tests.proof.second_opinion import count_units

CUSTOMERS: Final = 32  # at a time
PROGRESS_LINES: Final = 10  # where the console is no terminal
REST_WITHIN: Final = 300  # seconds after the last fault


async def run_chaos(plan: Plan, console: Console, evidence: Path, customers: int = CUSTOMERS) -> Report:
    """Carry out a plan, print its progress on the console, and check the rules.

    Args:
        plan: the orders and the faults.
        console: where progress is printed.
        evidence: a new folder that receives all data and logs if a rule is broken.
        customers: how many order at a time.

    Raises:
        StackError: a process of the stack does not start.
    """
    console.print(f"seed {plan.seed}: {len(plan.orders)} orders, {len(plan.faults)} faults, plan {plan.fingerprint}")
    with temporary_folder() as folder, _progress(console) as progress:
        cluster = Cluster(folder, plan)
        async with cluster.open(plan.hot_units):
            report = await Run(cluster, plan, progress).carry_out(customers)
        if not report.passed:
            shutil.copytree(folder, evidence)
            console.print(f"data and logs: {evidence}")
    return report


class Run:
    """The cluster, the load and the faults of one run."""

    def __init__(self, cluster: Cluster, plan: Plan, progress: Progress) -> None:
        self._cluster = cluster
        self._plan = plan
        self._progress = progress
        self._bar = progress.add_task("orders", total=len(plan.orders))
        self._nemesis = Nemesis(cluster, plan)
        self._load = Load(cluster, self._order_begins)
        self._all_began = asyncio.Event()

    async def carry_out(self, customers: int) -> Report:
        """Place the orders and inject the faults, then check what is left."""
        pool = self._cluster.pool
        checker = Checker(self._cluster, (await read_snapshot(pool, [])).units, await count_units(pool))
        watching = asyncio.create_task(checker.watch_stock())
        load = asyncio.create_task(self._load.run(self._plan, customers))
        try:
            return await self._go(checker, load, watching)
        finally:
            for task in (watching, load):
                task.cancel()
            await asyncio.gather(watching, load, self._nemesis.stop(), return_exceptions=True)

    async def _go(self, checker: Checker, load: asyncio.Task[None], watching: asyncio.Task[None]) -> Report:
        began = time.monotonic()
        await _first(load, self._all_began.wait())
        self._report("the last faults are injected")
        await self._nemesis.finish()
        calm = time.monotonic()
        self._report("the faults are over; all orders come to rest")
        restless = await self._rest(load, checker)
        quiet = time.monotonic()
        await _stop(watching)
        self._report("all rules are checked")
        snapshot, found = await checker.check(self._load)
        return Report(
            seed=self._plan.seed,
            plan=self._plan.fingerprint,
            capture=self._plan.capture,
            execution=self._plan.execution,
            orders=len(self._plan.orders),
            answers=_answers(self._load),
            statuses=Counter(order.status for order in snapshot.orders),
            faults=self._nemesis.kinds,
            missed=self._nemesis.missed,
            request_faults=await self._cluster.request_faults(),
            authenticated=self._load.authenticated,
            paid_again=self._load.paid_again,
            retried_by_operator=checker.retried,
            parcels=checker.parcels,
            shortages=checker.shortages,
            shortages_refunded=checker.shortages_refunded,
            stock_checks=checker.stock_checks,
            runs=checker.runs,
            replayed=checker.replayed,
            load_seconds=calm - began,
            quiet_seconds=quiet - calm,
            order_seconds=self._durations(),
            slowest_recovery_seconds=max(self._recoveries(), default=0),
            violations=(*restless, *found),
        )

    def _order_begins(self, number: int) -> None:
        self._nemesis.order_begins(number)
        orders = len(self._plan.orders)
        faults = f"{len(self._nemesis.injected)} faults"
        self._progress.update(self._bar, advance=1, description=faults)
        if number % ceil(orders / PROGRESS_LINES) == 0:
            self._print(f"order {number} of {orders}, {faults}")
        if number == orders - 1:
            self._all_began.set()

    def _report(self, text: str) -> None:
        self._progress.update(self._bar, description=text)
        self._print(text)

    def _print(self, text: str) -> None:
        """Print a line where the console is no terminal."""
        if self._progress.disable:
            self._progress.console.print(text)

    async def _rest(self, load: asyncio.Task[None], checker: Checker) -> list[Violation]:
        try:
            async with asyncio.timeout(REST_WITHIN):
                await asyncio.gather(load, checker.rest())
                await checker.rest()  # a late cancel may have come meanwhile
                await checker.let_an_hour_pass()
                await checker.rest()
        except TimeoutError:
            waiting = len(self._plan.orders) - len(self._load.spans)
            what = f"not within {REST_WITHIN} s after the last fault; {waiting} customers still wait"
            return [Violation(subject="the shop", rule="all orders come to rest", what=what)]
        return []

    def _durations(self) -> Durations:
        spans = sorted(ended - began for began, ended in self._load.spans.values()) or [0.0]
        return Durations(median=median(spans), p99=spans[ceil(0.99 * len(spans)) - 1], slowest=spans[-1])

    def _recoveries(self) -> Iterator[float]:
        """For each order during which a process fault began: seconds from the last one to the last answer."""
        faults = [each.at for each in self._nemesis.injected if each.fault.is_process_fault]
        for began, ended in self._load.spans.values():
            if during := [fault for fault in faults if began <= fault <= ended]:
                yield ended - max(during)


def _answers(load: Load) -> Counter[str]:
    orders = Counter(
        str(outcome.error_code) if not outcome.success else "placed" if outcome.total else "placed for nothing"
        for outcomes in load.orders.values()
        for outcome in outcomes
    )
    cancels = Counter(
        f"cancel: {'yes' if answer.cancelled else 'no'}, {answer.reason or 'refunded'}"
        for answers in load.cancels.values()
        for answer in answers
    )
    refunds = Counter(
        f"refund: {'yes' if answer.refunded else 'no'}, {answer.reason or answer.status or 'nothing to pay'}"
        for answers in load.refunds.values()
        for answer in answers
    )
    return orders + cancels + refunds


async def _stop(watching: asyncio.Task[None]) -> None:
    """End an endless task; raise its error if it has failed."""
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


async def _first(task: asyncio.Task[None], other: Coroutine[None, None, object]) -> None:
    """Wait for the other; raise the error of the task if it fails first."""
    waiting = asyncio.ensure_future(other)
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    await waiting


def _progress(console: Console) -> Progress:
    columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
