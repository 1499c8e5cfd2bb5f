"""`python -m sandbox --port 8400`: the outside world, until SIGINT or SIGTERM."""

import argparse
import asyncio
import signal
import sys

from sandbox.server import serve


async def main(port: int) -> None:
    stopped = asyncio.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(each, stopped.set)
    async with serve(port) as sandbox:
        sys.stdout.write(f"The sandbox is at {sandbox.url}\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sandbox", description="The outside world of the order sagas.")
    parser.add_argument("--port", type=int, default=8400, help="on 127.0.0.1; 0 takes a free one")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.port))
    except OSError as problem:
        sys.exit(f"The sandbox cannot listen on port {arguments.port}: {problem.strerror}")
