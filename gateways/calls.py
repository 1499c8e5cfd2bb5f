"""The calls of external services, counted, measured and traced."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from orders.metrics import EXTERNAL_CALL_SECONDS
from orders.tracing import span

KNOWN: Final = frozenset(map(int, HTTPStatus))


class Call:
    """One request; `status` is that of its answer, as text."""

    def __init__(self) -> None:
        self.status = "none"

    def answered(self, status: int) -> None:
        """Note the HTTP status of the answer. One that HTTP does not define is `other`: anybody could invent many."""
        self.status = str(status) if status in KNOWN else "other"


@contextmanager
def watch_call(service: str, what: str = "") -> Iterator[Call]:
    """Make one request in this block, and say what was answered. `what` is for its trace, and holds no secret."""
    call, start = Call(), time.monotonic()
    attributes = {"request": what} if what else {}
    try:
        with span(f"call {service}", attributes):
            try:
                yield call
            finally:
                attributes["status"] = call.status
    finally:
        EXTERNAL_CALL_SECONDS.observe(time.monotonic() - start, service=service, status=call.status)
