"""Sagas on Temporal: steps that either all happen or are all undone. README.md has the rules and an example."""

from temporalio import workflow

# So that a workflow file may import this package without passing it through the sandbox itself.
with workflow.unsafe.imports_passed_through():
    from saga.execution import (
        ATTEMPT_TIMEOUT,
        FAST_RETRY,
        MAX_DOUBLINGS,
        SLOW_RETRY,
        STEADY_RETRY,
        UNTIL_DONE,
        Options,
        raise_if_cancelled,
        reason,
        retry_round,
        run_activity,
        shielded,
        start_activity,
        within,
    )
    from saga.local_attempts import LOCAL_FIRST, activates_patches, choose_execution, local_first
    from saga.resolution import RESOLVE, Resolution
    from saga.saga import NOT_FINISHED, Rejected, Saga, calls_for_undo
    from saga.step import Step, StopUndo

__all__ = [
    "ATTEMPT_TIMEOUT",
    "FAST_RETRY",
    "LOCAL_FIRST",
    "MAX_DOUBLINGS",
    "NOT_FINISHED",
    "RESOLVE",
    "SLOW_RETRY",
    "STEADY_RETRY",
    "UNTIL_DONE",
    "Options",
    "Rejected",
    "Resolution",
    "Saga",
    "Step",
    "StopUndo",
    "activates_patches",
    "calls_for_undo",
    "choose_execution",
    "local_first",
    "raise_if_cancelled",
    "reason",
    "retry_round",
    "run_activity",
    "shielded",
    "start_activity",
    "within",
]
