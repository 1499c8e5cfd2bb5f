"""Versions of workers as Temporal has them: which one gets the runs, which runs are held by one, and how they fare.

A worker deployment has versions, each by its build id. All workers without a version count as one, UNVERSIONED.

Raises, in all functions: NoAnswer, where Temporal is out of reach or refuses.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.deployment.v1 import RoutingConfig, WorkerDeploymentInfo, WorkerDeploymentVersion
from temporalio.api.enums.v1 import EventType, VersioningBehavior, WorkerDeploymentVersionStatus
from temporalio.api.workflow.v1 import WorkflowExecutionOptions, WorkflowExecutionVersioningInfo
from temporalio.api.workflowservice.v1 import (
    DescribeWorkerDeploymentRequest,
    DescribeWorkerDeploymentVersionRequest,
    DescribeWorkflowExecutionRequest,
    ListWorkflowExecutionsRequest,
    ResetWorkflowExecutionRequest,
    SetWorkerDeploymentCurrentVersionRequest,
    SetWorkerDeploymentRampingVersionRequest,
    UpdateWorkflowExecutionOptionsRequest,
)
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError, RPCStatusCode

from gateways.temporal import PAGE, Absent, is_absent, reaching_temporal

UNVERSIONED: Final = ""
# Queries for lists of runs. Temporal marks a run whose workflow task has failed five times in a row.
HAS_PROBLEMS: Final = "TemporalReportedProblems IN ('category=WorkflowTaskFailed', 'category=WorkflowTaskTimedOut')"
IS_PINNED: Final = "TemporalWorkflowVersioningBehavior = 'Pinned'"
AT_ONCE: Final = 10  # runs that are described or queried
QUERY_TIMEOUT: Final = timedelta(seconds=5)


class Version(NamedTuple):
    """A version of a deployment. `last_current` is None for one that was never current."""

    build_id: str
    status: str
    created: datetime
    last_current: datetime | None


class Deployment(NamedTuple):
    """Which version gets new runs and next tasks: `current`, and `ramping` a share of them in percent."""

    name: str
    current: str
    ramping: str | None
    percentage: float
    versions: tuple[Version, ...]


class VersionedRun(NamedTuple):
    """A run and the version that its next task goes to. `attempt` counts the attempts of its current workflow task."""

    workflow: str
    workflow_id: str
    run_id: str
    build_id: str
    pinned: bool
    attempt: int
    closed: bool


class Replay(NamedTuple):
    """Whether the version that gets the next task of a run can replay its history; `problem` says why it cannot.

    `silent`: no worker has answered in time, so nobody knows. `stalled`: none is asked, because the run's workflow task
    fails again and again.
    """

    run: VersionedRun
    state: Literal["replays", "fails", "silent", "stalled"]
    problem: str = ""

    @property
    def is_answered(self) -> bool:
        """Whether a worker has said so."""
        return self.state in {"replays", "fails"}


async def find_deployment(client: Client, name: str) -> Deployment | None:
    """The deployment; None until its first worker has polled."""
    request = DescribeWorkerDeploymentRequest(namespace=client.namespace, deployment_name=name)
    with suppress(Absent), reaching_temporal(Absent()):
        found = await client.workflow_service.describe_worker_deployment(request, retry=True)
        return _deployment(found.worker_deployment_info)
    return None


async def polled_queues(client: Client, deployment: str, build_id: str) -> set[str]:
    """The task queues that workers of a version have polled; empty until the first one has."""
    version = WorkerDeploymentVersion(deployment_name=deployment, build_id=build_id)
    request = DescribeWorkerDeploymentVersionRequest(namespace=client.namespace, deployment_version=version)
    with suppress(Absent), reaching_temporal(Absent()):
        found = await client.workflow_service.describe_worker_deployment_version(request, retry=True)
        return {each.name for each in found.version_task_queues}
    return set()


async def set_current(client: Client, deployment: str, build_id: str) -> None:
    """Give a version all new runs and all next tasks. Temporal refuses one that does not poll all task queues."""
    request = SetWorkerDeploymentCurrentVersionRequest(
        namespace=client.namespace, deployment_name=deployment, build_id=build_id, identity=client.identity
    )
    with reaching_temporal():
        await client.workflow_service.set_worker_deployment_current_version(request, retry=True)


async def set_ramp(client: Client, deployment: str, build_id: str, percentage: float) -> None:
    """Give a version a share of the new runs and next tasks, by a hash of the workflow id. UNVERSIONED at 0 ends it."""
    request = SetWorkerDeploymentRampingVersionRequest(
        namespace=client.namespace,
        deployment_name=deployment,
        build_id=build_id,
        percentage=percentage,
        identity=client.identity,
    )
    with reaching_temporal():
        await client.workflow_service.set_worker_deployment_ramping_version(request, retry=True)


def has_worked_on(deployment: str, build_id: str) -> str:
    """The query for runs of which a version has finished a workflow task."""
    return f"TemporalUsedWorkerDeploymentVersions = '{deployment}:{build_id}'"


async def find_open(client: Client, task_queue: str, query: str = "", *, limit: float = PAGE) -> list[VersionedRun]:
    """The newest open runs of a task queue that match a query, at most `limit`."""
    query = " AND ".join(("ExecutionStatus = 'Running'", f"TaskQueue = '{task_queue}'", *([query] if query else [])))
    request = ListWorkflowExecutionsRequest(namespace=client.namespace, query=query, page_size=int(min(limit, PAGE)))
    listed: list[WorkflowExecution] = []
    while True:
        with reaching_temporal():
            page = await client.workflow_service.list_workflow_executions(request, retry=True)
        listed += [each.execution for each in page.executions]
        request.next_page_token = page.next_page_token
        if not page.next_page_token or len(listed) >= limit:
            break
    turns = asyncio.Semaphore(AT_ONCE)

    async def describe(execution: WorkflowExecution) -> VersionedRun | None:
        async with turns:
            return await describe_versioned(client, execution.workflow_id, execution.run_id)

    found = await asyncio.gather(*(describe(each) for each in listed))
    return [each for each in found if each]


async def describe_versioned(client: Client, workflow_id: str, run_id: str = "") -> VersionedRun | None:
    """The run; None if Temporal does not have it, or no longer."""
    execution = WorkflowExecution(workflow_id=workflow_id, run_id=run_id)
    request = DescribeWorkflowExecutionRequest(namespace=client.namespace, execution=execution)
    with suppress(Absent), reaching_temporal(Absent()):
        found = await client.workflow_service.describe_workflow_execution(request, retry=True)
        info = found.workflow_execution_info
        return VersionedRun(
            workflow=info.type.name,
            workflow_id=info.execution.workflow_id,
            run_id=info.execution.run_id,
            build_id=_build_id(info.versioning_info),
            pinned=_is_pinned(info.versioning_info),
            attempt=found.pending_workflow_task.attempt,
            closed=info.HasField("close_time"),
        )
    return None


async def ask_to_replay(client: Client, runs: Sequence[VersionedRun], until: float = math.inf) -> list[Replay]:
    """Query the runs, a few at a time, which replays their histories.

    Who is not asked before `until`, in the time of the event loop, counts as silent.
    """
    turns = asyncio.Semaphore(AT_ONCE)

    async def ask(run: VersionedRun) -> Replay:
        async with turns:
            is_late = asyncio.get_running_loop().time() > until
            return Replay(run, "silent") if is_late else await _ask_to_replay(client, run)

    return await asyncio.gather(*(ask(run) for run in runs))


async def _ask_to_replay(client: Client, run: VersionedRun) -> Replay:
    try:
        handle = client.get_workflow_handle(run.workflow_id, run_id=run.run_id)
        await handle.query("__temporal_workflow_metadata", rpc_timeout=QUERY_TIMEOUT)
    except WorkflowQueryFailedError as failure:
        return Replay(run, "fails", str(failure))
    except WorkflowQueryRejectedError:
        return Replay(run, "silent")
    except RPCError as error:
        if is_absent(error):  # what is gone needs no worker
            return Replay(run, "replays")
        return Replay(run, "stalled" if _is_stalled(error) else "silent")
    return Replay(run, "replays")


def _is_stalled(error: RPCError) -> bool:
    """Temporal refuses queries of a run whose workflow task has failed several times in a row."""
    return error.status is RPCStatusCode.FAILED_PRECONDITION and "Workflow Task in failed state" in error.message


async def unpin(client: Client, run: VersionedRun) -> None:
    """Let a run that is pinned move to the current version with its next task. A run that has closed stays."""
    options = WorkflowExecutionOptions()
    options.versioning_override.auto_upgrade = True
    request = UpdateWorkflowExecutionOptionsRequest(
        namespace=client.namespace,
        workflow_execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
        workflow_execution_options=options,
        update_mask=FieldMask(paths=["versioning_override"]),
    )
    with suppress(Absent), reaching_temporal(Absent()):
        await client.workflow_service.update_workflow_execution_options(request, retry=True)


async def start_again(client: Client, run: VersionedRun, reason: str) -> bool:
    """Reset a run to its first workflow task, with its signals and updates. False: it has closed, and stays so."""
    now = await describe_versioned(client, run.workflow_id, run.run_id)
    if now is None or now.closed:  # Temporal would start it again all the same
        return False
    async for event_id in _first_workflow_tasks(client, run):
        request = ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=run.workflow_id, run_id=run.run_id),
            reason=reason,
            workflow_task_finish_event_id=event_id,
            request_id=f"{run.run_id}:start-again",
            identity=client.identity,
        )
        with suppress(Absent), reaching_temporal(Absent()):
            await client.workflow_service.reset_workflow_execution(request, retry=True)
            return True
        break
    return False


async def _first_workflow_tasks(client: Client, run: VersionedRun) -> AsyncIterator[int]:
    """The ids of the events where workflow tasks of the run completed or failed, in their order."""
    with suppress(Absent), reaching_temporal(Absent()):
        async for event in client.get_workflow_handle(run.workflow_id, run_id=run.run_id).fetch_history_events():
            if event.event_type in {
                EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED,
                EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED,
                EventType.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT,
            }:
                yield event.event_id


def _deployment(info: WorkerDeploymentInfo) -> Deployment:
    routing: RoutingConfig = info.routing_config
    is_ramping = routing.HasField("ramping_deployment_version")
    return Deployment(
        name=info.name,
        current=routing.current_deployment_version.build_id,
        ramping=routing.ramping_deployment_version.build_id if is_ramping else None,
        percentage=routing.ramping_version_percentage,
        versions=tuple(
            Version(
                build_id=each.deployment_version.build_id,
                status=WorkerDeploymentVersionStatus.Name(each.status).rpartition("_")[2].lower(),
                created=each.create_time.ToDatetime(UTC),
                last_current=each.last_current_time.ToDatetime(UTC) if each.HasField("last_current_time") else None,
            )
            for each in info.version_summaries
        ),
    )


def _build_id(info: WorkflowExecutionVersioningInfo) -> str:
    """The version that works on the run's next task."""
    if info.versioning_override.HasField("pinned"):
        return info.versioning_override.pinned.version.build_id
    if info.HasField("version_transition"):
        return info.version_transition.deployment_version.build_id
    return info.deployment_version.build_id


def _is_pinned(info: WorkflowExecutionVersioningInfo) -> bool:
    if info.HasField("versioning_override"):
        return info.versioning_override.HasField("pinned")
    return info.behavior == VersioningBehavior.VERSIONING_BEHAVIOR_PINNED
