"""A saga that knows nothing of orders: a trip of flight, hotel and car, to prove workflows/saga.py by itself."""

import asyncio
from datetime import timedelta
from typing import Literal

from temporalio import activity, workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from collections import Counter

    from pydantic import BaseModel

    from tests.support.activity_hooks import Held  # noqa: TC001 (the sandbox runs what type checkers do not)
    from workflows.saga import Resolution, Saga, StopUndo


class Plan(BaseModel):
    """How the trip goes: what follows the three bookings, made one by one or all at once."""

    then: Literal["commit", "return", "fail", "fail after the commit", "bug", "sleep"] = "fail"
    at_once: bool = False
    stops: bool = False


class Desk:
    """The travel agency's activity: it can be held, and can fail for good, at every task by its name."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: Counter[str] = Counter()
        self.held: dict[str, Held] = {}

    @activity.defn
    async def attend(self, task: str) -> str:
        if held := self.held.get(task):
            held.reached.set()
            await held.released.wait()
        if self.failing[task]:
            self.failing[task] -= 1
            raise ApplicationError(f"no {task}", type="no", non_retryable=True)
        self.done.append(task)
        return f"did {task}"


@workflow.defn(name="trip")
class Trip:
    """Book three things, or none. The car needs the hotel: it is not given back before the hotel is."""

    def __init__(self) -> None:
        self._saga = Saga(claim=self.claim, on_park=self._park, on_resolve=self._settle)
        self._stops = False

    @workflow.run
    async def run(self, plan: Plan) -> list[str]:
        self._stops = plan.stops
        async with self._saga as saga:
            for undo in (self.cancel_flight, self.cancel_hotel):
                saga.on_failure(undo, undo.__name__)
            saga.on_failure(self.cancel_car, "cancel_car", needs=(self.cancel_hotel,))
            await self._book(at_once=plan.at_once)
            await self._go_on(plan, saga)
        return saga.undone

    async def claim(self, cause: BaseException | None) -> str:
        return await self._attend(f"claim for {type(cause).__name__}")

    async def cancel_flight(self, task: str) -> str:
        return await self._attend(task)

    async def cancel_hotel(self, task: str) -> str | StopUndo:
        said = await self._attend(task)
        return StopUndo("the guest is there") if self._stops else said

    async def cancel_car(self, task: str) -> str:
        return await self._attend(task)

    @workflow.query
    def parked(self) -> dict[str, str]:
        return self._saga.parked

    async def _book(self, *, at_once: bool) -> None:
        tasks = ("flight", "hotel", "car")
        if not at_once:
            for task in tasks:
                await self._attend(task)
            return
        for result in await asyncio.gather(*map(self._attend, tasks), return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _go_on(self, plan: Plan, saga: Saga) -> None:
        match plan.then:
            case "commit":
                saga.commit()
            case "fail":
                raise ApplicationError("sold out")
            case "fail after the commit":
                saga.commit()
                raise ApplicationError("too late")
            case "bug":
                self._stumble()
            case "sleep":
                await workflow.sleep(timedelta(days=1))

    def _stumble(self) -> None:
        raise KeyError("a mistake in the code")

    async def _attend(self, task: str) -> str:
        said: str = await workflow.execute_activity(
            "attend",
            task,
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(milliseconds=50)),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            result_type=str,
        )
        return said

    async def _park(self, _step: str, _reason: str) -> bool:
        return True

    async def _settle(self, resolution: Resolution) -> bool:
        await self._attend(f"note {resolution.action}")
        return True


@workflow.defn(name="trip")
class MendedTrip(Trip):
    """The same code with its mistake mended, as the next release has it."""

    @workflow.run
    async def run(self, plan: Plan) -> list[str]:
        return await super().run(plan)

    def _stumble(self) -> None:
        self._saga.commit()
