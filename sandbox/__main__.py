"""`python -m sandbox --port 8400`: the outside world, until SIGINT or SIGTERM."""

import argparse
import asyncio
import os
import signal
import sys
from typing import Final

from sandbox.server import serve

LARGEST_PORT: Final = 65535


async def main(port: int) -> None:
    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    async with serve(port) as sandbox:
        sys.stdout.write(f"The sandbox is at {sandbox.url}\n")
        sys.stdout.flush()
        await stopped.wait()


def port_number(text: str) -> int:
    if not text.isdecimal() or int(text) > LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to {LARGEST_PORT})")
    return int(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="The outside world of the order sagas.")
    parser.add_argument("--port", type=port_number, default=8400, help="on 127.0.0.1; 0: a free one")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.port))
    except OSError as problem:
        sys.exit(f"The sandbox cannot listen on port {arguments.port}: {os.strerror(problem.errno or 0)}")
