"""What a run was started with, as Temporal has it: no table keeps a customer's address."""

from contextlib import suppress
from typing import Any, NamedTuple

from temporalio.client import Client, WorkflowHandle
from temporalio.common import RawValue

from gateways.temporal import Absent, find_runs, reaching_temporal
from orders.errors import InvalidInput, Unreadable
from orders.models import Order, OrderRow, Refund
from orders.names import PROCESS_ORDER
from orders.parsing import parse_order, parse_refund, read_payload


class RunInput(NamedTuple):
    """The type of a run, and the payload that it was started with; None if it was none, or several."""

    workflow: str
    payload: RawValue | None

    def order_of(self, order_id: str) -> Order | None:
        """The order in the payload; None if the payload is no order."""
        with suppress(InvalidInput):
            return parse_order(order_id, read_payload(self.payload))
        return None

    @property
    def refund(self) -> Refund | None:
        """The refund in the payload; None if the payload is none."""
        with suppress(InvalidInput):
            return parse_refund(read_payload(self.payload))
        return None

    def is_of(self, row: OrderRow) -> bool:
        """Whether the row was written for it."""
        order = self.order_of(row.id)
        return order is not None and order.request_hash == row.request_hash


async def read_input(client: Client, handle: WorkflowHandle[Any, Any]) -> RunInput | None:
    """The input of a run, from its first event; None if Temporal does not have the run, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(Absent), reaching_temporal(Absent()):
        event = await anext(handle.fetch_history_events(page_size=1))
        started = event.workflow_execution_started_event_attributes
        payloads = started.input.payloads
        values: list[RawValue] = await client.data_converter.decode(payloads, [RawValue] * len(payloads))
        return RunInput(started.workflow_type.name, values[0] if len(values) == 1 else None)
    return None


async def find_input(client: Client, workflow: str, workflow_id: str, run_id: str | None = None) -> RunInput | None:
    """The input of a run of this workflow, by default of the latest; None if Temporal has no such run, or no longer.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    found = await read_input(client, client.get_workflow_handle(workflow_id, run_id=run_id))
    return found if found and found.workflow == workflow and found.payload else None


async def find_order_input(client: Client, row: OrderRow) -> RunInput | None:
    """The input that the row was written for. The latest run may have had another one, and was refused.

    None: Temporal no longer has it.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    latest = await find_input(client, PROCESS_ORDER, row.id)  # the list of runs may be incomplete or not available
    if latest and latest.is_of(row):
        return latest
    async for run in find_runs(client, f"WorkflowId = '{row.id}'"):
        found = await find_input(client, PROCESS_ORDER, run.workflow_id, run.run_id)
        if found and found.is_of(row):
            return found
    return None


async def find_customer_email(client: Client, row: OrderRow) -> str | None:
    """The address that the order was placed with; None: Temporal no longer has it, or its key is gone.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with suppress(Unreadable):
        found = await find_order_input(client, row)
        order = found.order_of(row.id) if found else None
        return order.customer_email if order else None
    return None
