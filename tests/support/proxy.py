"""A connection to a server that a test can break."""

import asyncio
from contextlib import suppress
from typing import Any


class Line:
    """A proxy to a server; once `frail` is set, the connection breaks at the next request, and later ones work."""

    def __init__(self, target: str) -> None:
        self.host, self.port = target.split(":")
        self.frail = False
        self.broken = 0
        self._ends: list[asyncio.Future[Any]] = []

    def cut(self) -> None:
        for end in self._ends:
            end.cancel()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection(self.host, int(self.port))
        both = asyncio.gather(self._say(reader, onward), self._pass_on(there, writer), return_exceptions=True)
        self._ends.append(both)
        try:
            with suppress(asyncio.CancelledError):
                await both
        finally:
            writer.close()
            onward.close()

    async def _say(self, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        while said := await reader.read(65_536):
            if self.frail:
                self.frail, self.broken = False, self.broken + 1
                break
            onward.write(said)
        onward.close()

    async def _pass_on(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await there.read(65_536):
            writer.write(said)
        writer.close()
