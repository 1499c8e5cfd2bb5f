"""Stops activities at chosen moments, so that a test decides which of two racing things comes first."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

Moment = Literal["before", "after"]


@dataclass
class Held:
    """An attempt that stands still: `reached` when it does, until `let_go`."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def let_go(self) -> None:
        self.released.set()


@dataclass
class Cue:
    moment: Moment
    act: Callable[[], Awaitable[None]]
    times: int | None = 1
    workflow_id: str | None = None


class ActivityHooks(Interceptor):
    """One per worker. Cues are taken in the order in which they were given, each as often as told."""

    def __init__(self) -> None:
        self._cues: dict[str, list[Cue]] = defaultdict(list)
        self.calls: list[tuple[str, str]] = []  # (workflow id, activity) of every attempt

    def hold(self, name: str, moment: Moment = "before", workflow_id: str | None = None) -> Held:
        """Let the next attempt of an activity stand still before or after its effect."""
        held = Held()

        async def stand() -> None:
            held.reached.set()
            await held.released.wait()

        self._cues[name].append(Cue(moment, stand, 1, workflow_id))
        return held

    def fail(
        self,
        name: str,
        error: BaseException,
        moment: Moment = "before",
        *,
        times: int | None = 1,
        workflow_id: str | None = None,
    ) -> None:
        """Let attempts of an activity fail, before its effect or after it; `times` None: all of them."""

        async def raise_it() -> None:
            raise error

        self._cues[name].append(Cue(moment, raise_it, times, workflow_id))

    def when(self, name: str, act: Callable[[], Awaitable[None]], moment: Moment = "before") -> None:
        """Do something at the next attempt of an activity."""
        self._cues[name].append(Cue(moment, act))

    def clear(self) -> None:
        self._cues.clear()

    async def play(self, moment: Moment) -> None:
        info = activity.info()
        for cue in list(self._cues[info.activity_type]):
            if cue.moment != moment or cue.workflow_id not in (None, info.workflow_id) or cue.times == 0:
                continue
            if cue.times is not None:
                cue.times -= 1
            await cue.act()
            return

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Attempts(next, self)


class _Attempts(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, hooks: ActivityHooks) -> None:
        super().__init__(following)
        self._stagehand = hooks

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        info = activity.info()
        self._stagehand.calls.append((info.workflow_id or "", info.activity_type))
        await self._stagehand.play("before")
        result = await super().execute_activity(input)
        await self._stagehand.play("after")
        return result
