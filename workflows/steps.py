"""How a step is executed: the one place where workflows meet activities."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypedDict, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")


class Options(TypedDict):
    """How long one attempt may take, how long all of them, and what is between them. None: no end."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta | None
    retry_policy: RetryPolicy


# Room for the calls that one attempt of a step makes when all is well, of at most HTTP_TIMEOUT_SECONDS (5 s) each. One
# that takes longer is given up and goes on as a late attempt, which the row stops.
ATTEMPT_TIMEOUT: Final = timedelta(seconds=30)
FAST_RETRY: Final = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=20))
SLOW_RETRY: Final = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=15))
STEADY_RETRY: Final = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))

# For what must happen: tried until it does, or until it fails for good.
UNTIL_DONE: Final = Options(
    start_to_close_timeout=ATTEMPT_TIMEOUT, schedule_to_close_timeout=None, retry_policy=STEADY_RETRY
)

FIRST_ROUND: Final = timedelta(minutes=10)
MAX_DOUBLINGS: Final = 7  # up to about a day: a run that waits for weeks must not outgrow its history


def within(deadline: timedelta, retry_policy: RetryPolicy = FAST_RETRY) -> Options:
    """For what may fail: tried until the deadline."""
    return Options(
        start_to_close_timeout=ATTEMPT_TIMEOUT, schedule_to_close_timeout=deadline, retry_policy=retry_policy
    )


def retry_round(number: int) -> Options:
    """For what must happen, in rounds that grow: after each one somebody is told that it still fails."""
    length = FIRST_ROUND * 2 ** min(number, MAX_DOUBLINGS)
    return Options(start_to_close_timeout=ATTEMPT_TIMEOUT, schedule_to_close_timeout=length, retry_policy=STEADY_RETRY)


def raise_if_cancelled(error: ActivityError) -> None:
    """Go on after a step that failed, but not in a run that was cancelled: its attempt in flight ends in its own words.

    Raises:
        CancelledError: the run is cancelled.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError from error


def start_step(
    activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
) -> ActivityHandle[ResultT]:
    """Start an activity whose attempt in flight, if cancelled, is waited for: its effect is known before any undo."""
    return workflow.start_activity_method(
        activity,
        arg,
        **options,
        summary=summary,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def step(
    activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
) -> ResultT:
    """Run an activity to its end.

    Raises:
        ActivityError: it failed for good, ran out of time or was cancelled.
    """
    return await start_step(activity, arg, options, summary)
