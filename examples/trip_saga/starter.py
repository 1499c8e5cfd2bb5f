"""Three trips to look at: `python -m examples.trip_saga.starter success | failure | cancel`."""

import asyncio
import os
import sys
import uuid

from temporalio.client import Client, WorkflowHandle

from examples.trip_saga.activities import Trip
from examples.trip_saga.worker import TASK_QUEUE, connect
from examples.trip_saga.workflow import BookTrip, TripOutcome

TripHandle = WorkflowHandle[BookTrip, TripOutcome]


async def start(client: Client, city: str, task_queue: str = TASK_QUEUE) -> TripHandle:
    trip = Trip(id=f"trip-{uuid.uuid4().hex[:8]}", city=city)
    return await client.start_workflow(BookTrip.run, trip, id=trip.id, task_queue=task_queue)


async def success(client: Client, task_queue: str = TASK_QUEUE) -> TripOutcome:
    """Everything is booked."""
    return await (await start(client, "Oslo", task_queue)).result()


async def failure(client: Client, task_queue: str = TASK_QUEUE) -> TripOutcome:
    """No hotel has a room: flight and car are undone, and the run completes."""
    return await (await start(client, "Atlantis", task_queue)).result()


async def cancel(client: Client, task_queue: str = TASK_QUEUE) -> TripOutcome:
    """The same, and Temporal cancels the run while the flight is being undone: the undo goes on to its end."""
    handle = await start(client, "Atlantis", task_queue)
    while not await handle.query(BookTrip.undone):
        await asyncio.sleep(0.1)
    await handle.cancel()
    return await handle.result()


COMMANDS = {"success": success, "failure": failure, "cancel": cancel}


async def main(command: str) -> None:
    outcome = await COMMANDS[command](await connect())
    lines = [f"booked: {outcome.booked}, {outcome.note}", *(f"  {note}" for note in outcome.undone)]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:  # noqa: PLR2004 (the program and its command)
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
    sys.stdout.flush()
    os._exit(0)  # the interpreter's own exit may abort in the SDK's threads (temporalio/sdk-python#300)
