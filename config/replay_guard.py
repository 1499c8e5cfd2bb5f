"""How workers run workflow code: in the SDK's sandbox, with one argument, and never ahead of the history.

Temporal sends a query to any worker. A worker that does not have the run in memory replays its history, and the SDK
(temporalio 1.35) then also applies the events since the last workflow task, although that task is not this worker's. If
the worker gets the task later, and more events have come, it sends the commands of two steps where every replay has
one: the run is stuck as soon as it leaves that worker's memory ("TMPRL1100 Nondeterminism error").

So after such an answer the worker returns the task once, and forgets the run. Temporal sends it the task again, with
the whole history.

A client may start a run with more arguments than its workflow takes. The SDK would call the workflow with all of them,
and the error would fail the workflow task for ever. So several arguments become one, which no workflow accepts.
"""

from typing import Any, Final

from temporalio.api.common.v1 import Payload
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import Info

from orders.parsing import SEVERAL

OUTSIDE_A_TASK: Final = "legacy_query"  # the SDK's id for a query that comes without a workflow task
PLAYED_AHEAD: Final = "this worker went ahead of the history to answer a query, and starts again"


class Runner(SandboxedWorkflowRunner):
    """The SDK's sandboxed runner, whose instances get one argument, and do not go on once ahead of their history."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return InStep(super().create_instance(det))


class UnsandboxedRunner(UnsandboxedWorkflowRunner):
    """The same without the sandbox: workflow code is loaded once, and nothing checks that it is deterministic."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return InStep(super().create_instance(det))


class InStep(WorkflowInstance):
    """Recognizes a step ahead of the history by its time: it has that of the step before it.

    Time moves only when a workflow task starts. A step that is no replay, at the time of the step before it, belongs to
    no task of its own.
    """

    def __init__(self, instance: WorkflowInstance) -> None:
        self._instance = instance
        self._time: int | None = None  # of the latest step, in nanoseconds
        self._ahead = False
        self._stale = False

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        if any(job.HasField("query_workflow") for job in act.jobs):
            self._stale |= self._ahead and any(job.query_workflow.query_id == OUTSIDE_A_TASK for job in act.jobs)
        elif not any(job.HasField("remove_from_cache") for job in act.jobs):
            if self._stale:
                return _return_task()
            time = act.timestamp.ToNanoseconds()
            if not _ends_local_activity(act):
                self._ahead = not act.is_replaying and time == self._time
            self._time = time
        _unite_arguments(act)
        return self._instance.activate(act)

    def get_serialization_context(self, command_info: Any) -> Any:  # noqa: ANN401  its type is the SDK's own
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:  # noqa: ANN401  its type is the SDK's own
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> Info:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()


def _ends_local_activity(act: WorkflowActivation) -> bool:
    """A step inside a workflow task: its time is of this worker's clock, which may be behind the server's."""
    return any(job.resolve_activity.is_local for job in act.jobs)


def _unite_arguments(act: WorkflowActivation) -> None:
    for job in act.jobs:
        arguments = job.initialize_workflow.arguments
        if len(arguments) > 1:
            del arguments[:]
            arguments.append(Payload(metadata={"encoding": SEVERAL}))


def _return_task() -> WorkflowActivationCompletion:
    completion = WorkflowActivationCompletion()
    completion.failed.failure.message = PLAYED_AHEAD
    completion.failed.force_cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_STICKY_TASK_QUEUE
    return completion
