"""The graph of the product's order with steps that do nothing: five in a row, an answer, then two together."""

import asyncio
from datetime import timedelta
from typing import Final

from temporalio import activity, workflow

with workflow.unsafe.imports_passed_through():
    from orders.models import Line, OrderOutcome, OrderRow, ReservationRequest, Status, Terms

LIMIT: Final = timedelta(seconds=30)
STEPS: Final = ("authorize", "fulfill", "capture", "finalize")

ROW: Final = OrderRow(
    id="order",
    customer_id="cus_123",
    request_hash="0" * 64,
    status=Status.PROCESSING,
    total=2999,
    currency="usd",
    terms=Terms(),
    placed=True,
)


@activity.defn(name="floor_reserve")
async def reserve(_order: ReservationRequest) -> OrderRow:
    return ROW


@activity.defn(name="floor_step")
async def step(_order_id: str) -> OrderRow:
    return ROW


@workflow.defn(name="floor")
class Floor:
    """An order with `local`: the first five are local activities, as in the product's local-first execution."""

    def __init__(self) -> None:
        self._outcome: OrderOutcome | None = None

    @workflow.run
    async def run(self, payload: dict[str, object]) -> OrderOutcome:
        """Take the steps."""
        execute = workflow.execute_local_activity if "local" in payload else workflow.execute_activity
        order_id = workflow.info().workflow_id
        row: OrderRow = await execute(reserve, _reservation(order_id, payload), start_to_close_timeout=LIMIT)
        for each in STEPS:
            row = await execute(step, order_id, start_to_close_timeout=LIMIT, summary=each)
        self._outcome = row.outcome
        await asyncio.gather(
            *(
                workflow.execute_activity(step, order_id, start_to_close_timeout=LIMIT, summary=each)
                for each in ("email", "analytics")
            )
        )
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._outcome

    @workflow.update
    async def submit(self) -> OrderOutcome:
        """Answer as soon as the five are done."""
        await workflow.wait_condition(lambda: self._outcome is not None)
        assert self._outcome  # noqa: S101 (for the type checker)
        return self._outcome


def _reservation(order_id: str, payload: dict[str, object]) -> ReservationRequest:
    items = payload["items"]
    assert isinstance(items, list)  # noqa: S101
    lines = tuple(Line(product_id=each["productId"], quantity=each["quantity"]) for each in items)
    return ReservationRequest(
        order_id=order_id, customer_id="cus_123", currency="usd", lines=lines, request_hash="0" * 64
    )
