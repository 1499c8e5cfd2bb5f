"""Temporal as an external service: its errors in our terms, the runs that it knows, and what they were started with."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode

from orders.errors import InvalidInput, Unavailable
from orders.parsing import parse_order, read_payload


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


class Request(NamedTuple):
    """The type of a run, and the first payload that it was started with."""

    workflow: str
    payload: RawValue | None

    def hash_of(self, order_id: str) -> str | None:
        """The request hash of the order that it asks for; None if that is no order."""
        with suppress(InvalidInput):
            return parse_order(order_id, read_payload(self.payload)).request_hash
        return None


async def request_of(client: Client, handle: WorkflowHandle[Any, Any]) -> Request:
    """What the run was started with, read from its first event.

    Raises:
        RPCError: Temporal is out of reach, or does not have that run.
    """
    event = await anext(handle.fetch_history_events(page_size=1))
    started = event.workflow_execution_started_event_attributes
    payloads = started.input.payloads
    values: list[RawValue] = await client.data_converter.decode(payloads, [RawValue] * len(payloads))
    return Request(started.workflow_type.name, values[0] if values else None)
