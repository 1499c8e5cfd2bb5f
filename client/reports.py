"""What a program does with stock, recommendations and the invariants: start the workflow, and wait for its report.

Raises, in all functions:
    RunFailed: the run failed.
    NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
"""

from datetime import timedelta
from typing import Any, Final, TypeVar

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from client.runs import query_run
from client.waiting import PATIENCE, answer
from orders.errors import RunFailed
from orders.names import (
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    INDEX_RUN,
    PRODUCT_RECOMMENDATIONS,
    SCHEDULED,
    TASK_QUEUE,
    VERIFY_ORDERS,
)
from orders.parsing import parse_customer
from orders.recommendations import IndexProgress, RecommendationsOutcome
from orders.stock import StockReport
from orders.verification import VerifyReport

FOR_STOCK: Final = timedelta(minutes=2)  # the report is immediate unless Slack is out: then the run waits two hours
FOR_ALL_ORDERS: Final = timedelta(hours=3)
FOR_THE_CATALOGUE: Final = timedelta(hours=12)  # view_index shows the progress meanwhile

ResultT = TypeVar("ResultT")


async def check_inventory(
    client: Client, workflow_id: str, *, task_queue: str = TASK_QUEUE, patience: timedelta = FOR_STOCK
) -> StockReport:
    """Find the products that are low, and alert those who reorder."""
    return await _report(client, CHECK_INVENTORY, workflow_id, StockReport, task_queue, patience)


async def recommend_products(
    client: Client, workflow_id: str, customer_id: str, *, task_queue: str = TASK_QUEUE, patience: timedelta = PATIENCE
) -> RecommendationsOutcome:
    """Recommend products to a customer.

    Raises:
        InvalidInput: nothing was started; every problem is named.
    """
    customer = parse_customer({"customerId": customer_id})
    return await _report(
        client, PRODUCT_RECOMMENDATIONS, workflow_id, RecommendationsOutcome, task_queue, patience, customer
    )


async def index_products(
    client: Client, *, task_queue: str = TASK_QUEUE, patience: timedelta = FOR_THE_CATALOGUE
) -> IndexProgress:
    """Embed the products that are new or changed. One run at a time: a second caller joins the first."""
    return await _report(client, INDEX_PRODUCTS, INDEX_RUN, IndexProgress, task_queue, patience)


async def view_index(client: Client) -> IndexProgress | None:
    """How far the indexing of products is; None if there is no run, or no worker answers."""
    return await query_run(client, INDEX_RUN, "status", IndexProgress)


async def verify_orders(
    client: Client, workflow_id: str, *, task_queue: str = TASK_QUEUE, patience: timedelta = FOR_ALL_ORDERS
) -> VerifyReport:
    """Check orders and stock against the invariants."""
    return await _report(client, VERIFY_ORDERS, workflow_id, VerifyReport, task_queue, patience)


async def _report(  # noqa: PLR0913, PLR0917 (all that the four differ in)
    client: Client,
    workflow: str,
    workflow_id: str,
    kind: type[ResultT],
    task_queue: str,
    patience: timedelta,
    *request: object,
) -> ResultT:
    """The report of the run with that id; it is started, unless it is under way."""

    async def ask() -> ResultT:
        handle: WorkflowHandle[Any, ResultT] = await client.start_workflow(
            workflow,
            args=request,
            id=workflow_id,
            task_queue=task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            execution_timeout=SCHEDULED.get(workflow),
            result_type=kind,
        )
        try:
            return await handle.result()
        except WorkflowFailureError as failure:
            cause: BaseException = failure
            while cause.__cause__:
                cause = cause.__cause__
            raise RunFailed(f"{workflow_id} failed: {cause}") from None

    return await answer(client, ask, what=workflow_id, task_queue=task_queue, patience=patience)
