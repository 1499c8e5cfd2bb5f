"""A trip of flight, hotel and car, booked by activities that a test can hold, fail or take out of service."""

import asyncio
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from collections import Counter
    from dataclasses import dataclass, field, replace

    from pydantic import BaseModel

    from saga import (
        UNTIL_DONE,
        Rejected,
        Resolution,
        Saga,
        Step,
        StopUndo,
        choose_execution,
        local_first,
        run_activity,
        within,
    )


@dataclass
class Held:
    """An attempt that stands still: `reached` when it does, until `let_go`."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def let_go(self) -> None:
        self.released.set()


class Desk:
    """The activities of a travel agency. A test names each task: hold it, fail it for good, take it out of service."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.failing: Counter[str] = Counter()
        self.errors: dict[str, ApplicationError] = {}  # of the next attempt
        self.seconds: dict[str, float] = {}  # that an attempt takes
        self.out: set[str] = set()
        self.held: dict[str, Held] = {}

    @local_first
    @activity.defn
    async def book_flight(self, _trip: str) -> str:
        return await self._attend("flight")

    @local_first
    @activity.defn
    async def book_hotel(self, _trip: str) -> str:
        return await self._attend("hotel")

    @local_first
    @activity.defn
    async def book_car(self, _trip: str) -> str:
        return await self._attend("car")

    @local_first
    @activity.defn
    async def book_transfer(self, _trip: str) -> str:
        return await self._attend("transfer")

    @activity.defn
    async def cancel_flight(self, _trip: str) -> str:
        return await self._attend("cancel_flight")

    @activity.defn
    async def cancel_hotel(self, _trip: str) -> str:
        return await self._attend("cancel_hotel")

    @activity.defn
    async def cancel_car(self, _trip: str) -> str:
        return await self._attend("cancel_car")

    @activity.defn
    async def cancel_transfer(self, _trip: str) -> str:
        return await self._attend("cancel_transfer")

    @activity.defn
    async def note(self, task: str) -> str:
        return await self._attend(task)

    async def _attend(self, task: str) -> str:
        self.attempts[task] += 1
        if held := self.held.get(task):
            held.reached.set()
            await held.released.wait()
        await asyncio.sleep(self.seconds.get(task, 0))
        if error := self.errors.pop(task, None):
            raise error
        if task in self.out:
            raise ApplicationError(f"{task} is out of service")
        if self.failing[task]:
            self.failing[task] -= 1
            raise ApplicationError(f"no {task}", type="no", non_retryable=True)
        self.done.append(task)
        return f"did {task}"


MINUTE: Final = timedelta(minutes=1)

FLIGHT: Final = Step(Desk.book_flight, Desk.cancel_flight, MINUTE, "cancel the flight")
HOTEL: Final = Step(Desk.book_hotel, Desk.cancel_hotel, MINUTE, "cancel the hotel")
CAR: Final = Step(Desk.book_car, Desk.cancel_car, MINUTE, "give the car back")
TRANSFER: Final = Step(Desk.book_transfer, Desk.cancel_transfer, MINUTE, "cancel the transfer", patch_id="transfer")
ENDLESS: Final = Step(Desk.book_flight, Desk.cancel_flight, None, "cancel the flight")


class Plan(BaseModel):
    """How the trip goes: what follows the three bookings, made one by one or all at once."""

    then: Literal["commit", "return", "fail", "fail after the commit", "reject", "bug", "sleep", "read"] = "fail"
    books: bool = True
    at_once: bool = False
    car_follows_the_hotel: bool = False  # while the flight is being booked
    independent: tuple[str, ...] = ("cancel_flight",)
    not_skippable: tuple[str, ...] = ()
    stops: str | None = None  # the undo that answers StopUndo
    parked_before: str | None = None  # the undo that an earlier run has parked
    is_over: bool = False  # whoever parks or resolves learns that there is nothing to undo any more
    goes_on_after_a_cancel: bool = False
    after_the_pivot: tuple[str, ...] = ()

    @property
    def steps(self) -> tuple[Step[str, str, str], ...]:
        return tuple(
            replace(
                step,
                independent=step.name in self.independent,
                skippable=step.name not in self.not_skippable,
                read=StopUndo if step.name == self.stops else str,
            )
            for step in (FLIGHT, HOTEL, CAR)
        )


class TripSaga(Saga):
    """A saga with a claim, which records what operators decide."""

    def __init__(self, plan: Plan, *added: Step[str, str, str]) -> None:
        super().__init__((*plan.steps, *added), "a trip")
        self.plan = plan

    async def claim(self, cause: BaseException | None) -> str | StopUndo | None:
        note = await attend(f"claim for {type(cause).__name__}")
        if self.plan.parked_before:
            await self.take_over(self.plan.parked_before, "parked by an earlier run")
            if self.stopped:
                return StopUndo("the trip has moved on")
        return note

    async def on_park(self, step: str, _reason: str) -> bool:
        await attend(f"park {step}")
        return not self.plan.is_over or self.plan.parked_before == step

    async def on_resolution(self, resolution: Resolution) -> bool:
        await attend(f"note {resolution.action}")
        return not self.plan.is_over


@workflow.defn(name="trip")
class Trip:
    """Book three things, or none."""

    added: ClassVar[tuple[Step[str, str, str], ...]] = ()

    @workflow.init
    def __init__(self, plan: Plan) -> None:
        self._saga = TripSaga(plan, *self.added)

    @workflow.run
    async def run(self, plan: Plan) -> list[str]:
        choose_execution()
        try:
            async with self._saga as saga:
                if plan.books:
                    await self._book(plan, saga)
                await self._go_on(plan, saga)
        except Rejected as refusal:
            return [f"{refusal.code}: {refusal.text}", *self._saga.undone]
        return self._saga.undone

    @workflow.signal
    def call_off(self) -> None:
        self._saga.cancel()

    @workflow.update
    async def until_parked(self, steps: list[str]) -> dict[str, str]:
        """An update, not a query: what it sees is in the history."""
        await workflow.wait_condition(lambda: set(self._saga.parked) == set(steps))
        return self._saga.parked

    @workflow.update
    async def until_undone(self, note: str) -> None:
        await workflow.wait_condition(lambda: note in self._saga.undone)

    async def _book(self, plan: Plan, saga: Saga) -> None:
        flight, hotel, car = saga.steps[:3]
        if plan.at_once:
            await asyncio.gather(*(saga.do(step, saga.saga_id, "all at once") for step in saga.steps))
            return
        if plan.car_follows_the_hotel:
            await asyncio.gather(saga.do(flight, saga.saga_id, "to Oslo"), self._book_one_by_one(saga, hotel, car))
            return
        await saga.do(flight, saga.saga_id, "to Oslo")
        try:
            await saga.do(hotel, saga.saga_id, "two nights")
        except asyncio.CancelledError:
            if not plan.goes_on_after_a_cancel:
                raise
        await saga.do(car, saga.saga_id, "a small one")
        if saga.has(TRANSFER):
            await saga.do(TRANSFER, saga.saga_id, "to the hotel")

    async def _book_one_by_one(self, saga: Saga, *steps: Step[str, str, str]) -> None:
        for step in steps:
            await saga.do(step, saga.saga_id, "one by one")

    async def _go_on(self, plan: Plan, saga: Saga) -> None:
        match plan.then:
            case "commit":
                saga.commit()
                for task in plan.after_the_pivot:
                    await saga.run(Desk.note, task, within(MINUTE), "forward only")
            case "fail":
                raise ApplicationError("sold out")
            case "fail after the commit":
                saga.commit()
                raise ApplicationError("too late")
            case "reject":
                raise Rejected("sold_out", "no seats to Oslo")
            case "bug":
                self._stumble()
            case "sleep":
                await workflow.sleep(timedelta(days=1))
            case "read":
                await saga.run(Desk.note, "read", within(MINUTE), "is it paid?")
                saga.commit()

    def _stumble(self) -> None:
        raise KeyError("a mistake in the code")


@workflow.defn(name="trip")
class MendedTrip(Trip):
    """The same code with its mistake mended, as the next release has it."""

    @workflow.init
    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)

    @workflow.run
    async def run(self, plan: Plan) -> list[str]:
        return await super().run(plan)

    def _stumble(self) -> None:
        self._saga.commit()


@workflow.defn(name="trip")
class LongerTrip(Trip):
    """The next release, which has a step more."""

    added: ClassVar = (TRANSFER,)

    @workflow.init
    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)

    @workflow.run
    async def run(self, plan: Plan) -> list[str]:
        return await super().run(plan)


@workflow.defn(name="tour")
class Tour:
    """Several sagas in one run."""

    def __init__(self) -> None:
        self._sagas: list[Saga] = []

    @workflow.run
    async def run(self, how: str) -> list[str]:
        match how:
            case "at the same time":
                self._sagas = [Saga((FLIGHT,), "out"), Saga((HOTEL, CAR), "there")]
                await asyncio.gather(*(saga.undo() for saga in self._sagas))
            case "one after another":
                for _ in range(2):
                    self._sagas.append(Saga((FLIGHT, HOTEL), "again"))
                    await self._sagas[-1].undo()
            case "after a commit":
                async with Saga((FLIGHT, HOTEL), "first") as first:
                    first.commit()
                    self._sagas = [Saga((FLIGHT, HOTEL), "second")]
                await self._sagas[0].undo()
            case "unknown step":
                async with Saga((FLIGHT,), "a trip") as saga:
                    await saga.do(HOTEL, "a trip", "not registered")
            case "no deadline":
                async with Saga((ENDLESS,), "a trip") as saga:
                    await saga.do(ENDLESS, "a trip", "for how long?")
            case "deadline of the caller":
                async with Saga((ENDLESS,), "a trip") as saga:
                    answer = await saga.do(ENDLESS, "a trip", "for a minute", MINUTE)
                    saga.commit()
                return [answer]
            case _:
                return [self._refused(how)]
        return [note for saga in self._sagas for note in saga.undone]

    @workflow.update
    async def until_parked(self, steps: list[str]) -> None:
        await workflow.wait_condition(lambda: {name for saga in self._sagas for name in saga.parked} == set(steps))

    def _refused(self, how: str) -> str:
        try:
            match how:
                case "clash":
                    Saga((FLIGHT, HOTEL), "first")
                    Saga((HOTEL, CAR), "second")
                case "clash of claims":
                    TripSaga(Plan())
                    OneStep((), "second")
                case "twice in one":
                    Saga((FLIGHT, FLIGHT), "first")
                case "foreign handler":
                    workflow.set_update_handler("resolve", self.until_parked)
                    Saga((FLIGHT,), "first")
        except ValueError as error:
            return str(error)
        return "not refused"


class OneStep(Saga):
    """Its claim has the name that every claim has."""

    async def claim(self, _cause: BaseException | None) -> str | StopUndo | None:
        return "claimed"


async def attend(task: str) -> str:
    return await run_activity(Desk.note, task, UNTIL_DONE, task)


def activities_of(desk: Desk) -> list[Any]:
    return [
        desk.book_flight,
        desk.book_hotel,
        desk.book_car,
        desk.book_transfer,
        desk.cancel_flight,
        desk.cancel_hotel,
        desk.cancel_car,
        desk.cancel_transfer,
        desk.note,
    ]
