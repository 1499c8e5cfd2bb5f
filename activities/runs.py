"""Runs of workflows, as Temporal knows them."""

from collections.abc import Iterator
from contextlib import contextmanager

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from orders.errors import Unavailable


@contextmanager
def reaching_temporal() -> Iterator[None]:
    """Turn what Temporal answers instead of a result into our words.

    Raises:
        Unavailable: it is out of reach, or refuses.
    """
    try:
        yield
    except RPCError as error:
        raise Unavailable(f"temporal: {error.status.name}", type="temporal_unavailable") from None


async def find_run(client: Client, workflow_id: str) -> WorkflowExecutionDescription | None:
    """The latest run with that id; None if Temporal has none, or no longer.

    Raises:
        Unavailable: Temporal.
    """
    with reaching_temporal():
        try:
            return await client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
    return None


async def is_open(client: Client, workflow_id: str) -> bool:
    """Whether a run with that id is under way.

    Raises:
        Unavailable: Temporal.
    """
    found = await find_run(client, workflow_id)
    return found is not None and found.status is WorkflowExecutionStatus.RUNNING
