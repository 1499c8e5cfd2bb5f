"""Injects the faults of the plan, and records when each of them began."""

import asyncio
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from temporalio.client import WorkflowHandle

from orders.names import CANCEL_ORDER, PROCESS_ORDER, RECONCILE_ORDERS, TASK_QUEUE, cancel_order_id, refund_order_id
from tests.proof.chaos.cluster import UNREACHABLE, Cluster, until_answered
from tests.proof.chaos.plan import Plan, PlannedFault

RUN_BEGINS_WITHIN: Final = 10  # seconds

# The connections of the programs, not those of the checker.
CUT: Final = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'order-sagas'
"""


class Injected(NamedTuple):
    """A fault, and when it began by the monotonic clock."""

    fault: PlannedFault
    at: float


class NoTarget(Exception):
    """The fault has nothing to act on."""


class Nemesis:
    """Injects faults when orders begin: at once on different processes, one after another on the same process.

    `missed` counts the faults without a target: a run that has ended, a database that is down already.
    """

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        self._cluster = cluster
        self._plan = plan
        self._active: set[asyncio.Task[None]] = set()
        self.injected: list[Injected] = []
        self.missed = 0

    @property
    def kinds(self) -> Counter[str]:
        """Counts by kind, without request faults: the sandbox counts those."""
        return Counter(each.fault.kind for each in self.injected if each.fault.act != "request")

    def order_begins(self, number: int) -> None:
        for fault in self._plan.faults_at.get(number, ()):
            self._active.add(asyncio.create_task(self._inject(fault)))

    async def finish(self) -> None:
        """Wait until the last fault has ended, and clear the request faults."""
        await asyncio.gather(*self._active)
        await until_answered(self._clear_request_faults)

    async def stop(self) -> None:
        """End all faults now."""
        for fault in self._active:
            fault.cancel()
        await asyncio.gather(*self._active, return_exceptions=True)

    async def _clear_request_faults(self) -> None:
        (await self._cluster.sandbox.delete("/_sandbox/faults")).raise_for_status()

    async def _inject(self, fault: PlannedFault) -> None:
        began = time.monotonic()
        if fault.target in self._cluster.processes and fault.act != "cut":
            async with self._cluster.processes[fault.target].turn:
                began = time.monotonic()
                await self._act_on_process(fault)
        else:
            try:
                await getattr(self, f"_{fault.act}")(fault)
            except (*UNREACHABLE, NoTarget, TimeoutError):
                self.missed += 1
                return
        self.injected.append(Injected(fault, began))

    async def _act_on_process(self, fault: PlannedFault) -> None:
        process = self._cluster.processes[fault.target]
        match fault.act:
            case "stop":
                process.stop()
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    process.resume()
            case "kill":
                await process.kill()
                await asyncio.sleep(fault.seconds)
                await process.up()
            case _:
                await process.down()
                await process.up()

    async def _cut(self, _: PlannedFault) -> None:
        """Every connection of the programs to the database breaks, whatever they are doing."""
        if not await self._cluster.pool.fetchval(CUT):
            raise NoTarget

    async def _request(self, fault: PlannedFault) -> None:
        service, _, route = fault.target.partition(" ")
        scripted: dict[str, Any] = {"service": service, "route": route, "times": fault.times, "kind": fault.fault}
        match fault.fault:
            case "500":
                scripted |= {"kind": "status", "status": 500}
            case "429":
                scripted |= {"kind": "status", "status": 429, "headers": {"Retry-After": "1"}}
            case "500_in_vain":
                scripted |= {"kind": "saved", "status": 500, "effect": False}
            case "saved_500":
                scripted |= {"kind": "saved", "status": 500}
        answer = await until_answered(lambda: self._cluster.sandbox.post("/_sandbox/faults", json=scripted))
        answer.raise_for_status()

    async def _terminate(self, fault: PlannedFault) -> None:
        await (await self._run_of(fault)).terminate("chaos")

    async def _cancel(self, fault: PlannedFault) -> None:
        await (await self._run_of(fault)).cancel()

    async def _reconcile(self, fault: PlannedFault) -> None:
        """Start a reconciliation while faults are active."""
        await self._cluster.client.start_workflow(
            RECONCILE_ORDERS, id=f"{RECONCILE_ORDERS}:{fault.order}", task_queue=TASK_QUEUE
        )

    async def _run_of(self, fault: PlannedFault) -> WorkflowHandle[Any, Any]:
        """The run of the fault's order, once it has run for `seconds`."""
        order = self._plan.orders[fault.order]
        match fault.target:
            case target if target == PROCESS_ORDER:
                workflow_id = order.order_id
            case target if target == CANCEL_ORDER:
                workflow_id = cancel_order_id(order.order_id)
            case _:
                workflow_id = refund_order_id(order.order_id, order.refunds[0].refund_id)
        run = self._cluster.client.get_workflow_handle(workflow_id)
        async with asyncio.timeout(RUN_BEGINS_WITHIN):
            await until_answered(run.describe)
        await asyncio.sleep(fault.seconds)
        return run
