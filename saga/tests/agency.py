"""What the tests do with trips: start one, look at it, resolve what is parked."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from saga import activates_patches
from saga.tests.trip import Desk, Held, Plan, Tour, Trip, activities_of

BOOKED = ["flight", "hotel", "car"]
UNDOS = ["cancel_flight", "cancel_hotel", "cancel_car"]  # by default the flight is independent, the hotel needs the car
PATIENCE = 30  # seconds
LOCAL_FIRST: dict[str, Any] = {"patch_activation_callback": activates_patches(offered=True)}  # options of a worker
REGULAR: dict[str, Any] = {"patch_activation_callback": activates_patches(offered=False)}
FOR_GOOD = 2  # failures of a step: of its local attempt and of the regular one, if both are made


@dataclass
class Agency:
    """A desk, and workers that come and go."""

    env: WorkflowEnvironment
    desk: Desk = field(default_factory=Desk)
    task_queue: str = field(default_factory=lambda: f"trips-{uuid.uuid4().hex[:8]}")

    @asynccontextmanager
    async def open(self, trip: type = Trip, **options: Any) -> AsyncIterator[None]:
        async with Worker(
            self.env.client,
            task_queue=self.task_queue,
            workflows=[trip, Tour],
            activities=activities_of(self.desk),
            **REGULAR | options,
        ):
            yield

    async def start(self, **plan: Any) -> WorkflowHandle[Any, list[str]]:
        return await self._start("trip", Plan(**plan))

    async def start_tour(self, how: str) -> WorkflowHandle[Any, list[str]]:
        return await self._start("tour", how)

    async def _start(self, workflow: str, arg: Any) -> WorkflowHandle[Any, list[str]]:
        return await self.env.client.start_workflow(
            workflow,
            arg,
            id=f"{workflow}-{uuid.uuid4().hex[:8]}",
            task_queue=self.task_queue,
            task_timeout=timedelta(seconds=1),  # after which a suspended run is tried again
            result_type=list[str],
        )

    def hold(self, task: str) -> Held:
        held = self.desk.held[task] = Held()
        return held

    async def until_done(self, *tasks: str) -> None:
        async def done() -> bool:
            return set(tasks) <= set(self.desk.done)

        await eventually(done, f"done is {tasks}, not {self.desk.done}")

    async def advance(self, run: WorkflowHandle[Any, Any], by: timedelta) -> None:
        """Move the run's own clock forward."""
        await self.env.fast_forward(run, by)

    def assert_undone(self, cause: str, booked: list[str] | None = None) -> None:
        """The claim came first, then each undo once: the flight's at any time, the car's before the hotel's."""
        forward = BOOKED if booked is None else booked
        done = self.desk.done
        assert done[: len(forward) + 1] == [*forward, f"claim for {cause}"]
        undone = done[len(forward) + 1 :]
        assert sorted(undone) == sorted(UNDOS)
        assert undone.index("cancel_car") < undone.index("cancel_hotel")


async def eventually(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"in {PATIENCE} s it never came to: {what}") from None


async def fails(run: WorkflowHandle[Any, Any]) -> BaseException | None:
    with pytest.raises(WorkflowFailureError) as failure:
        await run.result()
    return failure.value.cause


async def until_parked(run: WorkflowHandle[Any, Any], *steps: str) -> None:
    async with asyncio.timeout(PATIENCE):
        await run.execute_update("until_parked", list(steps))


async def resolve(run: WorkflowHandle[Any, Any], step: str, action: str, reason: str = "seen to") -> str:
    said: str = await run.execute_update("resolve", {"step": step, "action": action, "reason": reason})
    return said


async def kinds(run: WorkflowHandle[Any, Any]) -> list[EventType.ValueType]:
    return [event.event_type async for event in run.fetch_history_events()]


async def timer_runs(run: WorkflowHandle[Any, Any]) -> bool:
    return EventType.EVENT_TYPE_TIMER_STARTED in await kinds(run)


async def has_seen(run: WorkflowHandle[Any, Any], event: EventType.ValueType) -> bool:
    """Whether a workflow task has been completed since the event."""
    events = await kinds(run)
    if event not in events:  # it is kept back while a workflow task is under way
        return False
    return EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED in events[events.index(event) :]


async def has_seen_the_cancel(run: WorkflowHandle[Any, Any]) -> bool:
    return await has_seen(run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED)


async def has_seen_the_signal(run: WorkflowHandle[Any, Any]) -> bool:
    return await has_seen(run, EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED)
