"""Releases on real processes, with orders in flight: good builds, bad ones, the way back, the end of an old one."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import httpx
import pytest
from temporalio.client import Client
from temporalio.common import PinnedVersioningOverride, WorkerDeploymentVersion

from audit.evidence import Evidence, ProviderRecords, read_runs, read_snapshot
from audit.invariants import violations
from client.orders import submit_order
from config.temporal import plugin
from deploy.local import temporal
from deploy.local.postgres import temporary_folder
from deploy.local.process import ROOT, Child, Command, binary, running
from deploy.local.stack import Ports, Stack
from gateways.worker_versions import find_deployment, set_current
from orders.models import SETTLED, OrderOutcome
from orders.names import PROCESS_ORDER, TASK_QUEUE
from tests.support.shop import an_order, eventually

DEPLOYMENT: Final = "order-sagas"
SECURE: Final = "pm_card_threeDSecure2Required"  # its order waits for its customer
# A version is drained in seconds, and may be deleted soon after its workers have gone; they poll once a minute.
SOON_DRAINED: Final = (
    'matching.wv.VersionDrainageStatusVisibilityGracePeriod="1s"',
    'matching.wv.VersionDrainageStatusRefreshInterval="1s"',
    'matching.PollerHistoryTTL="65s"',
)


@dataclass
class Drill:
    """The stack, its workers by build, and what customers were answered."""

    stack: Stack
    client: Client
    sandbox: httpx.AsyncClient
    pool: "asyncpg.Pool[asyncpg.Record]"
    workers: dict[str, AsyncExitStack] = field(default_factory=dict)
    answers: dict[str, OrderOutcome] = field(default_factory=dict)

    async def start(self, build_id: str, bug: str = "") -> None:
        """Start the workers of a build, with a bug of bad_build.py; without a build id they have no version."""
        environment = self.stack.environment({**os.environ})
        if build_id:
            environment |= {"TEMPORAL_DEPLOYMENT_NAME": DEPLOYMENT, "TEMPORAL_WORKER_BUILD_ID": build_id}
        life = self.workers[build_id] = AsyncExitStack()
        await life.enter_async_context(_worker(self.stack, environment, build_id, bug))

    async def stop(self, build_id: str) -> None:
        await self.workers.pop(build_id).aclose()

    async def starter(self, *arguments: str) -> tuple[int, Any]:
        """The exit status and the JSON of a command."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "starter.py", *arguments, "--json"),
            cwd=ROOT,
            env=self.stack.environment({**os.environ}) | {"COLUMNS": "200"},
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        return process.returncode or 0, json.loads(out)

    async def release(self, build_id: str, *, watch: int = 3) -> tuple[int, Any]:
        return await self.starter(
            *("release", "to", build_id, "--deployment", DEPLOYMENT, "--ramp", "50", "--watch", str(watch))
        )

    async def temporal(self, *arguments: str) -> int:
        """The exit status of a command of Temporal's own."""
        process = await asyncio.create_subprocess_exec(
            *(binary("temporal"), *arguments, "--address", self.stack.temporal.address, *temporal.NO_PROFILE),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait()

    async def act(self, action: str, **form: str) -> None:
        assert not (await self.sandbox.post(f"/actions/{action}", data=form)).is_error

    async def authenticate(self, order_id: str) -> None:
        """The customer authenticates the payment, and the run hears of it, as from the web process."""
        await self.act("authenticate", order=order_id, outcome="succeed")
        await self.client.get_workflow_handle(order_id).signal("payment-updated")

    async def place(self, order_id: str, **changes: Any) -> OrderOutcome:
        outcome = self.answers[order_id] = await submit_order(self.client, order_id, an_order(**changes))
        return outcome

    async def await_customer(self, *order_ids: str) -> list[asyncio.Task[OrderOutcome]]:
        """Place orders that wait for their customers; the tasks end when those have authenticated."""
        placing = [asyncio.create_task(self.place(each, paymentMethodId=SECURE)) for each in order_ids]
        for each in order_ids:
            await eventually(self._waits(each), f"{each} waits for its customer")
        return placing

    def _waits(self, order_id: str) -> Callable[[], Awaitable[bool]]:
        async def waits() -> bool:
            with suppress(Exception):
                view = await self.client.get_workflow_handle(order_id).query("status")
                return bool(view["stage"] == "awaiting_customer")
            return False

        return waits

    async def keep_ordering(self) -> None:
        """Place one order after the other, whatever becomes of the workers."""
        number = 0
        while True:
            number += 1
            await self.place(f"steady-{number}")

    async def assert_nothing_is_lost(self, stocked: dict[str, int]) -> None:
        """Every order has settled, every customer was answered, no invariant is broken."""
        snapshot = await read_snapshot(self.pool)
        assert {order.status for order in snapshot.orders} <= SETTLED
        records = ProviderRecords.model_validate((await self.sandbox.get("/_sandbox/records")).json())
        runs = await read_runs(self.client, [order.id for order in snapshot.orders], snapshot.claimed)
        assert violations(Evidence(snapshot, records, stocked, runs)) == []
        status, report = await self.starter("verify")
        assert (status, report["count"], report["unverified"]) == (0, 0, []), report


@asynccontextmanager
async def _worker(stack: Stack, environment: dict[str, str], build_id: str, bug: str) -> AsyncIterator[Child]:
    ready = stack.data_dir / f"worker-{build_id}.ready"
    program = ("-m", "tests.proof.releases.bad_build", bug) if bug else ("worker.py",)
    # Only without the sandbox a workflow is the class that bad_build.py changes.
    changes = {"WORKER_READY_FILE": str(ready)} | ({"WORKFLOW_SANDBOX": "false"} if bug else {})
    command = Command(
        name=f"The worker {build_id}",
        argv=(sys.executable, *program),
        log=stack.logs / f"worker-{build_id}.log",
        env=environment | changes,
        grace=60,
    )
    async with running(command) as child:
        await child.ready(lambda: asyncio.to_thread(ready.exists), within=60)
        yield child


@pytest.fixture
async def drill(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Drill]:
    monkeypatch.setattr(temporal, "DYNAMIC_CONFIG", (*temporal.DYNAMIC_CONFIG, *SOON_DRAINED))
    with temporary_folder() as folder:
        stack = Stack(folder / "data", Ports.free(), fast=True)
        async with (
            stack.running(),
            httpx.AsyncClient(base_url=stack.sandbox.url, trust_env=False, timeout=60) as sandbox,
            asyncpg.create_pool(stack.postgres.url(), min_size=1, max_size=4) as pool,
        ):
            client = await Client.connect(stack.temporal.address, plugins=[plugin()])
            opened = Drill(stack, client, sandbox, pool)
            try:
                yield opened
            finally:
                for build_id in [*opened.workers]:
                    await opened.stop(build_id)


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_builds_come_and_go_under_orders(drill: Drill) -> None:
    """Orders that wait for customers or an operator pass through four builds, two of them bad; nothing is lost."""
    await drill.pool.execute("UPDATE inventory SET quantity = 100000")
    rows = await drill.pool.fetch("SELECT product_id, quantity FROM inventory")
    stocked = {row["product_id"]: row["quantity"] for row in rows}
    await drill.start("")
    assert (await drill.place("parked")).success
    await drill.act("break", scenario="refund-refused")
    assert (await drill.starter("cancel-order", "parked"))[0] != 0
    waiting = await drill.await_customer("in-flight-1", "in-flight-2", "in-flight-3")

    # The first workers with a version, beside those without one.
    await drill.start("1")
    assert (await drill.release("1"))[0] == 0
    await drill.stop("")
    ordering = asyncio.create_task(drill.keep_ordering())
    await drill.authenticate("in-flight-1")
    assert (await waiting[0]).success

    # A good build, which is then the old one.
    await drill.start("2")
    assert (await drill.release("2"))[0] == 0
    await drill.stop("1")

    # One whose code fails: no other order meets it.
    await drill.start("crash", "crash")
    status, said = await drill.release("crash")
    assert (status, said["state"], said["current"]) == (3, "rolled_back", "2")
    assert "canary" in said["reason"]
    await drill.stop("crash")

    # One that places new orders well, and cannot go on with those that wait.
    await drill.start("diverge", "diverge")
    status, said = await drill.release("diverge")
    assert (status, said["state"], said["current"], said["failing"]) == (3, "rolled_back", "2", [])
    assert "TMPRL1100" in said["reason"]

    # The same, released by hand, so that an order goes on in its way; only its customer is missing.
    await set_current(drill.client, DEPLOYMENT, "diverge")
    waiting += await drill.await_customer("on-diverge")
    await drill.authenticate("in-flight-2")  # its workflow task fails from now on
    status, said = await drill.starter("release", "rollback", "2", "--deployment", DEPLOYMENT)
    assert (status, said["current"], said["failing"]) == (0, "2", [])
    assert "on-diverge" in said["startedAgain"]
    await drill.stop("diverge")
    for order_id in ("in-flight-3", "on-diverge"):
        await drill.authenticate(order_id)
    assert all(outcome.success for outcome in await asyncio.gather(*waiting))

    ordering.cancel()
    await asyncio.gather(ordering, return_exceptions=True)
    await _free_a_pinned_run(drill)
    assert (
        await drill.starter("resolve", "parked", "--step", "void_payment", "--retry", "--reason", "it is repaired")
    )[0] == 0
    assert all(outcome.success for outcome in drill.answers.values())
    assert len(drill.answers) > 10
    await drill.assert_nothing_is_lost(stocked)
    await _delete("1", drill)


async def _free_a_pinned_run(drill: Drill) -> None:
    """A client has pinned a run to version 1, whose workers are gone: `release status` names the command for it."""
    handle = await drill.client.start_workflow(
        PROCESS_ORDER,
        an_order(),
        id="pinned",
        task_queue=TASK_QUEUE,
        result_type=OrderOutcome,
        versioning_override=PinnedVersioningOverride(WorkerDeploymentVersion(DEPLOYMENT, "1")),
    )

    async def command() -> str:
        _, said = await drill.starter("release", "status", "--deployment", DEPLOYMENT)
        return next((each["command"] for each in said["pinned"] if each["workflowId"] == "pinned"), "")

    program, *arguments = (await eventually(command, "the run is listed")).split()
    assert program == "temporal"
    assert await drill.temporal(*arguments) == 0
    drill.answers["pinned"] = await handle.result()


async def _delete(build_id: str, drill: Drill) -> None:
    """An old version is drained once no run is pinned to it, and deleted once its workers are forgotten."""
    which = ("--deployment-name", DEPLOYMENT, "--build-id", build_id)

    while await drill.temporal("worker", "deployment", "delete-version", *which):
        await asyncio.sleep(1)
    found = await find_deployment(drill.client, DEPLOYMENT)
    assert found is not None
    assert build_id not in {each.build_id for each in found.versions}
