"""The errors of this project, as one tree.

    OrderError
    ├── InvalidInput        the input is refused before anything happens; every problem is named
    ├── UnknownOrder        Temporal has no run of the order
    ├── NotParked           an operator resolves a step that is not parked
    ├── NotPayable          an order does not take another payment method now
    ├── NotFound            a client names a Schedule or a product that does not exist
    ├── RunFailed           the run that a client waits for has failed
    ├── Unreadable          what Temporal answers is encrypted, and the key is not here
    ├── Unavailable         a technical failure that another attempt may heal: an outage, a limit, a lost answer
    │   └── NoAnswer        Temporal is out of reach, no worker polls, or the time that a caller gave is over
    └── Permanent           no further attempt can help: a forward step is undone, an undo parks

A business refusal (out of stock, declined) is none of these. `Unavailable` and `Permanent` cross the wire as Temporal
application errors; their `type` is the contract. No message may hold a secret, an e-mail address or a card number.
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


class UnknownOrder(OrderError):
    """Temporal has no run of the order."""


class NotParked(OrderError):
    """The step that an operator resolves is not parked."""


class NotPayable(OrderError):
    """The order does not take another payment method now; the message says why."""


class NotFound(OrderError):
    """There is no such Schedule, or no such product."""


class RunFailed(OrderError):
    """The run that a client waits for has failed; the message says why. It may be started again."""


class Unreadable(OrderError):
    """What Temporal answers is encrypted, and the key is not here. What was asked for may be under way: ask again.

    In a workflow it fails the workflow task, which is retried until a worker has the key: nothing is refused or undone.
    """


class Unavailable(OrderError, ApplicationError):
    """Temporal retries it, after `retry_after` where the external service named a time.

    An `expected` one is ordinary operation: it is neither logged nor counted as an error.
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


class NoAnswer(Unavailable):
    """Temporal gives no answer in time. What was asked for may be under way all the same; asking again is safe."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="temporal_unavailable")

    def __str__(self) -> str:
        """The message alone: programs show it to people."""
        return self.message


class Permanent(OrderError, ApplicationError):
    """Temporal never retries it: a forward step is undone, an undo parks and waits for an operator."""

    def __init__(self, message: str, *, type: str) -> None:  # noqa: A002
        ApplicationError.__init__(self, message, type=type, non_retryable=True)
