"""How a version of the worker gets the orders: first canaries, then a growing share, at last all; and back.

    released = await release(client, Plan(deployment="order-sagas", build_id="2", canary=canary_order(…)), print)

After each step the runs are watched, and verify-orders is run on the new version. If workflow tasks fail there, or an
invariant is broken that was not before, the release is rolled back: the earlier version gets all runs again. A run that
has already gone on in the way of the new version, so that the earlier one cannot replay it, starts again from its first
workflow task, and continues from the order's row.

Raises, in all functions: NoAnswer, where Temporal is out of reach or refuses.
"""

import asyncio
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeVar

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import PinnedVersioningOverride, WorkerDeploymentVersion
from temporalio.service import RPCError, RPCStatusCode

from client.orders import read_order
from gateways.temporal import reaching_temporal
from gateways.worker_versions import (
    HAS_PROBLEMS,
    IS_PINNED,
    UNVERSIONED,
    Deployment,
    Replay,
    Version,
    VersionedRun,
    ask_to_replay,
    describe_versioned,
    find_deployment,
    find_open,
    has_worked_on,
    polled_queues,
    set_current,
    set_ramp,
    start_again,
    unpin,
)
from orders.errors import InvalidInput, NoAnswer, NotFound
from orders.models import PAYMENT_REFUSALS, Model, OrderOutcome
from orders.money import to_decimal
from orders.names import NEEDS_ATTENTION, PROCESS_ORDER, SCHEDULED, TASK_QUEUE, VERIFY_ORDERS, model_queue
from orders.verification import VerifyReport

CANARIES: Final = 3
MAX_NAMED: Final = 32  # characters of a build id in the id of an order, which has 64
NO_PAYMENT: Final = "pm_release_canary"  # no payment method of anybody's: the provider refuses it

MAX_ATTEMPTS: Final = 3  # of a workflow task: a worker may die once
WATCHED: Final = 100  # the newest open runs; the older ones are found once Temporal has marked them
LOOK_EVERY: Final = 2.0  # seconds
POLLS_WITHIN: Final = 60.0  # seconds, from the start of the workers of a version
CANARY_ENDS_WITHIN: Final = timedelta(minutes=2)
SETTLES_WITHIN: Final = 180.0  # seconds from a rollback until every run goes on; a lost workflow task takes 10 of them

SOMEBODY_ELSE: Final = "somebody else has changed the current or the ramping version"

Tell = Callable[[str], None]
ResultT = TypeVar("ResultT")


class Plan(NamedTuple):
    """A release. `ramp` are shares in percent; each of them, and at last all, is watched for `watch`."""

    deployment: str
    build_id: str
    canary: Mapping[str, Any]
    ramp: Sequence[float] = (10, 50)
    watch: timedelta = timedelta(minutes=5)
    task_queue: str = TASK_QUEUE


class Released(Model):
    """How a release, or a rollback, ended.

    `current` is the build that has the runs now; empty: workers without a version. `reason` says why it was rolled
    back. `started_again` are the runs that the current version could not replay, `failing` those whose workflow tasks
    still fail, `unanswered` those of which no worker has answered whether it can replay them.
    """

    deployment: str
    state: Literal["released", "rolled_back"]
    current: str
    reason: str = ""
    started_again: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    unanswered: tuple[str, ...] = ()


class VersionView(Model):
    build_id: str
    status: str
    created: datetime


class PinnedRun(Model):
    workflow_id: str
    run_id: str
    build_id: str


class DeploymentView(Model):
    """The versions of a deployment, the newest first, and the runs that are pinned to one: they stay when it goes."""

    name: str
    current: str
    ramping: str | None
    percentage: float
    versions: tuple[VersionView, ...]
    pinned: tuple[PinnedRun, ...]


class _WayBack(NamedTuple):
    """A rollback from one build to another, and why."""

    deployment: str
    build_id: str
    back_to: str
    reason: str = "by hand"
    task_queue: str = TASK_QUEUE


class _Bad(Exception):
    """The version must not go on; the message says why."""


def canary_order(product_id: str, price: int, currency: str) -> dict[str, Any]:
    """An order whose payment is refused: it reserves, asks for the payment, and undoes, so that it holds nothing after.

    Nobody gets an e-mail about it, and the warehouse is not asked. `price` is in minor units. Each order that is placed
    from it gets a customer of its own, whom no limit of held stock stops.
    """
    return {
        "customerId": "release-canary",
        "customerEmail": "release-canary@example.com",
        "items": [{"productId": product_id, "quantity": 1, "price": to_decimal(price, currency)}],
        "currency": currency,
        "paymentMethodId": NO_PAYMENT,
        "shippingAddress": {"street": "1 Canary Row", "city": "San Francisco", "state": "CA", "zip": "94102"},
    }


async def release(client: Client, plan: Plan, tell: Tell) -> Released:
    """Give the runs to a new version step by step, and back if it does badly. `tell` gets a line for each step.

    Raises:
        NotFound: no worker polls as that version.
        NoAnswer: see above; or another release has changed the routing meanwhile; or so many invariants are broken
            already that nobody can tell which are new. What was reached stays as it is.
    """
    await _await_workers(client, plan, tell)
    before = await _deployment(client, plan.deployment)
    if before.current == plan.build_id:
        return Released(deployment=plan.deployment, state="released", current=plan.build_id)
    if before.ramping not in {None, plan.build_id}:
        raise NoAnswer(f"{before.ramping or 'the workers without a version'} is being ramped: roll that back first")
    attempt = _Release(client, plan, before, tell)
    try:
        await attempt.run()
    except _Bad as bad:
        tell(f"rolling back: {bad}")
        way = _WayBack(plan.deployment, plan.build_id, before.current, str(bad), plan.task_queue)
        return await _roll_back(client, way, tell)
    return Released(deployment=plan.deployment, state="released", current=plan.build_id)


async def roll_back(
    client: Client, deployment: str, build_id: str | None, tell: Tell, *, task_queue: str = TASK_QUEUE
) -> Released:
    """End the ramp of a version. If there is none, make `build_id` current; None: the one that was current before.

    Raises:
        NotFound: there is no such deployment or version, or no earlier one.
        InvalidInput: another version is being ramped beside the current one, and `build_id` is not the current one.
        NoAnswer: see above; or another release has changed the routing meanwhile.
    """
    now = await _deployment(client, deployment)
    if now.ramping is not None:
        if build_id not in {None, now.current}:
            ramping = now.ramping or "the workers without a version"
            raise InvalidInput([f"{ramping} is being ramped: end that first, by a rollback that names no build"])
        return await _roll_back(client, _WayBack(deployment, now.ramping, now.current, task_queue=task_queue), tell)
    if build_id is None:
        build_id = _earlier(now).build_id
    elif build_id == now.current or build_id not in {each.build_id for each in now.versions}:
        raise NotFound(f"{deployment} has no other version {build_id}")
    return await _roll_back(client, _WayBack(deployment, now.current, build_id, task_queue=task_queue), tell)


async def view_deployment(client: Client, deployment: str, *, task_queue: str = TASK_QUEUE) -> DeploymentView:
    """Which versions there are, and which runs are pinned to one.

    Raises:
        NotFound: no worker has ever polled as a version of it.
    """
    found = await _deployment(client, deployment)
    pinned = await find_open(client, task_queue, IS_PINNED)
    return DeploymentView(
        name=found.name,
        current=found.current,
        ramping=found.ramping,
        percentage=found.percentage,
        versions=tuple(
            VersionView(build_id=each.build_id, status=each.status, created=each.created)
            for each in sorted(found.versions, key=lambda each: each.created, reverse=True)
        ),
        pinned=tuple(
            PinnedRun(workflow_id=each.workflow_id, run_id=each.run_id, build_id=each.build_id) for each in pinned
        ),
    )


class _Release:
    """One release, from the first canary to the last look."""

    def __init__(self, client: Client, plan: Plan, before: Deployment, tell: Tell) -> None:
        self._client = client
        self._plan = plan
        self._before = before
        self._tell = tell
        self._broken: set[tuple[str, str]] = set()  # invariants that were broken before
        self._lost: frozenset[str] = frozenset()  # runs that could not be replayed before
        self._version = WorkerDeploymentVersion(plan.deployment, plan.build_id)

    async def run(self) -> None:
        """Raises _Bad."""
        build_id, before = self._plan.build_id, self._before
        await self._remember_broken()
        await self._place_canaries()
        self._lost = frozenset([each.run.run_id for each in await self._unplayable()])
        ramping = before.ramping
        for share in self._plan.ramp:
            await self._raise_if_changed(before.current, ramping)
            await set_ramp(self._client, self._plan.deployment, build_id, share)
            ramping = build_id
            await self._watch(before.current, ramping, f"{build_id} gets {share:g} % of the orders")
        await self._raise_if_changed(before.current, ramping)
        await set_current(self._client, self._plan.deployment, build_id)
        await self._watch(build_id, None, f"{build_id} is current, and gets all orders")

    async def _remember_broken(self) -> None:
        """Raises NoAnswer: the report does not list all broken invariants, so what breaks later would not show."""
        report = await self._verify()
        if report.count > len(report.violations):
            raise NoAnswer(
                f"{report.count} invariants are broken, and verify-orders lists only {len(report.violations)} of them: "
                "repair them first, because the release cannot tell which ones break later"
            )
        self._broken = {(each.subject, each.rule) for each in report.violations}
        if self._broken:
            self._tell(f"before the release {len(self._broken)} invariants are broken; only others count")

    async def _place_canaries(self) -> None:
        self._tell(f"placing {CANARIES} orders on {self._plan.build_id} whose payment is refused")
        await asyncio.gather(*(self._place_canary(number) for number in range(1, CANARIES + 1)))

    async def _place_canary(self, number: int) -> None:
        build_id = self._plan.build_id.replace("/", "-")[:MAX_NAMED]
        name = f"{uuid.uuid4().hex[:8]}-{number}"
        order_id = f"canary-{build_id}-{name}"
        customer = {"customerId": f"{self._plan.canary['customerId']}-{name}"}
        payload = read_order(order_id, {**self._plan.canary, **customer}).payload
        outcome = await self._on_version(PROCESS_ORDER, order_id, OrderOutcome, CANARY_ENDS_WITHIN, payload)
        if outcome.success or outcome.error_code not in PAYMENT_REFUSALS:
            what = "was placed" if outcome.success else f"ended with {outcome.error_code}: {outcome.error}"
            raise _Bad(f"{order_id} should be refused by the payment provider, and {what}")

    async def _verify(self) -> VerifyReport:
        self._tell(f"verifying the invariants on {self._plan.build_id}")
        run = f"{VERIFY_ORDERS}:{self._plan.build_id}-{uuid.uuid4().hex[:8]}"
        report = await self._on_version(VERIFY_ORDERS, run, VerifyReport, SCHEDULED[VERIFY_ORDERS])
        for text in report.unverified:
            self._tell(f"not verified: {text}")
        return report

    async def _on_version(
        self, workflow: str, workflow_id: str, kind: type[ResultT], ends_within: timedelta, *arguments: object
    ) -> ResultT:
        """The result of a run that is held by the new version, whatever share of the traffic that has. Raises _Bad."""
        handle = await self._start(workflow, workflow_id, kind, arguments)
        result = asyncio.ensure_future(handle.result())
        try:
            async with asyncio.timeout(ends_within.total_seconds()):
                while not result.done():
                    await asyncio.wait({result}, timeout=LOOK_EVERY)
                    run = await describe_versioned(self._client, workflow_id)
                    if run and run.attempt >= MAX_ATTEMPTS and not result.done():
                        raise _Bad(f"the workflow task of {workflow_id} fails again and again")
            with reaching_temporal():
                return result.result()
        except TimeoutError:
            raise _Bad(f"{workflow_id} has not ended within {ends_within}") from None
        except WorkflowFailureError as failure:
            raise _Bad(f"{workflow_id} failed: {failure.cause}") from None
        finally:
            if not result.done():
                result.cancel()
                if run := await describe_versioned(self._client, workflow_id):  # it goes on where the orders go
                    await unpin(self._client, run)

    async def _start(
        self, workflow: str, workflow_id: str, kind: type[ResultT], arguments: Sequence[object]
    ) -> WorkflowHandle[Any, ResultT]:
        """Start a pinned run. A task queue learns of the workers of a new version some moments after they poll it."""
        deadline = asyncio.get_running_loop().time() + POLLS_WITHIN
        while True:
            with reaching_temporal():
                try:
                    return await self._client.start_workflow(
                        workflow,
                        args=arguments,
                        id=workflow_id,
                        task_queue=self._plan.task_queue,
                        result_type=kind,
                        versioning_override=PinnedVersioningOverride(self._version),
                    )
                except RPCError as error:
                    is_early = error.status is RPCStatusCode.FAILED_PRECONDITION
                    if not is_early or asyncio.get_running_loop().time() > deadline:
                        raise
            await asyncio.sleep(LOOK_EVERY)

    async def _watch(self, current: str, ramping: str | None, what: str) -> None:
        """Look for failing workflow tasks until the time is over, then at the invariants. Raises _Bad."""
        self._tell(f"{what}; watching it for {self._plan.watch.total_seconds():g} s")
        deadline = asyncio.get_running_loop().time() + self._plan.watch.total_seconds()
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(LOOK_EVERY)
            await self._raise_if_changed(current, ramping)
            for run in await _find_suspects(self._client, self._plan.task_queue):
                if run.build_id == self._plan.build_id and run.attempt >= MAX_ATTEMPTS:
                    raise _Bad(f"the workflow task of {run.workflow_id} fails again and again")
        for each in await self._unplayable():
            if each.run.run_id not in self._lost:
                raise _Bad(f"{each.run.workflow_id} cannot be replayed: {each.problem}")
        report = await self._verify()
        broken = [each.text for each in report.violations if (each.subject, each.rule) not in self._broken]
        if broken or report.count > len(report.violations):
            raise _Bad(f"an invariant is broken: {broken[0] if broken else 'more of them than are listed'}")

    async def _raise_if_changed(self, current: str, ramping: str | None) -> None:
        """Raises NoAnswer: the routing is not as this release has left it."""
        now = await _deployment(self._client, self._plan.deployment)
        if (now.current, now.ramping) != (current, ramping):
            raise NoAnswer(f"{SOMEBODY_ELSE}: this release ends here")

    async def _unplayable(self) -> list[Replay]:
        """The open runs that cannot be replayed by the version that gets their next task.

        What waits for an operator or a customer would else show only days later that the new version cannot go on.
        """
        newest = await find_open(self._client, self._plan.task_queue, limit=WATCHED)
        waiting = await find_open(self._client, self._plan.task_queue, f"{NEEDS_ATTENTION.name} IS NOT NULL")
        runs = {each.run_id: each for each in (*newest, *waiting) if not each.pinned}
        found = await ask_to_replay(self._client, [*runs.values()])
        failing = [each for each in found if each.state == "fails"]
        silent = sum(not each.is_answered for each in found)
        self._tell(
            f"looked at {len(found)} open runs, the newest {WATCHED} and those that need attention: "
            f"{len(failing)} cannot be replayed, {silent} have not answered"
        )
        return failing


async def _await_workers(client: Client, plan: Plan, tell: Tell) -> None:
    """Wait until workers of the version have polled both task queues. Raises NotFound."""
    tell(f"waiting for workers of {plan.build_id}")
    wanted = {plan.task_queue, model_queue(plan.task_queue)}
    deadline = asyncio.get_running_loop().time() + POLLS_WITHIN
    while not wanted <= await polled_queues(client, plan.deployment, plan.build_id):
        if asyncio.get_running_loop().time() > deadline:
            raise NotFound(
                f"no worker polls as version {plan.build_id} of {plan.deployment}: start workers with "
                f"TEMPORAL_DEPLOYMENT_NAME={plan.deployment} TEMPORAL_WORKER_BUILD_ID={plan.build_id}"
            )
        await asyncio.sleep(LOOK_EVERY)


async def _deployment(client: Client, name: str) -> Deployment:
    if found := await find_deployment(client, name):
        return found
    raise NotFound(f"no worker has ever polled as a version of {name}: see TEMPORAL_DEPLOYMENT_NAME")


def _earlier(now: Deployment) -> Version:
    """The latest of the versions that are older than the current one and were current themselves. Raises NotFound."""
    current = next((each.created for each in now.versions if each.build_id == now.current), datetime.now(UTC))
    found = [each for each in now.versions if each.last_current and each.created < current]
    if not found:
        raise NotFound(
            f"no version of {now.name} was current before {now.current or 'now'}: name the one to go back to"
        )
    return max(found, key=lambda each: each.created)


async def _find_suspects(client: Client, task_queue: str) -> list[VersionedRun]:
    """The runs whose workflow task is tried again: among the newest, and among those that Temporal has marked."""
    newest, marked = (
        await find_open(client, task_queue, limit=WATCHED),
        await find_open(client, task_queue, HAS_PROBLEMS),
    )
    return list({each.run_id: each for each in (*newest, *marked) if each.attempt > 1}.values())


async def _roll_back(client: Client, way: _WayBack, tell: Tell) -> Released:
    """Give all runs to an earlier version, and wait until they go on there. Raises NoAnswer."""
    await _route_back(client, way)
    tell(f"{way.back_to or 'the workers without a version'} has all orders again; waiting until they go on there")
    started_again: list[str] = []
    asked: set[str] = set()  # runs that have answered
    deadline = asyncio.get_running_loop().time() + SETTLES_WITHIN
    while True:
        await asyncio.sleep(LOOK_EVERY)
        suspects = await _find_suspects(client, way.task_queue)
        failing = [each.workflow_id for each in suspects if each.build_id == way.build_id and not each.pinned]
        moved = await find_open(client, way.task_queue, has_worked_on(way.deployment, way.build_id), limit=math.inf)
        replays = await ask_to_replay(
            client, [each for each in moved if not each.pinned and each.run_id not in asked], deadline
        )
        started_again += await _start_again(client, way, replays, tell)
        asked |= {each.run.run_id for each in replays if each.is_answered}
        silent = [each.run.workflow_id for each in replays if not each.is_answered]
        if not (failing or silent) or asyncio.get_running_loop().time() > deadline:
            return Released(
                deployment=way.deployment,
                state="rolled_back",
                current=way.back_to,
                reason=way.reason,
                started_again=tuple(started_again),
                failing=tuple(failing),
                unanswered=tuple(silent),
            )


async def _route_back(client: Client, way: _WayBack) -> None:
    """Give all runs to the earlier version, unless somebody else has given them to another one. Raises NoAnswer."""
    now = await _deployment(client, way.deployment)
    if now.current not in {way.build_id, way.back_to} or now.ramping not in {None, way.build_id}:
        raise NoAnswer(f"{SOMEBODY_ELSE}, so the rollback from {way.build_id} ends here: look at `release status`")
    if now.ramping is not None:
        await set_ramp(client, way.deployment, UNVERSIONED, 0)
    if now.current != way.back_to:
        await set_current(client, way.deployment, way.back_to)


async def _start_again(client: Client, way: _WayBack, replays: Sequence[Replay], tell: Tell) -> list[str]:
    """Reset the runs that have gone on in the way of the build that is left, and cannot be replayed without it.

    A run that was at work when the orders were given back is not asked any more: its task has failed by then.
    """
    lost = [
        each.run
        for each in replays
        if each.state == "fails" or (each.state == "stalled" and each.run.build_id == way.back_to)
    ]
    found = []
    for run in lost:
        if await start_again(client, run, f"{way.deployment} was rolled back from {way.build_id}"):
            tell(f"{run.workflow_id} has started again from its first task: no other version can replay it")
            found.append(run.workflow_id)
    return found
