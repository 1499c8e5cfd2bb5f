"""The journal: every request to an external service and its answer, in order of arrival, without secrets."""

import re
import secrets
from collections.abc import Iterable, Iterator
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

# Characters of an answer that are kept: all of an object, the beginning of a list or of an embedding.
MAX_ANSWER: Final = 2_000

_CLIENT_SECRET: Final = re.compile(r"_secret_\w*")


@dataclass
class Entry:
    """One request. `status` and `answer` are None while the request is open, and if the caller got no answer."""

    service: str
    method: str
    path: str
    headers: dict[str, str]
    body: Any
    fault: str | None
    status: int | None = None
    answer: str | None = None
    replayed: bool = False
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def close(self, answer: Response) -> None:
        if not isinstance(answer, NoAnswer):
            self.status, self.answer = answer.status_code, _kept(answer.body)
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

    def of(self, orders: Iterable[str]) -> dict[str, list[Entry]]:
        """Return the entries about each of these orders, oldest first."""
        found: dict[str, list[Entry]] = {order: [] for order in orders}
        for about, entry in self.lines.values():
            for order, entries in found.items():
                if names_order(about, order):
                    entries.append(entry)
        return found


def names_order(text: str, order: str) -> bool:
    """Whether a text contains this order id, and not only a longer one."""
    return order in text and bool(re.search(rf"(?<![\w.-]){re.escape(order)}(?![\w-]|\.\w)", text))


def _kept(body: bytes | memoryview) -> str:
    # No character has more than four bytes; a list of embeddings has hundreds of thousands.
    text = bytes(body[: 4 * MAX_ANSWER]).decode(errors="replace")
    text = _CLIENT_SECRET.sub("_secret_…", text)
    return text if len(text) <= MAX_ANSWER else f"{text[:MAX_ANSWER]}…"
