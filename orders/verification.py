"""What verify-orders says, and what travels between it and its activities."""

from collections.abc import Mapping

from orders.models import Model


class Violation(Model):
    """A rule that is broken, by its name, and of what: `subject` is an order id, or `product <id>`."""

    subject: str
    rule: str
    what: str

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.subject}: {self.what} (rule {self.rule})"


class CheckResult(Model):
    """What was found of a page of orders, or of the stock; `checked` did not change while they were looked at."""

    checked: int
    violations: tuple[Violation, ...]


class VerifyReport(Model):
    """What one run of verify-orders found; `checked` orders were judged by `rules`, names with their words.

    `count` violations there are, and the first of them are listed. `unverified` says what nobody could look at, and
    why: that is no violation. `alerted` is of how many violations a person was told by this run.
    """

    checked: int
    count: int
    violations: tuple[Violation, ...]
    rules: Mapping[str, str]
    unverified: tuple[str, ...] = ()
    alerted: int = 0
