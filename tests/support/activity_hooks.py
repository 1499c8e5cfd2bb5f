"""Acts at chosen moments of activities, so that a test decides which of two racing things comes first.

In a local-first run, a local attempt comes before the regular ones. A final error hits both, and a hold lets the local
attempt fail, so that the same test finds the same state in both executions; `hold_local` holds the local one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

Moment = Literal["before", "after"]


@dataclass
class Held:
    """An attempt that is held: `reached` is set when it gets there, and it continues after `let_go`."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        self.reached.set()
        await self.released.wait()

    def let_go(self) -> None:
        self.released.set()


@dataclass
class Hook:
    """What happens at an attempt of an activity, before or after its effect; `times` None: at all of them."""

    moment: Moment
    act: Callable[[], Awaitable[None]]
    times: int | None = 1
    workflow_id: str | None = None
    is_regular: bool = False


class ActivityHooks(Interceptor):
    """The hooks of one worker. Those of an activity run in the order in which they were added."""

    def __init__(self) -> None:
        self._hooks: dict[str, list[Hook]] = defaultdict(list)
        self._attempts: set[asyncio.Task[Any]] = set()
        self.calls: list[tuple[str, str]] = []  # (workflow id, activity) of every attempt

    def hold(self, name: str, moment: Moment = "before", workflow_id: str | None = None) -> Held:
        """Hold the next regular attempt of an activity before or after its effect."""
        held = Held()
        self._hooks[name].append(Hook(moment, held.wait, 1, workflow_id, is_regular=True))
        return held

    def hold_local(self, name: str, moment: Moment, workflow_id: str) -> Held:
        """Hold the local attempt of an activity, which its time-out ends."""
        held = Held()
        self._hooks[name].append(Hook(moment, held.wait, 1, workflow_id))
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

        self._hooks[name].append(Hook(moment, raise_it, times, workflow_id))

    def when(self, name: str, act: Callable[[], Awaitable[None]], moment: Moment = "before") -> None:
        """Do something at the next attempt of an activity."""
        self._hooks[name].append(Hook(moment, act))

    def clear(self) -> None:
        """Remove all hooks. An attempt that is held stays held."""
        self._hooks.clear()

    async def reset(self) -> None:
        """Remove all hooks, forget all calls, and cancel the attempts that are still at work."""
        self.clear()
        for attempt in self._attempts:
            attempt.cancel()
        if self._attempts:
            await asyncio.wait(self._attempts)
        self.calls.clear()

    async def play(self, moment: Moment) -> None:
        info = activity.info()
        for hook in list(self._hooks[info.activity_type]):
            if hook.moment != moment or hook.workflow_id not in (None, info.workflow_id) or hook.times == 0:
                continue
            if info.is_local and hook.is_regular:
                raise ApplicationError("held as a regular activity", type="not_locally")
            if hook.times is not None:
                hook.times -= 1
            try:
                await hook.act()
            except ApplicationError as error:
                if info.is_local and error.non_retryable and hook.times is not None:
                    hook.times += 1
                raise
            return

    def begin(self) -> None:
        """Record the attempt of the current task."""
        info = activity.info()
        self.calls.append((info.workflow_id or "", info.activity_type))
        if attempt := asyncio.current_task():
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Attempts(next, self)


class _Attempts(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, hooks: ActivityHooks) -> None:
        super().__init__(following)
        self._hooks = hooks

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        self._hooks.begin()
        await self._hooks.play("before")
        result = await super().execute_activity(input)
        await self._hooks.play("after")
        return result
