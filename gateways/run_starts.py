"""Starts of runs that may be asked for twice: a run that is open is joined, one that has closed does not count."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from gateways.run_inputs import find_customer_email
from gateways.temporal import RPC_TIMEOUT, reaching_temporal
from orders.models import OrderRow, Refund
from orders.names import (
    NOTIFY_SHIPMENT,
    RECONCILE_NOW,
    RECONCILE_ORDERS,
    REFUND_ORDER,
    SCHEDULED,
    TASK_QUEUE,
    notify_shipment_id,
    refund_order_id,
)
from orders.parcels import ParcelNotice, Shortage

REFUND_TIMEOUT: Final = timedelta(seconds=5)  # a client waits for this start, and no row is locked meanwhile


async def start_run(  # noqa: PLR0913 (all that the callers differ in)
    client: Client,
    workflow: str,
    workflow_id: str,
    arguments: Sequence[object] = (),
    *,
    task_queue: str,
    summary: str,
    execution_timeout: timedelta | None = None,
    rpc_timeout: timedelta = RPC_TIMEOUT,
) -> WorkflowHandle[Any, Any]:
    """Start a run, unless one with that id is open. Returns the run that is open now.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    with reaching_temporal():
        handle: WorkflowHandle[Any, Any] = await client.start_workflow(
            workflow,
            args=arguments,
            id=workflow_id,
            task_queue=task_queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            static_summary=summary,
            execution_timeout=execution_timeout,
            rpc_timeout=rpc_timeout,
        )
    return handle


async def start_refund(client: Client, refund: Refund, *, task_queue: str = TASK_QUEUE) -> WorkflowHandle[Any, Any]:
    """Start refund-order: nothing is refunded twice under one refund id. Raises NoAnswer."""
    return await start_run(
        client,
        REFUND_ORDER,
        refund_order_id(refund.order_id, refund.refund_id),
        [refund.as_request()],
        task_queue=task_queue,
        summary=f"refund {refund.refund_id} of {refund.order_id}",
        rpc_timeout=REFUND_TIMEOUT,
    )


async def start_shortage_refund(
    client: Client, task_queue: str, row: OrderRow, shortage: Shortage, *, amount: Decimal | None
) -> None:
    """Start the refund of what can never leave. The customer gets an e-mail, if Temporal still has the address.

    `amount` is what is refunded; None: the prices of the units.

    Raises:
        NoAnswer: Temporal is out of reach.
    """
    refund = shortage.refund(await find_customer_email(client, row), amount)
    await start_refund(client, refund, task_queue=task_queue)


async def start_notify_shipment(client: Client, task_queue: str, notice: ParcelNotice) -> None:
    """Start notify-shipment, which writes to the customer once. Raises NoAnswer."""
    await start_run(
        client,
        NOTIFY_SHIPMENT,
        notify_shipment_id(notice.order_id, notice.shipment_id),
        [notice.model_dump(mode="json", exclude_none=True)],
        task_queue=task_queue,
        summary="a parcel has left",
    )


async def start_reconcile_orders(client: Client, task_queue: str, why: str) -> None:
    """Start reconcile-orders, which alerts operators. Its Schedule would do the same later. Raises NoAnswer."""
    await start_run(
        client,
        RECONCILE_ORDERS,
        RECONCILE_NOW,
        task_queue=task_queue,
        summary=why,
        execution_timeout=SCHEDULED[RECONCILE_ORDERS],
    )
