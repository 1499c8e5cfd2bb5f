"""PostgreSQL behind TLS, for a server that has none: a proxy in front of it that speaks PostgreSQL's own protocol."""

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
TLS_REQUEST: Final = struct.pack("!ii", 8, 80877103)


@asynccontextmanager
async def by_tls(port: int, certificate: Path, key: Path) -> AsyncIterator[int]:
    """A port on which TLS is demanded, and passed on to `port`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    lines: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            lines.add(task)
        with suppress(OSError, asyncio.IncompleteReadError):  # the client may leave at the certificate
            if await reader.readexactly(len(TLS_REQUEST)) == TLS_REQUEST:
                writer.write(b"S")
                await writer.start_tls(context)
                there, onward = await asyncio.open_connection(HOST, port)
                await asyncio.gather(_pass_on(reader, onward), _pass_on(there, writer))
        writer.close()

    async with await asyncio.start_server(serve, HOST, 0) as server:
        yield server.sockets[0].getsockname()[1]
        for line in lines:
            line.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
