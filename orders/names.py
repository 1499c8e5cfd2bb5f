"""The names on the wire to Temporal: workflow types, workflow ids, task queues and search attributes."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from temporalio.common import SearchAttributeKey

TASK_QUEUE: Final = "orders"
PROCESS_ORDER: Final = "process-order"
CANCEL_ORDER: Final = "cancel-order"
CHECK_INVENTORY: Final = "check-and-alert-inventory"
PRODUCT_RECOMMENDATIONS: Final = "product-recommendations"
INDEX_PRODUCTS: Final = "index-products"
RECONCILE_ORDERS: Final = "reconcile-orders"
VERIFY_ORDERS: Final = "verify-orders"

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


def order_id_of(workflow: str, workflow_id: str) -> str | None:
    """The order that a run is about; None: it is about no single one."""
    return workflow_id.removeprefix(f"{CANCEL_ORDER}:") if workflow in {PROCESS_ORDER, CANCEL_ORDER} else None
