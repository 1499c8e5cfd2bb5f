"""Serving an application inside the running event loop."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import uvicorn
from starlette.applications import Starlette

from app.listener import open_listener

MAX_CONNECTIONS: Final = 2000  # idle ones too; a proxy in front keeps most of those away
DRAIN_SECONDS: Final = 30  # for the requests under way when the process stops


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to app.process."""
        yield


@asynccontextmanager
async def serve(app: Starlette, host: str, port: int, *, setting: str = "WEBHOOKS_PORT") -> AsyncIterator[str]:
    """Serve while the block lasts, then finish the requests under way; yields the address. Port 0: a free one.

    `setting` is the one that gives the address, for the error.

    Raises:
        CannotStart: the address cannot be used.
    """
    listener = open_listener(setting, host, port)
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
