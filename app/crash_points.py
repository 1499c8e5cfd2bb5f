"""Crash points: the worker kills itself at the point of an activity's attempt that CRASH_AT names. For tests.

config.settings refuses CRASH_AT unless every external service is the sandbox; the start-up checks refuse it unless
Temporal is on this machine. Without CRASH_AT the worker uses nothing of this module.

    begin       the attempt has begun, and has had no effect
    effect:<n>  right after its n-th effect: a commit that changed rows, or an external service's answer to a POST;
                `effect` is the first
    end         the activity is done, but the worker has not reported its result to Temporal

Every point that an attempt passes is logged: a test whose point is never reached shows which others were.
"""

import os
import re
import signal
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import httpx
import structlog
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from gateways.postgres import Database

if TYPE_CHECKING:
    from gateways.postgres import Connection

KINDS: Final = "begin, effect:<n>, end"
POINT: Final = re.compile(r"begin|effect(:[1-9]\d*)?|end")

# The rows that the transaction has changed so far. Rows that are only read or locked do not count.
CHANGED_ROWS: Final = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables"

log = structlog.get_logger()


class _Attempt:
    """One attempt of an activity, which counts its effects."""

    def __init__(self, name: str, crash_at: str) -> None:
        self._name = name
        self._crash_at = crash_at
        self._effects = 0

    def took_effect(self) -> None:
        self._effects += 1
        self.reach(f"effect:{self._effects}")

    def reach(self, point: str) -> None:
        here = f"{self._name}:{point}"
        log.info("crash point", point=here)
        if here == self._crash_at:
            os.kill(os.getpid(), signal.SIGKILL)


_attempt: ContextVar[_Attempt] = ContextVar("attempt")


def crash_point(crash_at: str, activities: Collection[str]) -> str:
    """The full name of the point that `crash_at` names.

    Raises:
        ValueError: there is no such point; the message lists the points.
    """
    name, _, point = crash_at.partition(":")
    if name not in activities or not POINT.fullmatch(point):
        known = ", ".join(sorted(activities))
        raise ValueError(f"CRASH_AT is <activity>:<point>, where the points are {KINDS} and the activities {known}")
    return f"{crash_at}:1" if point == "effect" else crash_at


class CrashPoints(Interceptor):
    """Kills the process when an attempt reaches `crash_at`, the full name of a point."""

    def __init__(self, crash_at: str) -> None:
        self._crash_at = crash_at

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Attempts(next, self._crash_at)


class _Attempts(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, crash_at: str) -> None:
        super().__init__(following)
        self._crash_at = crash_at

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002, ANN401
        attempt = _Attempt(activity.info().activity_type, self._crash_at)
        _attempt.set(attempt)
        attempt.reach("begin")
        result = await super().execute_activity(input)
        attempt.reach("end")
        return result


class WatchedDatabase(Database):
    """Counts every commit that changed rows as an effect of the attempt."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        async with super().transaction() as connection:
            before = await connection.fetchval(CHANGED_ROWS)
            yield connection
            after = await connection.fetchval(CHANGED_ROWS)
        if after > before:
            _took_effect()


def watch_http(client: httpx.AsyncClient) -> None:
    """Count every answer to a POST as an effect of the attempt."""

    async def count(response: httpx.Response) -> None:
        if response.request.method == "POST":
            _took_effect()

    client.event_hooks = {"response": [count]}


def _took_effect() -> None:
    if attempt := _attempt.get(None):
        attempt.took_effect()
