"""The names on the wire to Temporal: workflow types, workflow ids, task queues and search attributes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from temporalio.common import SearchAttributeKey

TASK_QUEUE: Final = "orders"
PROCESS_ORDER: Final = "process-order"
CANCEL_ORDER: Final = "cancel-order"
REFUND_ORDER: Final = "refund-order"
CHECK_INVENTORY: Final = "check-and-alert-inventory"
PRODUCT_RECOMMENDATIONS: Final = "product-recommendations"
INDEX_PRODUCTS: Final = "index-products"
NOTIFY_SHIPMENT: Final = "notify-shipment"
RECONCILE_ORDERS: Final = "reconcile-orders"
VERIFY_ORDERS: Final = "verify-orders"

REFUND_STEP: Final = "refund"

RUNNING: Final = "running"  # the state of a run that goes on

# Ids of runs that are one at a time; with a colon, which no order id has.
RECONCILE_NOW: Final = f"{RECONCILE_ORDERS}:now"
INDEX_RUN: Final = f"{INDEX_PRODUCTS}:all"

# The workflows that run on a Schedule, and how long a run may take, with those that continue it. Temporal then ends it,
# because a run that hangs keeps its Schedule from starting another one. The next run does what was not done.
SCHEDULED: Final[Mapping[str, timedelta]] = {
    CHECK_INVENTORY: timedelta(hours=3),
    RECONCILE_ORDERS: timedelta(hours=3),
    VERIFY_ORDERS: timedelta(hours=3),
    INDEX_PRODUCTS: timedelta(hours=12),
}

SWEEPS: Final = (CHECK_INVENTORY, RECONCILE_ORDERS, VERIFY_ORDERS)  # the workflows that look at everything

PAYMENT_WARNING: Final = "payment_warning"  # what NeedsAttention says of disputes, fraud warnings and reviews

ORDER_STAGE: Final = SearchAttributeKey.for_keyword("OrderStage")
CUSTOMER_ID: Final = SearchAttributeKey.for_keyword("CustomerId")
NEEDS_ATTENTION: Final = SearchAttributeKey.for_keyword("NeedsAttention")
ORDER_OUTCOME: Final = SearchAttributeKey.for_keyword("OrderOutcome")

SEARCH_ATTRIBUTES: Final[Mapping[str, str]] = {
    key.name: "Keyword" for key in (ORDER_STAGE, CUSTOMER_ID, NEEDS_ATTENTION, ORDER_OUTCOME)
}


def model_queue(task_queue: str) -> str:
    """The queue of the activities that ask a language model, for workflows of `task_queue`."""
    return f"{task_queue}-model"


def cancel_order_id(order_id: str) -> str:
    """The workflow id of the run that cancels an order."""
    return f"{CANCEL_ORDER}:{order_id}"


def refund_order_id(order_id: str, refund_id: str) -> str:
    """The workflow id of the run that refunds a part of an order."""
    return f"{refunds_of(order_id)}{refund_id}"


def refunds_of(order_id: str) -> str:
    """What the workflow ids of all refunds of the order begin with."""
    return f"{REFUND_ORDER}:{order_id}:"


def refund_step(refund_id: str) -> str:
    """What operators call the refund when it is parked."""
    return f"{REFUND_STEP}:{refund_id}"


def notify_shipment_id(order_id: str, shipment_id: str) -> str:
    """The workflow id of the run that tells the customer of a parcel."""
    return f"{NOTIFY_SHIPMENT}:{order_id}:{shipment_id}"


def order_id_of(workflow: str, workflow_id: str) -> str | None:
    """The order that a run is about; None: it is about no single one."""
    if workflow in {CANCEL_ORDER, REFUND_ORDER, NOTIFY_SHIPMENT}:
        return workflow_id.removeprefix(f"{workflow}:").partition(":")[0]
    return workflow_id if workflow == PROCESS_ORDER else None
