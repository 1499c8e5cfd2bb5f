"""Serve the sandbox on 127.0.0.1 inside the running event loop, for `python -m sandbox` and for tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sandbox.app import create_app
from sandbox.world import World


@dataclass(frozen=True)
class Running:
    """A sandbox that answers at `url`, and the world that it serves."""

    url: str
    world: World


class _Connection(H11Protocol):
    """Passes the connection to the application, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


@asynccontextmanager
async def serve(port: int = 0, world: World | None = None, workflows: str = "") -> AsyncIterator[Running]:
    """Serve a world, by default a new one, until the block ends; open requests are cut then. Port 0 picks a free one.

    `workflows` is that of `create_app`.

    Raises:
        OSError: the port is taken.
    """
    world, state = world or World(), ServerState()
    config = Config(create_app(world, workflows), lifespan="off", log_config=None, access_log=False)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(config, state, {}), "127.0.0.1", port)
    try:
        world.open()
        yield Running(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", world)
    finally:
        server.close()
        await _hang_up(world, state)


async def _hang_up(world: World, state: ServerState) -> None:
    world.faults.clear()
    for connection in list(state.connections):
        connection.transport.abort()
    await world.webhook_sender.close()
    await asyncio.gather(*state.tasks)
