"""How a client reaches a worker that has no task queue: one request for an order, whose answer comes in two lines."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from benchmarks.arms.arm import Entrance, Payload, Place
from deploy.local.process import HOST

PLACED: Final = "placed"
DONE: Final = "done"


@asynccontextmanager
async def serve(port: int, place: Place) -> AsyncIterator[None]:
    """Place what is posted to /orders/{id}, until the block ends."""

    async def post(request: Request) -> StreamingResponse:
        payload: Payload = await request.json()
        return StreamingResponse(_lines(place, request.path_params["order_id"], payload), media_type="text/plain")

    app = Starlette(routes=[Route("/orders/{order_id}", post, methods=["POST"])])
    config, state = Config(app, lifespan="off", log_config=None, access_log=False), ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: H11Protocol(config, state, {}), HOST, port)
    try:
        yield
    finally:
        server.close()


async def _lines(place: Place, order_id: str, payload: Payload) -> AsyncIterator[str]:
    answered = asyncio.Event()
    task = asyncio.ensure_future(place(order_id, payload, answered.set))
    waiting = asyncio.create_task(answered.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if answered.is_set():
        yield f"{PLACED}\n"
    waiting.cancel()
    await task
    yield f"{DONE}\n"


def client(entrance: Entrance) -> Place:
    async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        lines: list[str] = []
        async with entrance.http.stream("POST", f"{entrance.url}/orders/{order_id}", json=payload) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                lines.append(line)
                if line == PLACED:
                    answered()
        if lines != [PLACED, DONE]:
            raise RuntimeError(f"order {order_id}: {lines}")

    return place
