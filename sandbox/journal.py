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

# Named one by one: what is not known to be harmless is not written down.
HEADERS: Final = ("content-type", "idempotency-key", "stripe-version", "user-agent")

KEPT: Final = 20_000


@dataclass
class Entry:
    """One request. `status` stays None while it is under way, and where the caller got no answer."""

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
    """The last entries, by request id; older ones are forgotten, so that a sandbox can run for days."""

    def __init__(self) -> None:
        self.lines: PersistentDict[tuple[str, Entry]] = PersistentDict(tuple[str, Entry])

    def open(self, call: Call, about: str, fault: Fault | None) -> str:
        """Write the request down and give it an id; `about` is what may name an order."""
        headers = {name: call.headers[name] for name in HEADERS if name in call.headers}
        path = f"{call.path}?{call.query}" if call.query else call.path
        entry = Entry(call.service, call.method, path, headers, call.body, fault.kind if fault else None)
        request_id = f"req_{secrets.token_hex(7)}"
        self.lines[request_id] = about, entry
        if len(self.lines) > KEPT:
            del self.lines[next(iter(self.lines))]
        return request_id

    def close(self, request_id: str, answer: Response) -> None:
        """Add how the request ended, unless that is long ago."""
        if request_id in self.lines:
            _, entry = self.lines[request_id]
            entry.close(answer)

    def about(self, order: str = "") -> Iterator[dict[str, Any]]:
        """The entries whose request names the order."""
        return (asdict(entry) for about, entry in self.lines.values() if order in about)
