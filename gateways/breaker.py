"""A circuit breaker: an external service that keeps failing is left alone for a while."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import structlog

from orders.errors import OrderError, Unavailable

MAX_FAILURES: Final = 5  # in a row
PAUSE: Final = 30  # seconds; longer than any call, so that one call at a time finds out whether the service is back

log = structlog.get_logger()


class Breaker:
    """Counts the failures of one kind of call, in this process.

    After MAX_FAILURES in a row every call fails at once, without a request. After PAUSE one call is made: if the
    service answers, all calls are made again.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._failures = 0
        self._next_call = 0.0
        self._last = ""

    @contextmanager
    def watch(self, failure: str) -> Iterator[None]:
        """Make one call in this block. It has failed if it raises an error of the type `failure`; any answer is none.

        Raises:
            Unavailable: of the type `<service>_suspended`, without a call.
        """
        self._admit()
        try:
            yield
        except OrderError as error:
            if isinstance(error, Unavailable) and error.type == failure:
                self._count(error)
            else:
                self._failures = 0
            raise
        self._failures = 0

    def _admit(self) -> None:
        if self._failures < MAX_FAILURES:
            return
        left = self._next_call - time.monotonic()
        if left > 0:
            raise Unavailable(
                f"{self._service}: suspended after {MAX_FAILURES} failures in a row: {self._last}",
                type=f"{self._service}_suspended",
                retry_after=timedelta(seconds=left),
                expected=True,
            )
        self._next_call = time.monotonic() + PAUSE

    def _count(self, error: Unavailable) -> None:
        self._failures += 1
        self._next_call = time.monotonic() + PAUSE
        self._last = error.message.removeprefix(f"{self._service}: ")
        if self._failures == MAX_FAILURES:
            log.warning("suspended", service=self._service, failures=MAX_FAILURES, seconds=PAUSE, last=self._last)
