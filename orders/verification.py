"""What verify-orders answers, and what it exchanges with its activities."""

from collections.abc import Mapping

from orders.models import Model


class Violation(Model):
    """A broken invariant, by its name. `subject` is an order id, `product <id>` or `schedule <name>`."""

    subject: str
    rule: str
    what: str

    @property
    def text(self) -> str:
        """One line for operators."""
        return f"{self.subject}: {self.what} (rule {self.rule})"


class CheckResult(Model):
    """What a check found. `checked` counts the orders or products that did not change during the check.

    `unverified` says which of them could not be checked, and why.
    """

    checked: int
    violations: tuple[Violation, ...]
    unverified: tuple[str, ...] = ()


class VerifyReport(Model):
    """What one run of verify-orders found. `checked` counts orders, `rules` maps names of invariants to their texts.

    `count` is the number of violations; only the first of them are listed. `unverified` says what could not be checked,
    and why: that is no violation. `alerted` is the number of violations that this run alerted operators of.
    """

    checked: int
    count: int
    violations: tuple[Violation, ...]
    rules: Mapping[str, str]
    unverified: tuple[str, ...] = ()
    alerted: int = 0
