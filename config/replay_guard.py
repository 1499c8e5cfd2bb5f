"""How workers run workflow code: in the SDK's sandbox, and never on from a state that the history does not know.

Temporal hands a query to any worker. One that does not hold the run replays its history, and the SDK (temporalio 1.35)
then also plays what has come since the last workflow task, although nobody gave that worker the task. If it gets the
task after all, and more has come meanwhile, its commands are those of two steps where every replay knows one: the run
is stuck as soon as it leaves that worker's memory ("TMPRL1100 Nondeterminism error").

So after such an answer the worker does not work on: it gives the task back once, and forgets the run. It then gets the
task again, with the history from its beginning.
"""

from typing import Any, Final

from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.workflow import Info

OUTSIDE_A_TASK: Final = "legacy_query"  # the SDK's id for a query that comes without a workflow task
PLAYED_AHEAD: Final = "this worker has played ahead of the history to answer a query, and begins anew"


class Runner(SandboxedWorkflowRunner):
    """The SDK's sandboxed runner, whose instances do not work on once they were played ahead of their history."""

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        return InStep(super().create_instance(det))


class InStep(WorkflowInstance):
    """Tells what a workflow task asked for from what was played ahead of one: that has no new time.

    Time moves with the start of each workflow task only; a step that is no replay and at the time of the one before it
    belongs to no task of its own.
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
                return _given_back()
            time = act.timestamp.ToNanoseconds()
            self._ahead = not act.is_replaying and time == self._time
            self._time = time
        return self._instance.activate(act)

    def get_serialization_context(self, command_info: Any) -> Any:  # noqa: ANN401  its type is the SDK's own
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:  # noqa: ANN401  its type is the SDK's own
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> Info:
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        return self._instance.get_thread_id()


def _given_back() -> WorkflowActivationCompletion:
    completion = WorkflowActivationCompletion()
    completion.failed.failure.message = PLAYED_AHEAD
    completion.failed.force_cause = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_STICKY_TASK_QUEUE
    return completion
