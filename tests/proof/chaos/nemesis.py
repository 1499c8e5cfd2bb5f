"""Causes the faults of the plan, and remembers when each of them happened."""

import asyncio
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from temporalio.client import WorkflowHandle

from orders.names import PROCESS_ORDER, RECONCILE_ORDERS, TASK_QUEUE, cancel_order_id
from tests.proof.chaos.cluster import OUT_OF_REACH, Cluster, persist
from tests.proof.chaos.plan import Plan, PlannedFault

RUN_BEGINS_WITHIN: Final = 10  # seconds

# The connections of the programs, not those of the judges.
CUT: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'order-sagas'
"""


class Fallen(NamedTuple):
    """A fault that happened, and when, by the monotonic clock."""

    planned: PlannedFault
    at: float


class NothingThere(Exception):
    """There is nothing to strike."""


class Nemesis:
    """Causes faults as orders begin: those of different parts at once, those of the same part one after the other.

    `missed` counts those that found nothing to strike: a run that is over, a database that is down already.
    """

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._under_way: set[asyncio.Task[None]] = set()
        self.fallen: list[Fallen] = []
        self.missed = 0

    @property
    def kinds(self) -> Counter[str]:
        """The process faults by kind; the sandbox counts the request faults."""
        return Counter(fallen.planned.kind for fallen in self.fallen if fallen.planned.act != "script")

    def order_begins(self, number: int) -> None:
        for planned in self._plan.faults_of.get(number, ()):
            self._under_way.add(asyncio.create_task(self._fall(planned)))

    async def peace(self) -> None:
        """Wait until the last fault is over, and clear the scripted ones."""
        await asyncio.gather(*self._under_way)
        await persist(self._forget_script)

    async def stop(self) -> None:
        """Cause no more faults, whatever is still planned."""
        for planned in self._under_way:
            planned.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _forget_script(self) -> None:
        (await self._cluster.sandbox.delete("/_sandbox/faults")).raise_for_status()

    async def _fall(self, planned: PlannedFault) -> None:
        began = time.monotonic()
        if planned.target in self._cluster.parts and planned.act != "cut":
            async with self._cluster.parts[planned.target].turn:
                began = time.monotonic()
                await self._strike(planned)
        else:
            try:
                await getattr(self, f"_{planned.act}")(planned)
            except (*OUT_OF_REACH, NothingThere, TimeoutError):
                self.missed += 1
                return
        self.fallen.append(Fallen(planned, began))

    async def _strike(self, planned: PlannedFault) -> None:
        part = self._cluster.parts[planned.target]
        match planned.act:
            case "stop":
                part.stop()
                try:
                    await asyncio.sleep(planned.seconds)
                finally:
                    part.go_on()
            case "kill":
                await part.kill()
                await asyncio.sleep(planned.seconds)
                await part.up()
            case _:
                await part.down()
                await part.up()

    async def _cut(self, _: PlannedFault) -> None:
        """Every connection of the programs to the database breaks, whatever they are doing."""
        if not await self._cluster.pool.fetchval(CUT):
            raise NothingThere

    async def _script(self, planned: PlannedFault) -> None:
        service, _, route = planned.target.partition(" ")
        fault: dict[str, Any] = {"service": service, "route": route, "times": planned.times, "kind": planned.fault}
        match planned.fault:
            case "500":
                fault |= {"kind": "status", "status": 500}
            case "429":
                fault |= {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}}
            case "500_in_vain":
                fault |= {"kind": "saved_500", "effect": False}
        answer = await persist(lambda: self._cluster.sandbox.post("/_sandbox/faults", json=fault))
        answer.raise_for_status()

    async def _terminate(self, planned: PlannedFault) -> None:
        await (await self._run_of(planned)).terminate("chaos")

    async def _cancel(self, planned: PlannedFault) -> None:
        await (await self._run_of(planned)).cancel()

    async def _sweep(self, planned: PlannedFault) -> None:
        """Reconciliation in the middle of it all."""
        await self._cluster.client.start_workflow(
            RECONCILE_ORDERS, id=f"{RECONCILE_ORDERS}:{planned.order}", task_queue=TASK_QUEUE
        )

    async def _run_of(self, planned: PlannedFault) -> WorkflowHandle[Any, Any]:
        """Once it has run for so long."""
        order_id = self._plan.errands[planned.order].order_id
        workflow_id = order_id if planned.target == PROCESS_ORDER else cancel_order_id(order_id)
        run = self._cluster.client.get_workflow_handle(workflow_id)
        async with asyncio.timeout(RUN_BEGINS_WITHIN):
            await persist(run.describe)
        await asyncio.sleep(planned.seconds)
        return run
