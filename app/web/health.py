"""Whether the web process can work: what GET /healthz answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateways.postgres import Database
from orders.errors import Unavailable

PERIOD: Final = 1  # seconds between two questions to PostgreSQL


class Health:
    """Asks PostgreSQL once a second, so that probes, however many, take no connection from events."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers = True  # it did when it was opened

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Ask while the block lasts."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def respond(self, _: Request) -> Response:
        """200, or 503 if PostgreSQL did not answer the last time."""
        if self._answers:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "database unavailable"}, 503)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(PERIOD)
            try:
                async with self._database.transaction() as connection:
                    await connection.execute("SELECT 1")
                self._answers = True
            except Unavailable:
                self._answers = False
