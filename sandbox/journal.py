"""The journal: every request to an external service, in order of arrival, without secrets."""

import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from starlette.responses import Response

from sandbox.call import REPLAYED, Call
from sandbox.faults import Fault, NoAnswer
from sandbox.persistence import PersistentDict

# An allowlist: any other header may hold a secret.
HEADERS: Final = ("content-type", "idempotency-key", "stripe-version", "user-agent")

KEPT: Final = 20_000


@dataclass
class Entry:
    """One request. `status` is None while the request is open, and if the caller got no answer."""

    service: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    fault: str | None
    status: int | None = None
    replayed: bool = False
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def close(self, answer: Response) -> None:
        self.status = None if isinstance(answer, NoAnswer) else answer.status_code
        self.replayed = answer.headers.get(REPLAYED) == "true"


class Journal:
    """The latest entries, by request id. Older ones are dropped, so that a sandbox can run for days."""

    def __init__(self) -> None:
        self.lines: PersistentDict[tuple[str, Entry]] = PersistentDict(tuple[str, Entry])

    def open(self, call: Call, about: str, fault: Fault | None) -> str:
        """Record the request and return a new id for it; `about` is text that may contain an order id."""
        headers = {name: call.headers[name] for name in HEADERS if name in call.headers}
        path = f"{call.path}?{call.query}" if call.query else call.path
        entry = Entry(call.service, call.method, path, headers, call.body, fault.kind if fault else None)
        request_id = f"req_{secrets.token_hex(7)}"
        self.lines[request_id] = about, entry
        if len(self.lines) > KEPT:
            del self.lines[next(iter(self.lines))]
        return request_id

    def close(self, request_id: str, answer: Response) -> None:
        """Record the answer, unless the entry was dropped meanwhile."""
        if request_id in self.lines:
            _, entry = self.lines[request_id]
            entry.close(answer)

    def about(self, order: str = "") -> Iterator[dict[str, Any]]:
        """Yield the entries whose request contains the order id."""
        return (asdict(entry) for about, entry in self.lines.values() if order in about)
