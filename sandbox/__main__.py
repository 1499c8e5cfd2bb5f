"""`python -m sandbox --port 8400`: serve the simulated external services until SIGINT or SIGTERM."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sandbox.persistence import StateError, Store
from sandbox.server import serve
from sandbox.webhooks import Target
from sandbox.world import World

MAX_PORT: Final = 65535


async def main(port: int, state: Path | None, webhooks: str | None, workflows: str) -> None:
    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    with world_of(state) as world:
        async with serve(port, world, workflows) as sandbox:
            if webhooks:
                world.send_webhooks_to(Target(url=webhooks))
            sys.stdout.write(f"The sandbox is at {sandbox.url}\n")
            sys.stdout.flush()
            await stopped.wait()


@contextmanager
def world_of(state: Path | None) -> Iterator[World]:
    if state is None:
        yield World()
    else:
        with closing(Store(state)) as store:
            yield World.restored(store)


def port_number(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to {MAX_PORT})")
    return int(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="Simulate the external services.")
    parser.add_argument("--port", type=port_number, default=8400, help="port on 127.0.0.1; 0 picks a free one")
    parser.add_argument("--state", type=Path, metavar="FILE", help="SQLite file that keeps the state; default: none")
    parser.add_argument("--webhooks", metavar="URL", help="base address of the shop that receives the webhooks")
    parser.add_argument("--workflows", metavar="URL", default="", help="address of the workflows in Temporal's Web UI")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.port, arguments.state, arguments.webhooks, arguments.workflows))
    except StateError as problem:
        sys.exit(str(problem))
    except OSError as problem:
        sys.exit(f"The sandbox cannot listen on port {arguments.port}: {os.strerror(problem.errno or 0)}")
