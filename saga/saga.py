"""A saga: steps that either all happen or are all undone, whatever fails, times out or is canceled.

    async with Saga(STEPS, trip.id) as saga:
        flight = await saga.do(FLIGHT, trip, "to Oslo")
        if not flight.seats:
            raise Rejected("sold_out", "no seats to Oslo")
        await saga.do(HOTEL, trip, "two nights")
        saga.commit()                                   # the pivot: from here only forward

A saga registers all undos when it is created, before the first step: a run that was reset, or started again, may have
been further than it knows, and a step that failed may have taken effect. The rules of the undo are in README.md.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, FailureError, is_cancelled_exception

from saga.execution import UNTIL_DONE, Options, reason, run_activity, shielded, start_activity, within
from saga.resolution import Resolution, ResolveHandler
from saga.step import Step, StopUndo

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

INTERRUPTED: Final = "an operator decides before it succeeds"
NOT_FINISHED: Final = "not finished when the saga stopped"


class Rejected(ApplicationError):
    """A business refusal. Raise it in the block: the saga undoes, and the workflow catches it outside the block."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text, type=code, non_retryable=True)
        self.code = code
        self.text = text


class Saga:
    """Runs steps forward in its block, and undoes all of them unless `commit` is reached. See the module.

    Subclass it to change `claim`, `run_undo`, `is_resolvable`, `on_park` or `on_resolution`.

    Attributes:
        committed: the pivot is passed; nothing will be undone.
        cancelled: `cancel` was called before the pivot.
        cause: what made the undo necessary, if it was an exception.
        parked: the undos that failed for good and wait for an operator, each with its reason.
        undone: how each undo ended, in the order in which they ended.
        stopped: an undo found that nothing is to be undone any more.
    """

    CLAIM: ClassVar[str] = "claim"  # what operators call the claim when it is parked

    def __init__(self, steps: tuple[Step[Any, Any, Any], ...], saga_id: str) -> None:
        """Register the undos of all `steps`, which are in the order in which they happen.

        A step with a `patch_id` is left out in a run that began before the step existed: this is where the run decides.

        Raises:
            ValueError: operators cannot tell two undos apart, of this saga or of another unfinished one of this run,
                or the workflow has an update handler `resolve` of its own.
        """
        self.steps = tuple(step for step in steps if step.patch_id is None or workflow.patched(step.patch_id))
        self.saga_id = saga_id
        self.committed = False
        self.cancelled = False
        self.cause: BaseException | None = None
        self.parked: dict[str, str] = {}
        self.undone: list[str] = []
        self.stopped = False
        self._forward: list[asyncio.Task[Any]] = []  # in flight
        self._undos: dict[str, asyncio.Task[Any]] = {}  # under way
        self._interrupted: set[str] = set()
        self._settled: set[str] = set()
        self._resolutions: dict[str, Resolution] = {}
        self._recording: set[str] = set()
        self._undoing = False
        self._finished = False
        names = [self.CLAIM, *(step.name for step in self.steps)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"this saga has {', '.join(twice)} twice: an operator must be able to tell undos apart")
        self._handler = ResolveHandler.of_this_run()
        self._handler.join(self)

    @property
    def names(self) -> frozenset[str]:
        """What may park: the undo of each step, and the claim if there is one."""
        has_claim = type(self).claim is not Saga.claim
        return frozenset(step.name for step in self.steps) | ({self.CLAIM} if has_claim else frozenset())

    def has(self, step: Step[Any, Any, Any]) -> bool:
        """Whether the run has this step: ask it before each `do` of a step with a `patch_id`."""
        return step in self.steps

    # ------------------------------------------------------------------------------------------------- for subclasses

    async def claim(self, cause: BaseException | None) -> str | StopUndo | None:  # noqa: ARG002 (for subclasses)
        """The first act of the undo. It makes sure that no late attempt of a step takes effect; all undos wait for it.

        Returns:
            A note for people, None if there is nothing to say, or StopUndo.
        """
        return None

    async def run_undo(self, step: Step[Any, Any, Any]) -> str | StopUndo:
        """Undo one step, however long its service is out. If this raises a FailureError, the undo parks.

        The saga cancels it when another undo stops the saga, so an override that retries must not catch
        `is_cancelled_exception` errors.
        """
        return step.read(await run_activity(step.undo, self.saga_id, UNTIL_DONE, step.undoing))

    async def on_park(self, step: str, reason: str) -> bool:
        """Call a person. Return False if there is nothing to undo any more: then the saga stops."""
        workflow.logger.warning("%s is parked: %s. Send the update `resolve`.", step, reason)
        return True

    async def on_resolution(self, resolution: Resolution) -> bool:
        """Record what an operator decided. Return False if it comes too late: then the saga stops."""
        workflow.logger.info("%s of %s by %s", resolution.action, resolution.step, resolution.by)
        return True

    # -------------------------------------------------------------------------------------------------------- forward

    async def do(
        self, step: Step[ArgT, ResultT, Any], arg: ArgT, summary: str, deadline: timedelta | None = None
    ) -> ResultT:
        """Run a step until it succeeds, fails for good or reaches its deadline.

        Raises:
            ActivityError: the step failed, and may have taken effect all the same.
            CancelledError: the run or the saga is canceled, and the step's last attempt has ended.
            ValueError: the saga does not know the step, or nobody says how long it may take.
        """
        if not self.has(step):
            raise ValueError(f"the saga does not know this step, so it cannot call {step.name}")
        limit = deadline or step.deadline
        if limit is None:
            raise ValueError(f"neither the step nor its caller says how long it is tried before {step.name}")
        return await self.run(step.do, arg, within(limit), summary)

    async def run(
        self, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
    ) -> ResultT:
        """Run an activity that needs no undo, such as a read. It is canceled as a step is, and raises the same."""
        self._raise_if_cancelled()
        handle = start_activity(activity, arg, options, summary)
        self._forward.append(handle)
        try:
            result: ResultT = await handle
        except ActivityError as error:
            # The last attempt may fail by itself: the cancel is still why there is no other.
            if self._is_cancelled or is_cancelled_exception(error):
                raise asyncio.CancelledError from error
            raise
        finally:
            self._forward.remove(handle)
        self._raise_if_cancelled()
        return result

    def cancel(self) -> None:
        """Leave the block, on behalf of a customer: end the step in flight, and let every later one raise.

        The last attempt of the step in flight is waited for. After `commit` this changes nothing. Code in the block
        that waits for something else than a step also has to look at `cancelled`.
        """
        if not self.committed:
            self.cancelled = True
            self._cancel_forward()

    def commit(self) -> None:
        """Pass the pivot: what has happened stands, and no undo is needed any more."""
        self.committed = True
        self._finish()

    def _cancel_forward(self) -> None:
        for handle in self._forward:
            handle.cancel()

    @property
    def _is_cancelled(self) -> bool:
        is_asked = self.cancelled or self._undoing or workflow.cancellation_reason() is not None
        return is_asked and not self.committed

    def _raise_if_cancelled(self) -> None:
        # A canceled step may still come back with its result; then nothing else tells of the cancel.
        if self._is_cancelled:
            raise asyncio.CancelledError

    # ----------------------------------------------------------------------------------------------------------- undo

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, cause: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if self._finished or not (cause is None or calls_for_undo(cause)):
            return False
        await shielded(self.undo(cause))
        return self.stopped

    async def undo(self, cause: BaseException | None = None) -> None:
        """Undo everything now, however long it takes, or until an undo answers StopUndo."""
        if self._finished:
            return
        self.cause = cause
        self._undoing = True
        self._cancel_forward()  # of parallel steps, one may have failed while the others are still in flight
        await workflow.wait_condition(lambda: not self._forward)
        await self._settle(self.CLAIM, partial(self.claim, cause))
        await asyncio.gather(*(self._undo_in_turn(step) for step in reversed(self.steps)))
        await workflow.wait_condition(lambda: not self._recording)
        self._finish()

    async def carry_out(self, name: str, work: Callable[[], Coroutine[Any, Any, str]]) -> None:
        """Do something that is no step's undo as one: try it until it succeeds, or until an operator settles it.

        `name` is what operators call it, `work` returns a note for people. Afterwards the saga is finished.
        """
        await self._settle(name, work)
        await workflow.wait_condition(lambda: not self._recording)
        self._finish()

    async def take_over(self, step: str, reason: str) -> None:
        """Wait for an operator where an earlier run was parked: until then nothing is undone a second time."""
        await self._park(step, reason)
        await workflow.wait_condition(lambda: step not in self.parked)

    def _needed_by(self, step: Step[Any, Any, Any]) -> set[str]:
        if step.independent:
            return set()
        later = self.steps[self.steps.index(step) + 1 :]
        return {other.name for other in later if not other.independent}

    async def _undo_in_turn(self, step: Step[Any, Any, Any]) -> None:
        needed = self._needed_by(step)
        await workflow.wait_condition(lambda: self.stopped or needed <= self._settled)
        await self._settle(step.name, partial(self.run_undo, step))

    async def _settle(self, name: str, undo: Callable[[], Coroutine[Any, Any, str | StopUndo | None]]) -> None:
        """Try an undo until it succeeds, an operator settles it, or the saga stops."""
        if self.stopped:
            return
        while not await self._is_settled(name, undo):
            await workflow.wait_condition(lambda: name not in self.parked)
            if self.stopped:
                self.undone.append(f"{name}: {NOT_FINISHED}")
                return
        self._settled.add(name)

    async def _is_settled(self, name: str, undo: Callable[[], Coroutine[Any, Any, str | StopUndo | None]]) -> bool:
        if said := self._resolutions.get(name):
            self.undone.append(f"{name}: {said.action} by {said.by}: {said.reason}")
            return True
        attempt = asyncio.create_task(undo())
        if name != self.CLAIM:  # nothing runs beside the claim, and it has to say itself why the saga stopped
            self._undos[name] = attempt
        try:
            answer = await attempt
        except (FailureError, asyncio.CancelledError) as error:
            if self.stopped:
                return False
            if isinstance(error, asyncio.CancelledError) and name not in self._interrupted:
                raise
            await self._park(name, INTERRUPTED if name in self._interrupted else reason(error))
            return False
        finally:
            self._undos.pop(name, None)
            self._interrupted.discard(name)
        note = answer.note if isinstance(answer, StopUndo) else answer
        if note is not None:
            self.undone.append(f"{name}: {note}")
        if isinstance(answer, StopUndo):
            self._stop()
        return True

    def _stop(self) -> None:
        self.stopped = True
        self.parked.clear()
        for attempt in self._undos.values():
            attempt.cancel()

    def _finish(self) -> None:
        self._finished = True
        self._handler.leave(self)

    # ---------------------------------------------------------------------------------------------------------- parks

    async def _park(self, name: str, reason: str) -> None:
        try:
            stays = await self.on_park(name, reason)
        except FailureError:
            # Whatever cannot be told outside, the run must not close over an undo that is stuck.
            workflow.logger.exception("%s is parked, and nobody could be alerted", name)
            stays = True
        if not stays:
            self._stop()
        elif not self.stopped:
            self.parked[name] = reason

    def is_resolvable(self, name: str) -> bool:
        """Whether an operator may decide about this undo now: it is parked, or it is being tried."""
        return name in self.parked or name in self._undos

    def check_resolution(self, resolution: Resolution) -> None:
        """Refuse a resolution that makes no sense now; the resolve handler calls this. Raises ApplicationError."""
        if resolution.step in self._recording:
            text = f"another resolution of {resolution.step} is being recorded: it is not parked any more"
            raise ApplicationError(text, type="not_parked")
        if resolution.action != "retry" and resolution.step in {each.name for each in self.steps if not each.skippable}:
            raise ApplicationError(f"{resolution.step} can only be tried again", type="not_skippable")

    async def resolve(self, resolution: Resolution) -> str:
        """Do what an operator decided; the resolve handler calls this. An undo that is being tried is parked first.

        Raises:
            ApplicationError: `not_parked`: it comes too late.
        """
        name = resolution.step
        self._recording.add(name)
        try:
            if name not in self.parked:
                await self._interrupt(name)
            recorded = await self.on_resolution(resolution)
        finally:
            self._recording.discard(name)
        if not recorded:
            self._stop()
        if name not in self.parked:
            raise ApplicationError(f"{name} is not parked any more", type="not_parked")
        if resolution.action != "retry":
            self._resolutions[name] = resolution
        del self.parked[name]
        return f"{resolution.action}: {name}"

    async def _interrupt(self, name: str) -> None:
        """End the attempts of an undo, and park it.

        Raises:
            ApplicationError: `not_parked`: its last attempt succeeded.
        """
        self._interrupted.add(name)
        self._undos[name].cancel()
        await workflow.wait_condition(lambda: name not in self._undos)
        if name not in self.parked:
            raise ApplicationError(f"{name} is done", type="not_parked")


def calls_for_undo(cause: BaseException) -> bool:
    """Tell a failure or a cancel from a bug, and from a run that leaves the worker's memory."""
    return is_cancelled_exception(cause) or (isinstance(cause, Exception) and workflow.is_failure_exception(cause))
