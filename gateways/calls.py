"""The calls of external services, counted and measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from orders.metrics import EXTERNAL_CALL_SECONDS

KNOWN: Final = frozenset(map(int, HTTPStatus))


class Call:
    """One request; `status` is that of its answer, as text."""

    def __init__(self) -> None:
        self.status = "none"

    def answered(self, status: int) -> None:
        """Note the HTTP status of the answer. One that HTTP does not define is `other`: anybody could invent many."""
        self.status = str(status) if status in KNOWN else "other"


@contextmanager
def watch_call(service: str) -> Iterator[Call]:
    """Make one request in this block, and say what was answered."""
    call, start = Call(), time.monotonic()
    try:
        yield call
    finally:
        EXTERNAL_CALL_SECONDS.observe(time.monotonic() - start, service=service, status=call.status)
