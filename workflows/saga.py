"""A saga: steps that either all happen, or are all undone, whatever fails, times out or is cancelled.

    async with Saga(claim=claim_undo, on_park=park, on_resolve=record) as saga:
        saga.on_failure(release_stock, order_id)                        # registered before its step
        await step(...)                                                 # may take effect and still fail
        saga.on_failure(void_payment, order_id)
        await step(...)
        saga.commit()                                                   # the pivot: from here only forward

Leaving the block without `commit()` undoes, newest first: by an early return, by a failure, by a cancellation. Any
other exception is a bug; it suspends the run until it is fixed and undoes nothing. An undo takes ids that were known
beforehand, accepts that its step never happened, and says in words what it did; the claim comes before all of them and
makes sure that no late attempt of a step gets through afterwards.

Undos retry for ever (their caller sees to that). One that fails for good parks: it waits for an operator's `resolve`
update, and so do the undos that need it; the others go on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

T = TypeVar("T")
ArgT = TypeVar("ArgT")

RESOLVE = "resolve"
VISIBLE = r"^[^\x00-\x1f\x7f]*$"  # what can be kept as text


@dataclass(frozen=True)
class StopUndo:
    """What an undo answers when nothing is to be undone any more: somebody else finished, or it must go forward."""

    note: str


Undo = Callable[[ArgT], Awaitable[str | StopUndo]]


class Resolution(BaseModel):
    """An operator's word on a parked undo: try again, leave it undone, or it was settled by hand."""

    model_config = ConfigDict(frozen=True)

    step: str
    action: Literal["retry", "skip", "resolved"]
    reason: str = Field(min_length=1, max_length=500, pattern=VISIBLE)
    by: str = Field(default="operator", min_length=1, max_length=100, pattern=VISIBLE)


@dataclass
class _Entry(Generic[ArgT]):
    undo: Undo[ArgT]
    arg: ArgT
    needs: frozenset[str] = field(default_factory=frozenset)
    skippable: bool = True

    @property
    def name(self) -> str:
        return self.undo.__name__

    async def run(self) -> str | StopUndo:
        return await self.undo(self.arg)


class Saga:
    """See the module. `parked`, `undone` and `stopped` tell how far an undo is, `cause` what made it necessary."""

    def __init__(
        self,
        *,
        on_park: Callable[[str, str], Awaitable[bool]],
        on_resolve: Callable[[Resolution], Awaitable[bool]],
        claim: Undo[BaseException | None] | None = None,
    ) -> None:
        """Hand over what the order of business decides.

        Args:
            on_park: gets the step and the reason, calls a person; False if there is nothing to undo any more.
            on_resolve: keeps what an operator said; False if it comes too late: the step waits for nobody any more.
            claim: the first act of the undo, given what caused it; all undos need it.
        """
        self._claim = claim
        self._on_park = on_park
        self._on_resolve = on_resolve
        self._entries: list[_Entry[Any]] = []
        self.committed = False
        self.cause: BaseException | None = None
        self._settled: dict[str, Resolution] = {}
        self._heard: set[str] = set()
        self.parked: dict[str, str] = {}
        self.undone: list[str] = []
        self.stopped = False
        workflow.set_update_handler(RESOLVE, self._resolve, validator=self._check_resolution)

    def on_failure(
        self, undo: Undo[ArgT], arg: ArgT, *, needs: tuple[Undo[Any], ...] = (), skippable: bool = True
    ) -> None:
        """Undo the step that comes next, unless `commit` is reached.

        Args:
            undo: its name is how operators call it.
            arg: known beforehand, never the step's result.
            needs: undos that come before this one, and hold it up when they park.
            skippable: whether an operator's word can stand in for it; if not, it can only be tried again.
        """
        if undo.__name__ in {entry.name for entry in self._entries}:
            raise ValueError(f"{undo.__name__} is registered already: an operator must be able to tell undos apart")
        self._entries.append(_Entry(undo, arg, frozenset(needed.__name__ for needed in needs), skippable))

    def commit(self) -> None:
        """What has happened stands: forget every undo."""
        self.committed = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, cause: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        if self.committed or not (cause is None or calls_for_undo(cause)):
            return False
        self.cause = cause
        await shielded(self.undo(cause))
        return self.stopped

    async def undo(self, cause: BaseException | None = None) -> None:
        """Undo everything now, however long it takes, or until an undo says StopUndo."""
        waiting = self._entries[::-1]
        if self._claim:
            claim = _Entry(self._claim, cause)
            for other in waiting:
                other.needs |= {claim.name}
            waiting.insert(0, claim)
        while waiting and not self.stopped:
            if entry := self._next(waiting):
                if await self._is_undone(entry):
                    waiting.remove(entry)
            else:
                await workflow.wait_condition(lambda: self.stopped or self._next(waiting) is not None)

    def _next(self, waiting: list[_Entry[Any]]) -> _Entry[Any] | None:
        names = {entry.name for entry in waiting}
        return next((e for e in waiting if e.name not in self.parked and not e.needs & names), None)

    async def _is_undone(self, entry: _Entry[Any]) -> bool:
        if said := self._settled.get(entry.name):
            self.undone.append(f"{entry.name}: {said.action} by {said.by}: {said.reason}")
            return True
        try:
            answer = await entry.run()
        except FailureError as error:
            await self.park(entry.name, reason(error))
            return False
        if isinstance(answer, StopUndo):
            self.stopped = True
        self.undone.append(f"{entry.name}: {answer.note if isinstance(answer, StopUndo) else answer}")
        return True

    async def park(self, step: str, reason: str) -> None:
        """Leave an undo to an operator, and those that need it with it."""
        if await self._on_park(step, reason):
            self.parked[step] = reason
        else:
            self.stopped = True

    async def take_over(self, step: str, reason: str) -> None:
        """Wait for an operator where an earlier run was parked: until then nothing is undone a second time."""
        await self.park(step, reason)
        await workflow.wait_condition(lambda: step not in self.parked)

    async def _resolve(self, resolution: Resolution) -> str:
        self._heard.add(resolution.step)
        try:
            kept = await self._on_resolve(resolution)
        finally:
            self._heard.discard(resolution.step)
        if not kept:
            self.parked.clear()
            self.stopped = True
            raise ApplicationError(f"{resolution.step} is not parked any more", type="not_parked")
        if resolution.action != "retry":
            self._settled[resolution.step] = resolution
        del self.parked[resolution.step]
        return f"{resolution.action}: {resolution.step}"

    def _check_resolution(self, resolution: Resolution) -> None:
        if resolution.step not in self.parked or resolution.step in self._heard:
            stuck = ", ".join(self.parked) or "nothing"
            raise ApplicationError(f"{resolution.step} is not parked; parked is: {stuck}", type="not_parked")
        if resolution.action != "retry" and resolution.step in {e.name for e in self._entries if not e.skippable}:
            raise ApplicationError(f"{resolution.step} can only be tried again", type="not_skippable")


def calls_for_undo(cause: BaseException) -> bool:
    """A failure or a cancellation, rather than a bug, or a run that leaves the worker's memory."""
    return is_cancelled_exception(cause) or (isinstance(cause, Exception) and workflow.is_failure_exception(cause))


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which goes on to its end however often the caller is cancelled meanwhile.

    One `asyncio.shield` is not enough: a cancellation that first arrives during the work would leave it behind.
    """
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()


def reason(error: BaseException) -> str:
    """Why a step failed, in the words of its activity."""
    cause = error.cause if isinstance(error, FailureError) and isinstance(error.cause, FailureError) else error
    return cause.message if isinstance(cause, ApplicationError) else type(cause).__name__
