"""Serving an application inside the running event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette

from app.startup_checks import CannotStart

MAX_CONNECTIONS: Final = 2000  # idle ones too; a proxy in front keeps most of those away
DRAIN_SECONDS: Final = 30  # for the requests under way when the process stops


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to app.process."""
        yield


@asynccontextmanager
async def serve(app: Starlette, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block lasts, then finish the requests under way; yields the address. Port 0: a free one.

    Raises:
        CannotStart: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # without the address, which is named already
        raise CannotStart(
            f"WEBHOOKS_PORT {port} of {host} cannot be used: {reason}. Stop the program that uses it, or set "
            "another WEBHOOKS_HOST or WEBHOOKS_PORT, e.g. WEBHOOKS_PORT=8411"
        ) from None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://{host}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
