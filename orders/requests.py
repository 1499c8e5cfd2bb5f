"""What a run was asked for, as Temporal has kept it."""

from contextlib import suppress
from typing import Any, NamedTuple

from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue

from orders.errors import InvalidInput
from orders.intake import parse_order, read_payload


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
