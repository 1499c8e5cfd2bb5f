"""Local-first execution: a step is tried once inside the workflow task, and if that fails as a regular activity.

A local activity costs no round trip to Temporal, but it is known to Temporal only when its workflow task ends: a worker
that dies in the task leaves all its local activities to be run again. So only activities that are marked `local_first`
are tried locally: short ones, which may run twice, and which an undo's claim stops when they are late.

While local activities run, the run hears no signal, update or cancel. So the time of all of them in one workflow task
is bounded, and what would exceed it runs as a regular activity.
"""

from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.worker import PatchActivationInput

ActivityT = TypeVar("ActivityT", bound=Callable[..., Any])

LOCAL_FIRST: Final = "local-first"  # the patch that a run's history keeps if its steps are tried locally first

# Temporal's default time-out of a workflow task is 10 s. At 8 s the worker asks for another task to keep it going.
# A replay decides by these values, and by which activities are marked, what ran locally. To change either while runs
# are open, ask for another patch: runs that have LOCAL_FIRST keep what it means here.
TASK_BUDGET: Final = timedelta(seconds=3)
LOCAL_TIMEOUT: Final = timedelta(seconds=2)
MIN_LOCAL_TIMEOUT: Final = timedelta(milliseconds=500)


def local_first(activity: ActivityT) -> ActivityT:
    """Mark an activity as one that may be tried inside the workflow task. Put it above `@activity.defn`."""
    activity.__local_first__ = True  # type: ignore[attr-defined]
    return activity


def choose_execution() -> None:
    """Decide whether the steps of this run are tried locally first: call it once, before the first step.

    The worker with the run's first workflow task decides (see `activates_patches`); the history keeps it, so that a
    setting may change while runs are under way.
    """
    if workflow.patched(LOCAL_FIRST):
        _budget.set(_TaskBudget())


def activates_patches(*, offered: bool) -> Callable[[PatchActivationInput], bool]:
    """For a worker's `patch_activation_callback`: every patch is active, and LOCAL_FIRST is if the worker says so."""
    return lambda patch: offered or patch.patch_id != LOCAL_FIRST


def local_timeout(activity: Callable[..., Any]) -> timedelta | None:
    """How long this activity may be tried locally now; None: it must run as a regular activity."""
    budget = _budget.get()
    if budget is None or not hasattr(activity, "__local_first__"):
        return None
    left = min(LOCAL_TIMEOUT, budget.left())
    return left if left >= MIN_LOCAL_TIMEOUT else None


class _TaskBudget:
    """The time that local activities may still take in this workflow task.

    Inside a task, Temporal's clock stands still but for local activities: the end of each moves it, in replays as well.
    """

    def __init__(self) -> None:
        self._task: int | None = None  # known by the length of the history at its start
        self._ends: datetime

    def left(self) -> timedelta:
        task = workflow.info().get_current_history_length()
        if task != self._task:
            self._task, self._ends = task, workflow.now() + TASK_BUDGET
        return self._ends - workflow.now()


_budget: ContextVar[_TaskBudget | None] = ContextVar("local_first", default=None)
