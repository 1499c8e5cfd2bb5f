"""Print what the explorer finds: `python -m tests.proof.model`; with the name of a RULE the trace that breaks it."""

import sys
import time
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.proof.model.configurations import CONFIGURATIONS, DETECTIONS
from tests.proof.model.explorer import Violation, explore
from tests.proof.model.protocol import Protocol
from tests.proof.model.state import Rule

CONSOLE: Final = Console()


def main() -> int:
    if len(sys.argv) > 1:
        rule = Rule.__members__.get(sys.argv[1])
        if rule is None:
            CONSOLE.print(f"{sys.argv[1]} is no rule. There are: {', '.join(Rule.__members__)}")
            return 2
        CONSOLE.print(f"Without the rule that {rule}:\n\n{violation_without(rule)}", highlight=False, soft_wrap=True)
        return 0
    clean = show_configurations()
    show_rules()
    return 0 if clean else 1


def show_configurations() -> bool:
    """A line for each configuration; true if all are clean."""
    table = Table("configuration", "states", "transitions", "at rest", "seconds", "", title="With all rules")
    violations: list[Violation] = []
    with CONSOLE.status("exploring") as status:
        for name, configuration in CONFIGURATIONS.items():
            status.update(f"exploring: {name}")
            start = time.perf_counter()
            found = explore(Protocol(configuration))
            seconds = f"{time.perf_counter() - start:.1f}"
            verdict = found.violation.invariant if found.violation else "clean"
            table.add_row(name, f"{found.states:,}", f"{found.transitions:,}", f"{found.at_rest:,}", seconds, verdict)
            violations += [found.violation] if found.violation else []
    CONSOLE.print(table, *violations)
    return not violations


def show_rules() -> None:
    table = Table("rule", "without it", "after", title="Without each of them", show_lines=True)
    with CONSOLE.status("taking rules away") as status:
        for rule in Rule:
            status.update(f"without: {rule}")
            violation = violation_without(rule)
            broken = (violation.invariant, f"{len(violation.trace)} steps") if violation else ("nothing", "")
            table.add_row(f"[bold]{rule.name}[/]\n{rule}", *broken)
    CONSOLE.print(table)


def violation_without(rule: Rule) -> Violation | None:
    return explore(Protocol(CONFIGURATIONS[DETECTIONS[rule].configuration], without=frozenset({rule}))).violation


if __name__ == "__main__":
    sys.exit(main())
