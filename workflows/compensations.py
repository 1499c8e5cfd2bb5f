"""The undos of an order, for whichever run drives them: process-order its own, cancel-order on a customer's behalf."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import Fulfillment
    from activities.inventory import Inventory
    from activities.order_state import OrderState
    from activities.payments import Payments
    from orders.models import CLOSED, OrderRow, Park, Settlement, Stage
    from workflows.saga import Resolution, Saga, StopUndo, Undo
    from workflows.steps import UNTIL_DONE, step
    from workflows.timeline import OrderTimeline

ResultT = TypeVar("ResultT")


class Compensations:
    """Newest first: call the shipment off, void or refund, put the stock back and close the order."""

    def __init__(
        self,
        order_id: str,
        timeline: OrderTimeline,
        *,
        if_shipped: Callable[[Any, str], Awaitable[OrderRow]] = Payments.resume_capture,
    ) -> None:
        """`if_shipped` is what to do when the goods have left before they could be called off."""
        self._order_id = order_id
        self._timeline = timeline
        self._if_shipped = if_shipped
        self._before: Stage | None = None
        self.resolution_count = 0  # what operators have said so far, as far as this run knows

    def saga(self, claim: Undo[BaseException | None] | None = None) -> Saga:
        """A saga with all undos of an order registered.

        All before the first step: a run that was reset, or started again, may have been further than it knows.
        """
        saga = Saga(claim=claim, on_park=self._park, on_resolve=self._settle)
        saga.on_failure(
            self.release_stock,
            self._order_id,
            needs=(self.cancel_fulfillment, self.void_payment),
            skippable=False,  # it closes the row, and only a closed row is an end
        )
        saga.on_failure(self.void_payment, self._order_id, needs=(self.cancel_fulfillment,))
        saga.on_failure(self.cancel_fulfillment, self._order_id)
        return saga

    async def cancel_fulfillment(self, _order_id: str) -> str | StopUndo:
        undone = await self._retry_until_done(Fulfillment.cancel_fulfillment, "call the shipment off")
        self._timeline.tell(undone.note)
        if not undone.shipped:
            return undone.note
        row = await self._retry_until_done(self._if_shipped, "the goods have left: go forward")
        return StopUndo(f"{undone.note}; the order is {row.status}")

    async def void_payment(self, _order_id: str) -> str:
        undone = await self._retry_until_done(Payments.void_payment, "void or refund the payment")
        self._timeline.tell(undone.note)
        return undone.note

    async def release_stock(self, _order_id: str) -> str | StopUndo:
        row = await self._retry_until_done(Inventory.release_stock, "put the stock back, close the order")
        if row.status in CLOSED:
            self._timeline.tell("the stock is back")
            return f"stock back, the order is {row.status}"
        if row.parked_step:
            raise ApplicationError(f"the order is parked at {row.parked_step}", type="parked")
        return StopUndo(f"the order is {row.status}")

    async def _retry_until_done(self, activity: Callable[[Any, str], Awaitable[ResultT]], summary: str) -> ResultT:
        return await self._timeline.retry_until_done(activity, self._order_id, summary, may_fail=True)

    async def _park(self, name: str, reason: str) -> bool:
        park = Park(
            order_id=self._order_id,
            step=name,
            reason=reason,
            workflow_id=workflow.info().workflow_id,
            resolution_count=self.resolution_count,
        )
        row = await step(OrderState.park_order, park, UNTIL_DONE, f"parked: {name}")
        self.resolution_count = row.resolution_count
        if row.parked_step != name:
            return False
        self._before = self._timeline.stage
        self._timeline.enter(Stage.PARKED, f"`{name}` is parked")
        self._timeline.call_for_attention(
            name,
            f"{name} is stuck: {reason}. Look at what exists, then send the update `resolve` naming the step: "
            f"retry, skip or resolved. `starter.py resolve {self._order_id}` does it",
        )
        return True

    async def _settle(self, resolution: Resolution) -> bool:
        update = workflow.current_update_info()
        key = f"{workflow.info().run_id}:{update.id if update else ''}"
        settlement = Settlement(order_id=self._order_id, key=key, **resolution.model_dump())
        row = await step(
            OrderState.record_resolution, settlement, UNTIL_DONE, f"{resolution.action} of {resolution.step}"
        )
        self._timeline.no_longer_needs_attention()
        if row is None:
            return False
        self.resolution_count = row.resolution_count
        self._timeline.enter(
            self._before or Stage.UNDOING, f"{resolution.by} says {resolution.action}: {resolution.reason}"
        )
        return True
