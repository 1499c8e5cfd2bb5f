"""The saga of process-order: it claims the order row before any undo, and decides how the order will close."""

from typing import ClassVar, NamedTuple

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.order_state import OrderState
    from orders.metrics import UNDOS
    from orders.models import WAS_CANCELLED, ErrorCode, ReservationRequest, Stage, Status, UndoClaim
    from saga import Rejected, StopUndo, reason
    from workflows.order_saga import OrderSaga
    from workflows.timeline import OrderTimeline


class Closing(NamedTuple):
    """The state in which an undo leaves the order, and what its caller gets to know."""

    closing: Status
    error_code: ErrorCode
    error: str


class RejectedOrder(Rejected):
    """A business refusal before the pivot: the saga undoes the order, and closes it with this code."""

    def __init__(self, code: ErrorCode, text: str, closing: Status = Status.REJECTED) -> None:
        super().__init__(code, text)
        self.closing = Closing(closing, code, text)


class OrderMoved(ApplicationError):
    """Another run has moved the row meanwhile: the row tells how to go on."""

    def __init__(self) -> None:
        super().__init__("its row was closed meanwhile", type="order_moved", non_retryable=True)


class PlacingSaga(OrderSaga):
    """Its claim stops late attempts of steps: they find the row claimed, and obey it."""

    CLAIM: ClassVar = OrderState.claim_undo.__name__

    def __init__(self, order: ReservationRequest, timeline: OrderTimeline) -> None:
        super().__init__(order.order_id, timeline)
        self._order = order

    async def claim(self, cause: BaseException | None) -> str | StopUndo:
        """Move the row to undoing. If another run has moved it elsewhere, nothing is to be undone."""
        closing = _closing_for(cause)
        self._timeline.enter(Stage.UNDOING, f"undoing: {closing.error}")
        claim = UndoClaim(order=self._order, **closing._asdict())
        row = await self._timeline.retry_until_done(OrderState.claim_undo, claim, closing.error, may_fail=False)
        if row.request_hash != self._order.request_hash or row.status is not Status.UNDOING:
            return StopUndo(f"the order is {row.status}")
        UNDOS.add(closing=row.closing or closing.closing)
        await self.take_over_park(row)
        if self.stopped:
            return StopUndo("the order has moved on")
        return f"the order will be {row.closing}"


def _closing_for(cause: BaseException | None) -> Closing:
    if isinstance(cause, RejectedOrder):
        return cause.closing
    if cause is not None and is_cancelled_exception(cause):
        return Closing(Status.CANCELLED, ErrorCode.CANCELLED, WAS_CANCELLED)
    why = reason(cause) if cause else "its row was closed meanwhile"
    return Closing(Status.FAILED, ErrorCode.FAILED, f"the order could not be processed: {why}")
