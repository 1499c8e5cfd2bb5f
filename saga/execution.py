"""How an activity is executed: the one place where workflows meet activities."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Final, NotRequired, TypedDict, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, FailureError
from temporalio.workflow import ActivityCancellationType, ActivityHandle

from saga.local_attempts import LOCAL_TIMEOUT, local_timeout

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")


class Options(TypedDict):
    """How long one attempt may take, how long all attempts may take (None: no end), and the pauses between them.

    `task_queue` is that of the workflow unless it is given.
    """

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta | None
    retry_policy: RetryPolicy
    task_queue: NotRequired[str]


# Temporal gives up an attempt that takes longer, although it may still take effect later. So the undo must stop late
# attempts (the claim), and the time-outs of an activity's own calls must add up to less than this.
ATTEMPT_TIMEOUT: Final = timedelta(seconds=30)
FAST_RETRY: Final = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=20))
SLOW_RETRY: Final = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(minutes=15))
STEADY_RETRY: Final = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(minutes=1))
ONCE: Final = RetryPolicy(maximum_attempts=1)

# For what must happen: Temporal retries it until it succeeds or fails for good.
UNTIL_DONE: Final = Options(
    start_to_close_timeout=ATTEMPT_TIMEOUT, schedule_to_close_timeout=None, retry_policy=STEADY_RETRY
)

FIRST_ROUND: Final = timedelta(minutes=10)
MAX_SUMMARY: Final = 400  # bytes of UTF-8, Temporal's limit.userMetadataSummarySize
MAX_DOUBLINGS: Final = 7  # up to about a day: a run that waits for weeks must not outgrow its history


def within(deadline: timedelta, retry_policy: RetryPolicy = FAST_RETRY) -> Options:
    """For what may fail: Temporal retries it until the deadline."""
    return Options(
        start_to_close_timeout=ATTEMPT_TIMEOUT, schedule_to_close_timeout=deadline, retry_policy=retry_policy
    )


def retry_round(number: int) -> Options:
    """For what must happen, in rounds that grow: after each round the caller can report that it still fails."""
    length = FIRST_ROUND * 2 ** min(number, MAX_DOUBLINGS)
    return Options(start_to_close_timeout=ATTEMPT_TIMEOUT, schedule_to_close_timeout=length, retry_policy=STEADY_RETRY)


def start_activity(
    activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
) -> asyncio.Task[ResultT]:
    """Start an activity. If it is canceled, its attempt in flight ends first, so that an undo finds its effect."""
    timeout = local_timeout(activity)
    if timeout is None:
        return _start_regular(activity, arg, options, summary)
    return asyncio.create_task(_try_locally(activity, arg, options, summary, timeout))


def _start_regular(
    activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
) -> ActivityHandle[ResultT]:
    return workflow.start_activity_method(
        activity,
        arg,
        **options,
        summary=_fitting(summary),
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )


async def _try_locally(
    activity: Callable[[Any, ArgT], Awaitable[ResultT]],
    arg: ArgT,
    options: Options,
    summary: str,
    timeout: timedelta,  # noqa: ASYNC109 (of the attempt)
) -> ResultT:
    """Try an activity once in this workflow task. Whatever it fails with, the regular activity has the last word."""
    attempt = workflow.start_local_activity_method(
        activity, arg, schedule_to_close_timeout=timeout, retry_policy=ONCE, summary=_fitting(summary)
    )
    began = workflow.now()
    # A cancel waits for the attempt, which is short: an undo finds its effect.
    error = await shielded(_failure_of(attempt))
    if (task := asyncio.current_task()) and task.cancelling():
        raise asyncio.CancelledError from error
    if error is None:
        return await attempt
    limit = options["schedule_to_close_timeout"]
    if delay := _asked_delay(error):
        await workflow.sleep(min(delay, limit or delay), summary=f"retry {activity.__name__}")
    left = limit and max(limit - (workflow.now() - began), LOCAL_TIMEOUT)
    return await _start_regular(activity, arg, {**options, "schedule_to_close_timeout": left}, summary)


async def _failure_of(attempt: ActivityHandle[Any]) -> FailureError | None:
    try:
        await attempt
    except FailureError as error:
        return error
    return None


def _asked_delay(error: FailureError) -> timedelta | None:
    """The pause that an external service asked for before the next attempt."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return cause.next_retry_delay if isinstance(cause, ApplicationError) else None


async def run_activity(
    activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
) -> ResultT:
    """Run an activity to its end.

    Raises:
        ActivityError: it failed for good, ran out of time or was canceled.
    """
    return await start_activity(activity, arg, options, summary)


def raise_if_cancelled(error: ActivityError) -> None:
    """Call this before going on after a failed activity: in a canceled run, the failure may be the cancel.

    Raises:
        CancelledError: the run is canceled.
    """
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError from error


async def shielded(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return the result of `work`, which runs to its end however often the caller is canceled meanwhile.

    One `asyncio.shield` is not enough: a cancel that arrives during the work would leave the work behind.
    """
    task = asyncio.create_task(work)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()


def _fitting(summary: str) -> str:
    """As much of the summary as Temporal takes: it may quote what an external service says."""
    encoded = summary.encode()
    return summary if len(encoded) <= MAX_SUMMARY else f"{encoded[: MAX_SUMMARY - 3].decode(errors='ignore')}…"


def reason(error: BaseException) -> str:
    """Why an activity failed, in the words of that activity."""
    cause = error.cause if isinstance(error, FailureError) and isinstance(error.cause, FailureError) else error
    return cause.message if isinstance(cause, ApplicationError) else type(cause).__name__
