"""A step of a saga: what it does, how long it may try, and what undoes it, declared in one place."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")
UndoneT = TypeVar("UndoneT")


@dataclass(frozen=True)
class StopUndo:
    """An undo answers this when nothing is to be undone any more: somebody else finished, or it must go forward."""

    note: str


@dataclass(frozen=True)
class Step(Generic[ArgT, ResultT, UndoneT]):
    """An activity and the activity that undoes it.

    Attributes:
        do: the forward activity, as an unbound method of its class.
        undo: the compensating activity. It takes the saga's id, never the step's result, and accepts that the step
            never happened: a run that was reset undoes steps that it does not remember.
        deadline: how long the saga tries the step before it undoes everything; None: the caller of `Saga.do` says.
        undoing: what the undo is called in the timeline.
        read: turns the undo's result into a note for people, or into StopUndo.
        skippable: whether an operator may settle the undo by hand. If not, an operator can only retry it.
        independent: whether the undo waits for no other undo (except the claim) and holds none up.
        patch_id: what `workflow.patched` calls the release that added the step. A run that began before that release
            has neither the step nor its undo; see Saga.has.
    """

    do: Callable[[Any, ArgT], Awaitable[ResultT]]
    undo: Callable[[Any, str], Awaitable[UndoneT]]
    deadline: timedelta | None
    undoing: str
    read: Callable[[UndoneT], str | StopUndo] = str
    skippable: bool = field(default=True, kw_only=True)
    independent: bool = field(default=False, kw_only=True)
    patch_id: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """What operators call the undo."""
        return self.undo.__name__
