"""What a chaos run reports: a table for the terminal, and JSON."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from orders.models import Model
from orders.verification import Violation
from tests.proof.chaos.plan import PROCESS_FAULTS


class Durations(Model):
    """In seconds."""

    median: float
    p99: float
    slowest: float


class Report(Model):
    """`quiet_seconds` is from the end of the last fault until all orders have come to rest.

    `faults` counts the injected faults by kind, `missed` those that had no target; `request_faults` counts the requests
    that failed by one. `shortages` are of units that can never leave, and so many of them are refunded. Of the `runs`
    of all workflows so many were `replayed`.

    A recovery is the time from the last process fault during an order to its last answer.
    """

    seed: int
    plan: str
    capture: str
    execution: str
    orders: int
    answers: Mapping[str, int]
    statuses: Mapping[str, int]
    faults: Mapping[str, int]
    missed: int
    request_faults: Mapping[str, int]
    authenticated: int
    paid_again: int
    retried_by_operator: int
    parcels: int
    shortages: int
    shortages_refunded: int
    stock_checks: int
    runs: int
    replayed: int
    load_seconds: float
    quiet_seconds: float
    order_seconds: Durations
    slowest_recovery_seconds: float
    violations: tuple[Violation, ...]

    @property
    def passed(self) -> bool:
        return not self.violations

    @property
    def process_faults(self) -> int:
        """Kills, stops, restarts, and connections that were cut."""
        return sum(count for kind, count in self.faults.items() if kind.split()[0] in PROCESS_FAULTS)


def show(report: Report, console: Console) -> None:
    """The report as a table of facts, then every violation."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_row("seed", f"{report.seed}, plan {report.plan}, {report.capture} capture, {report.execution}")
    table.add_row("orders", f"{report.orders} in {report.load_seconds:.0f} s")
    table.add_row("answers", _counts(report.answers))
    table.add_row("orders ended", _counts(report.statuses))
    table.add_row(f"faults: {sum(report.faults.values())}", _counts(report.faults))
    table.add_row("faults without a target", str(report.missed))
    table.add_row(f"request faults: {sum(report.request_faults.values())}", _counts(report.request_faults))
    table.add_row("customers who authenticated", str(report.authenticated))
    table.add_row("customers who paid with another card", str(report.paid_again))
    table.add_row("parked, retried by the operator", str(report.retried_by_operator))
    table.add_row("parcels that left", str(report.parcels))
    table.add_row("shortages, refunded", f"{report.shortages}, {report.shortages_refunded}")
    table.add_row("from the last fault to rest", f"{report.quiet_seconds:.1f} s")
    times = report.order_seconds
    table.add_row("an order took", f"median {times.median:.1f} s, p99 {times.p99:.1f} s, slowest {times.slowest:.1f} s")
    table.add_row("slowest recovery of an order", f"{report.slowest_recovery_seconds:.1f} s")
    table.add_row("stock checked meanwhile", f"{report.stock_checks} times")
    table.add_row("histories replayed", f"{report.replayed} of {report.runs}")
    table.add_row("violations", str(len(report.violations)))
    console.print(table)
    for each in report.violations:
        console.print(f"✗ {each.subject}: {each.rule}: {each.what}", style="red", markup=False)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda each: (-each[1], each[0])))
