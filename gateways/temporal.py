"""Temporal as an external service: its errors, its runs, and the input that a run was started with."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import RawValue
from temporalio.service import RPCError, RPCStatusCode

from orders.errors import InvalidInput, NoAnswer
from orders.parsing import parse_order, read_payload


@contextmanager
def reaching_temporal(absent: Exception | None = None) -> Iterator[None]:
    """Translate Temporal's errors.

    Args:
        absent: raised where Temporal does not have what is asked for. Without it that is NoAnswer too.

    Raises:
        NoAnswer: Temporal is out of reach, or refuses.
    """
    try:
        yield
    except RPCError as error:
        if absent and is_absent(error):
            raise absent from None
        raise NoAnswer(f"Temporal does not answer: {error.status.name.lower()}: {error.message}") from None
    except WorkflowUpdateRPCTimeoutOrCancelledError:
        raise NoAnswer("Temporal does not answer: the update timed out") from None


def is_absent(error: BaseException) -> bool:
    """Whether Temporal does not have the run or Schedule; a missing namespace says nothing about its runs."""
    if not isinstance(error, RPCError) or error.status is not RPCStatusCode.NOT_FOUND:
        return False
    return not any("NamespaceNotFound" in detail.type_url for detail in error.grpc_status.details)


class _Absent(Exception):
    """Temporal does not have the run."""


async def find_run(client: Client, workflow_id: str) -> WorkflowExecutionDescription | None:
    """The latest run with that id; None if Temporal has none, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(_Absent), reaching_temporal(_Absent()):
        return await client.get_workflow_handle(workflow_id).describe()
    return None


async def is_open(client: Client, workflow_id: str) -> bool:
    """Whether a run with that id is under way.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    found = await find_run(client, workflow_id)
    return found is not None and found.status is WorkflowExecutionStatus.RUNNING


class Request(NamedTuple):
    """The type of a run, and the payload that it was started with; None if it was none, or several."""

    workflow: str
    payload: RawValue | None

    def hash_of(self, order_id: str) -> str | None:
        """The request hash of the order in the payload; None if the payload is no order."""
        with suppress(InvalidInput):
            return parse_order(order_id, read_payload(self.payload)).request_hash
        return None


async def request_of(client: Client, handle: WorkflowHandle[Any, Any]) -> Request | None:
    """What the run was started with, from its first event; None if Temporal does not have the run, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(_Absent), reaching_temporal(_Absent()):
        event = await anext(handle.fetch_history_events(page_size=1))
        started = event.workflow_execution_started_event_attributes
        payloads = started.input.payloads
        values: list[RawValue] = await client.data_converter.decode(payloads, [RawValue] * len(payloads))
        return Request(started.workflow_type.name, values[0] if len(values) == 1 else None)
    return None
