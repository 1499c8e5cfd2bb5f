"""The one way to Temporal, for worker, starter, tests and replayer: connection, plugin, names."""

from collections.abc import Mapping
from typing import Final

from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.plugin import SimplePlugin
from temporalio.worker.workflow_sandbox import SandboxRestrictions
from temporalio.workflow import SandboxImportNotificationPolicy

from orders.runner import Runner

TASK_QUEUE: Final = "orders"
PROCESS_ORDER: Final = "process-order"
CANCEL_ORDER: Final = "cancel-order"
CHECK_INVENTORY: Final = "check-and-alert-inventory"
PRODUCT_RECOMMENDATIONS: Final = "product-recommendations"
INDEX_PRODUCTS: Final = "index-products"
RECONCILE_ORDERS: Final = "reconcile-orders"
VERIFY_ORDERS: Final = "verify-orders"

# Ids of runs that are one at a time; with a colon, which no order id has.
RECONCILE_NOW: Final = f"{RECONCILE_ORDERS}:now"
INDEX_RUN: Final = f"{INDEX_PRODUCTS}:all"

SWEEPS: Final = (CHECK_INVENTORY, RECONCILE_ORDERS, VERIFY_ORDERS)  # the workflows that look at everything

ORDER_STAGE: Final = SearchAttributeKey.for_keyword("OrderStage")
CUSTOMER_ID: Final = SearchAttributeKey.for_keyword("CustomerId")
NEEDS_ATTENTION: Final = SearchAttributeKey.for_keyword("NeedsAttention")

SEARCH_ATTRIBUTES: Final[Mapping[str, str]] = {
    key.name: "Keyword" for key in (ORDER_STAGE, CUSTOMER_ID, NEEDS_ATTENTION)
}


def cancel_order_id(order_id: str) -> str:
    """The workflow id of the run that cancels an order."""
    return f"{CANCEL_ORDER}:{order_id}"


def plugin() -> SimplePlugin:
    """What worker, clients and replayer must agree on.

    Workflow code is sandboxed strictly: a module that is imported without being passed through on purpose is an error
    when the worker starts. No exception type fails a workflow: it would close the run past its undo.
    """
    return SimplePlugin(
        "orders",
        data_converter=pydantic_data_converter,
        workflow_runner=Runner(
            restrictions=SandboxRestrictions.default.with_import_notification_policy(
                SandboxImportNotificationPolicy.WARN_ON_DYNAMIC_IMPORT
                | SandboxImportNotificationPolicy.RAISE_ON_UNINTENTIONAL_PASSTHROUGH
            )
        ),
    )


async def connect() -> Client:
    """A client by the environment and profile that the `temporal` command uses too (TEMPORAL_ADDRESS, …).

    Raises:
        RuntimeError: nobody answers there.
    """
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=[plugin()])


def workflow_link(ui: str, namespace: str, workflow_id: str, run_id: str | None = None) -> str:
    """The address of a run in the Web UI."""
    path = f"{ui.rstrip('/')}/namespaces/{namespace}/workflows/{workflow_id}"
    return f"{path}/{run_id}/history" if run_id else path


def schedule_link(ui: str, namespace: str, name: str) -> str:
    """The address of a Schedule in the Web UI."""
    return f"{ui.rstrip('/')}/namespaces/{namespace}/schedules/{name}"
