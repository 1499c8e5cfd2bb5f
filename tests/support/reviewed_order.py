"""process-order with one step more, a fraud review, put together as README.md tells: what an added step may rely on."""

from collections import Counter
from datetime import timedelta
from typing import ClassVar, Final

from temporalio import activity, workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from orders.models import ErrorCode, Order, OrderOutcome, OrderRow
    from saga import Step
    from workflows.order_saga import STEPS
    from workflows.placing_saga import PlacingSaga, RejectedOrder
    from workflows.process_order import ProcessOrder


class Fraud:
    """The reviews that are open, by order."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()
        self.refuses = False

    @activity.defn
    async def open_review(self, order_id: str) -> bool:
        """Whether the order may go on."""
        self.open[order_id] = 1
        return not self.refuses

    @activity.defn
    async def close_review(self, order_id: str) -> str:
        """Close the review, if there is one."""
        self.open.pop(order_id, None)
        return "the fraud review is closed"


REVIEW: Final = Step(
    Fraud.open_review,
    undo=Fraud.close_review,
    deadline=timedelta(minutes=5),
    undoing="close the fraud review",
    independent=True,
)

RESERVE, AUTHORIZE, FULFILL = STEPS


@workflow.defn(name="process-order")
class ReviewedOrder(ProcessOrder):
    """Reviews the order after its payment is authorized."""

    steps: ClassVar = (RESERVE, AUTHORIZE, REVIEW, FULFILL)

    @workflow.init
    def __init__(self, raw: RawValue = None) -> None:  # type: ignore[assignment]
        super().__init__(raw)

    @workflow.run
    async def run(self, raw: RawValue = None) -> OrderOutcome:  # type: ignore[assignment]
        return await super().run(raw)

    async def _fulfill(self, order: Order, row: OrderRow, saga: PlacingSaga) -> None:
        if not await saga.do(REVIEW, order.id, "fraud review"):
            raise RejectedOrder(ErrorCode.PAYMENT_REFUSED, "the order was not accepted")
        await super()._fulfill(order, row, saga)
