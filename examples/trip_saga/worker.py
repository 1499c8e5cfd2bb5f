"""The worker: `python -m examples.trip_saga.worker`. It works until Ctrl-C."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.worker import Worker

from examples.trip_saga.activities import Agency
from examples.trip_saga.workflow import BookTrip

TASK_QUEUE = "trips"


async def connect() -> Client:
    """A client for TEMPORAL_ADDRESS, or for the profile that the `temporal` command uses too."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, data_converter=pydantic_data_converter)


def worker(client: Client, agency: Agency, task_queue: str = TASK_QUEUE) -> Worker:
    activities: list[Callable[..., Any]] = [
        *(agency.book_flight, agency.book_car, agency.book_hotel),
        *(agency.cancel_flight, agency.cancel_car, agency.cancel_hotel),
    ]
    return Worker(client, task_queue=task_queue, workflows=[BookTrip], activities=activities)


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with worker(await connect(), Agency()):
        sys.stdout.write("The worker is ready. Ctrl-C ends it.\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)  # the interpreter's own exit may abort in the SDK's threads (temporalio/sdk-python#300)
