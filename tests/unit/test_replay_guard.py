"""Which runs a worker does not work on with: those that were asked about when they were ahead of their history."""

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion
from temporalio.worker import WorkflowInstance

from config.replay_guard import OUTSIDE_A_TASK, PLAYED_AHEAD, InStep

REPLAYED = ("replayed", 3)  # what kind of step, and the second at which its workflow task started
AHEAD = ("played", 3)
IN_A_TASK = ("played", 9)
NEXT_TASK = ("played", 12)
LOCAL = ("ended locally", 9)  # inside the task, by a clock that is behind the server's
LEFT = ("evicted", 0)


class Recorder(WorkflowInstance):
    """Does all that it is told to."""

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        return WorkflowActivationCompletion(run_id=act.run_id)

    def get_serialization_context(self, command_info: object) -> None: ...
    def get_external_store_context(self, command_info: object) -> None: ...  # type: ignore[override]
    def get_info(self) -> None: ...  # type: ignore[override]


def a_step(kind: str, second: int) -> WorkflowActivation:
    act = WorkflowActivation(run_id="r1", is_replaying=kind == "replayed")
    act.timestamp.FromSeconds(second)
    job = act.jobs.add()
    if kind == "evicted":
        job.remove_from_cache.SetInParent()
    else:
        job.resolve_activity.is_local = kind == "ended locally"
        job.resolve_activity.SetInParent()
    return act


def a_query(query_id: str) -> WorkflowActivation:
    act = WorkflowActivation(run_id="r1")
    act.jobs.add().query_workflow.query_id = query_id
    return act


@pytest.mark.parametrize(
    ("steps", "query_id", "given_back"),
    [
        ([REPLAYED, AHEAD], OUTSIDE_A_TASK, True),
        ([REPLAYED, IN_A_TASK, IN_A_TASK], OUTSIDE_A_TASK, True),  # looks the same: to be safe
        ([REPLAYED, AHEAD, LEFT], OUTSIDE_A_TASK, True),
        ([REPLAYED], OUTSIDE_A_TASK, False),
        ([IN_A_TASK], OUTSIDE_A_TASK, False),
        ([REPLAYED, IN_A_TASK], OUTSIDE_A_TASK, False),
        ([REPLAYED, AHEAD, IN_A_TASK], OUTSIDE_A_TASK, False),
        ([REPLAYED, IN_A_TASK, LOCAL, LOCAL], OUTSIDE_A_TASK, False),
        ([REPLAYED, AHEAD, LOCAL], OUTSIDE_A_TASK, True),
        ([REPLAYED, AHEAD], "with a task", False),
    ],
)
def test_what_is_given_back(steps: list[tuple[str, int]], query_id: str, *, given_back: bool) -> None:
    run = InStep(Recorder())
    for kind, second in steps:
        assert not run.activate(a_step(kind, second)).HasField("failed")
    assert not run.activate(a_query(query_id)).HasField("failed")
    task = run.activate(a_step(*NEXT_TASK))

    assert task.HasField("failed") == given_back
    assert task.failed.failure.message == (PLAYED_AHEAD if given_back else "")
    assert not run.activate(a_step(*LEFT)).HasField("failed")
