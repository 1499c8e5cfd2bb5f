"""Carries out the blows of the plan, and remembers when each of them fell."""

import asyncio
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from temporalio.client import WorkflowHandle

from orders.names import PROCESS_ORDER, RECONCILE_ORDERS, TASK_QUEUE, cancel_order_id
from tests.proof.chaos.cluster import OUT_OF_REACH, Arena, persist
from tests.proof.chaos.plan import Blow, Plan

RUN_BEGINS_WITHIN: Final = 10  # seconds

# The connections of the programs, not those of the judges.
CUT: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'order-sagas'
"""


class Fallen(NamedTuple):
    """A blow, and when it fell, by the monotonic clock."""

    blow: Blow
    at: float


class NothingThere(Exception):
    """There is nothing to strike."""


class Nemesis:
    """Strikes as orders begin. Blows on different parts fall together, those on the same part one after the other.

    `missed` counts those that found nothing to strike: a run that is over, a database that is down already.
    """

    def __init__(self, arena: Arena, plan: Plan) -> None:
        self._arena = arena
        self._plan = plan
        self._falling: set[asyncio.Task[None]] = set()
        self.fallen: list[Fallen] = []
        self.missed = 0

    @property
    def kinds(self) -> Counter[str]:
        """Without what was scripted: whether that strikes, the sandbox knows."""
        return Counter(fallen.blow.kind for fallen in self.fallen if fallen.blow.act != "script")

    def order_begins(self, number: int) -> None:
        for blow in self._plan.blows_of.get(number, ()):
            self._falling.add(asyncio.create_task(self._fall(blow)))

    async def peace(self) -> None:
        """Wait until the last blow is over, and what was scripted is forgotten."""
        await asyncio.gather(*self._falling)
        await persist(self._forget_script)

    async def stop(self) -> None:
        """No more blows, whatever is still to fall."""
        for blow in self._falling:
            blow.cancel()
        await asyncio.gather(*self._falling, return_exceptions=True)

    async def _forget_script(self) -> None:
        (await self._arena.sandbox.delete("/_sandbox/faults")).raise_for_status()

    async def _fall(self, blow: Blow) -> None:
        began = time.monotonic()
        if blow.target in self._arena.parts and blow.act != "cut":
            async with self._arena.parts[blow.target].turn:
                began = time.monotonic()
                await self._strike(blow)
        else:
            try:
                await getattr(self, f"_{blow.act}")(blow)
            except (*OUT_OF_REACH, NothingThere, TimeoutError):
                self.missed += 1
                return
        self.fallen.append(Fallen(blow, began))

    async def _strike(self, blow: Blow) -> None:
        part = self._arena.parts[blow.target]
        match blow.act:
            case "stop":
                part.stop()
                try:
                    await asyncio.sleep(blow.seconds)
                finally:
                    part.go_on()
            case "kill":
                await part.kill()
                await asyncio.sleep(blow.seconds)
                await part.up()
            case _:
                await part.down()
                await part.up()

    async def _cut(self, _: Blow) -> None:
        """Every connection of the programs to the database breaks, whatever they are doing."""
        if not await self._arena.pool.fetchval(CUT):
            raise NothingThere

    async def _script(self, blow: Blow) -> None:
        service, _, route = blow.target.partition(" ")
        fault: dict[str, Any] = {"service": service, "route": route, "times": blow.times, "kind": blow.fault}
        match blow.fault:
            case "500":
                fault |= {"kind": "status", "status": 500}
            case "429":
                fault |= {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}}
            case "500_in_vain":
                fault |= {"kind": "saved_500", "effect": False}
        answer = await persist(lambda: self._arena.sandbox.post("/_sandbox/faults", json=fault))
        answer.raise_for_status()

    async def _terminate(self, blow: Blow) -> None:
        await (await self._run_of(blow)).terminate("chaos")

    async def _cancel(self, blow: Blow) -> None:
        await (await self._run_of(blow)).cancel()

    async def _sweep(self, blow: Blow) -> None:
        """Reconciliation in the middle of it all."""
        await self._arena.client.start_workflow(
            RECONCILE_ORDERS, id=f"{RECONCILE_ORDERS}:{blow.order}", task_queue=TASK_QUEUE
        )

    async def _run_of(self, blow: Blow) -> WorkflowHandle[Any, Any]:
        """Once it has run for so long."""
        order_id = self._plan.errands[blow.order].order_id
        workflow_id = order_id if blow.target == PROCESS_ORDER else cancel_order_id(order_id)
        run = self._arena.client.get_workflow_handle(workflow_id)
        async with asyncio.timeout(RUN_BEGINS_WITHIN):
            await persist(run.describe)
        await asyncio.sleep(blow.seconds)
        return run
