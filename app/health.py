"""What probes ask a process: GET /healthz, whether its event loop runs, and GET /readyz, whether it takes work.

The event loop itself answers, so a loop that is blocked answers no probe. No external service is asked: a restart
would not bring it back. It uses no web framework, because the worker loads none.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final

from app.listener import open_listener
from config.settings import Settings

REQUEST_SECONDS: Final = 5  # for a probe to send its request
READY: Final = "ready"


class Health:
    """The state of one process, and its answers to probes."""

    def __init__(self) -> None:
        self._state = "starting"

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The process takes work while the block lasts, and finishes what it has after it."""
        self._state = READY
        try:
            yield
        finally:
            self._state = "draining"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, then close the connection."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response_to(head))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # no probe
        finally:
            writer.close()

    def _response_to(self, head: bytes) -> bytes:
        status, body = self._status_of(head.split(b"\r\n", 1)[0])
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        return "\r\n".join([*lines, "", body]).encode()

    def _status_of(self, request: bytes) -> tuple[HTTPStatus, str]:
        match request.split(b" ")[:2]:
            case [b"GET", b"/healthz"]:
                return HTTPStatus.OK, "ok"
            case [b"GET", b"/readyz"]:
                return HTTPStatus.OK if self._state == READY else HTTPStatus.SERVICE_UNAVAILABLE, self._state
            case _:
                return HTTPStatus.NOT_FOUND, "not found"


@asynccontextmanager
async def serve_health(settings: Settings) -> AsyncIterator[Health]:
    """Answer probes at HEALTH_ADDRESS while the block lasts, if it is set.

    Raises:
        CannotStart: the address cannot be used.
    """
    health = Health()
    if not settings.health_address:
        yield health
        return
    host, _, port = settings.health_address.rpartition(":")
    listener = open_listener("HEALTH_ADDRESS", host.strip("[]"), int(port))
    server = await asyncio.start_server(health.answer, sock=listener)
    try:
        yield health
    finally:
        server.close()
