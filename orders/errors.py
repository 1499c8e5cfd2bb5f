"""Everything that can go wrong, as one tree.

    OrderError
    ├── InvalidInput        refused before anything happened; every problem is named
    ├── NoAnswer            a client waited in vain: Temporal is out of reach, or no worker works
    ├── UnknownOrder        no run of that order is known to Temporal
    ├── NotParked           a client settles a step that waits for nobody
    ├── NotFound            a client names a Schedule or a product that does not exist
    ├── RunFailed           a client waited for a run, and it failed
    ├── Unavailable         worth another try: an outage, a limit, a lost answer
    └── Permanent           another try cannot help: undo, or ask a person

A business "no" (out of stock, declined, refused) is none of these: it is a result. `Unavailable` and `Permanent` cross
the wire as Temporal application errors; their `type` is the contract. No message may hold a secret, an e-mail address
or a card number.
"""

from collections.abc import Sequence
from datetime import timedelta

from temporalio.exceptions import ApplicationError, ApplicationErrorCategory


class OrderError(Exception):
    """Base of all errors of this project."""


class InvalidInput(OrderError):
    """The input is refused; `problems` has one line per field."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class NoAnswer(OrderError):
    """Nobody answers a client. What it asked for may be under way all the same; asking again is safe."""


class UnknownOrder(OrderError):
    """Temporal knows no run of the order."""


class NotParked(OrderError):
    """The step that an operator speaks of is not parked."""


class NotFound(OrderError):
    """There is no such Schedule, or no such product."""


class RunFailed(OrderError):
    """A run that a client waited for came to no result; the message says why. It may be started again."""


class Unavailable(OrderError, ApplicationError):
    """Retried by Temporal, after `retry_after` where the external service named a time.

    An `expected` one is part of the day's work: it is not logged and not counted as an error.
    """

    def __init__(
        self,
        message: str,
        *,
        type: str,  # noqa: A002
        retry_after: timedelta | None = None,
        expected: bool = False,
    ) -> None:
        category = ApplicationErrorCategory.BENIGN if expected else ApplicationErrorCategory.UNSPECIFIED
        ApplicationError.__init__(self, message, type=type, next_retry_delay=retry_after, category=category)


class Permanent(OrderError, ApplicationError):
    """Never retried: a forward step is undone, an undo is parked for a person."""

    def __init__(self, message: str, *, type: str) -> None:  # noqa: A002
        ApplicationError.__init__(self, message, type=type, non_retryable=True)
