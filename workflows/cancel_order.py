"""cancel-order: cancel an order at any moment of its life, exactly once, however often a customer asks.

It claims the order row, and then does what the row says, with the same activities as process-order. It waits only while
that run is open to do the work.
"""

from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities.inventory import Inventory
    from activities.notifications import Notifications
    from activities.order_state import OrderState
    from activities.payments import Payments
    from activities.shipments import Shipments
    from orders.errors import InvalidInput
    from orders.metrics import CANCELS
    from orders.models import (
        CLOSED,
        GONE,
        CancelOutcome,
        CancelReason,
        CancelView,
        Notification,
        NotificationKind,
        OrderRow,
        Stage,
        Status,
    )
    from orders.names import CANCEL_ORDER, PROCESS_ORDER, RUNNING
    from orders.parsing import CancelRequest, parse_cancel, read_payload
    from orders.refunds import STANDING
    from saga import UNTIL_DONE, run_activity, shielded
    from workflows.notifications import deliver
    from workflows.order_saga import OrderSaga, view_of, was_reset
    from workflows.timeline import OrderTimeline

FIRST_POLL: Final = timedelta(milliseconds=200)
MAX_POLL: Final = timedelta(seconds=30)
HELD_UP: Final = f"{PROCESS_ORDER} is held up"

NOT_CANCELLED: Final = {
    **dict.fromkeys(GONE, CancelReason.ALREADY_SHIPPED),
    Status.REJECTED: CancelReason.ORDER_REJECTED,
    Status.FAILED: CancelReason.ORDER_FAILED,
}


@workflow.defn(name=CANCEL_ORDER)
class CancelOrder:
    """The cancel of one order; its workflow id is `cancel-order:<order id>`."""

    @workflow.init
    def __init__(self, raw: RawValue = None) -> None:  # type: ignore[assignment]
        self._raw = raw
        self._timeline = OrderTimeline(workflow.info().workflow_id)
        self._saga: OrderSaga | None = None
        self._poll = FIRST_POLL
        self._outcome: CancelOutcome | None = None
        self._woken = False
        self._held_up: str | None = None

    # -------------------------------------------------------------------------------------------------- the story

    @workflow.run
    async def run(self, _raw: RawValue = None) -> CancelOutcome:  # type: ignore[assignment]
        """Cancel the order that the input names; see orders.parsing.CancelRequest. A refusal completes the run."""
        try:
            request = parse_cancel(read_payload(self._raw))
        except InvalidInput as invalid:
            self._timeline.end(Stage.REJECTED, f"not cancelled: {CancelReason.INVALID_REQUEST}", str(invalid))
            CANCELS.add(cancelled="false", reason=CancelReason.INVALID_REQUEST)
            return CancelOutcome(cancelled=False, refunded=False, reason=f"{CancelReason.INVALID_REQUEST}: {invalid}")
        self._timeline = OrderTimeline(request.order_id)
        # Once it has claimed the row it must finish: a cancel of this run changes nothing.
        return await shielded(self._cancel(request))

    async def _cancel(self, request: CancelRequest) -> CancelOutcome:
        self._timeline.enter(Stage.CANCELLING, "claiming the order")
        row = await self._claim(request.order_id)
        asked_too_late = _is_first_run() and row is not None and row.status is Status.CANCELLED
        if row is None:
            row = await self._claim_unreserved(request.order_id)
        while row is not None and not await self._is_settled(row):
            await self._drive(row)
            row = await self._claim(request.order_id)
        self._timeline.needs_no_more_attention(HELD_UP)
        outcome = self._outcome = _outcome(row, asked_too_late=asked_too_late)
        stage, word = (Stage.CANCELLED, "cancelled") if outcome.cancelled else (Stage.REJECTED, "not cancelled")
        reason = outcome.reason or "refunded"
        self._timeline.end(stage, f"{word}: {reason}", f"{word}: {reason}")
        CANCELS.add(cancelled=str(outcome.cancelled).lower(), reason=reason)
        if row and outcome.cancelled and request.customer_email:
            notification = Notification(order_id=row.id, kind=NotificationKind.CANCELLED, to=request.customer_email)
            await deliver(Notifications.send_email, notification, row.terms.notification_deadline, self._timeline)
        await self._timeline.flush()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return outcome

    async def _claim(self, order_id: str) -> OrderRow | None:
        return await run_activity(OrderState.claim_cancellation, order_id, UNTIL_DONE, "claim the order")

    async def _claim_unreserved(self, order_id: str) -> OrderRow | None:
        """Cancel the order before process-order begins with it; None: the order does not exist."""
        return await run_activity(OrderState.claim_unreserved, order_id, UNTIL_DONE, "does the order exist?")

    async def _drive(self, row: OrderRow) -> None:
        """Make one move towards an end: process-order makes it while it runs, else this run does."""
        match row.status:
            case Status.CANCELLING:
                await self._undo(row, OrderSaga(row.id, self._timeline, if_shipped=Shipments.mark_shipped))
            case Status.UNDOING if not await self._wake(row.id):
                await self._undo(row, OrderSaga(row.id, self._timeline))
            case Status.CAPTURING if not await self._is_running(row.id):
                await self._capture(row)
            case _:
                await self._pause(f"process-order is at work: {row.status}")

    # -------------------------------------------------------------------------------------------------- the steps

    async def _undo(self, row: OrderRow, saga: OrderSaga) -> None:
        self._saga = saga
        await saga.take_over_park(row)
        await saga.undo()

    async def _capture(self, row: OrderRow) -> None:
        """Go forward for a run of process-order that is gone; afterwards the order is paid and can be cancelled."""
        retry_until_done = self._timeline.retry_until_done
        if await retry_until_done(Payments.capture_payment, row.id, "capture", may_fail=False):
            await retry_until_done(Inventory.finalize_order, row.id, "sell stock", may_fail=False)

    async def _wake(self, order_id: str) -> bool:
        """Signal process-order, once, that its row is claimed. False: it does not run."""
        if self._woken:
            return await self._is_running(order_id)
        try:
            await workflow.get_external_workflow_handle(order_id).signal("cancel-requested")
        except ApplicationError as error:
            if error.type != "ExternalWorkflowExecutionNotFound":
                raise
            return False
        self._woken = True
        return True

    async def _is_settled(self, row: OrderRow) -> bool:
        """Whether nothing is left to do: the order is closed, has shipped, or is parked at another run."""
        if row.parked_step is None:
            return row.status in CLOSED | GONE
        if row.parked_by == row.id:
            return await self._is_running(row.id)
        return row.parked_by != workflow.info().workflow_id

    async def _is_running(self, order_id: str) -> bool:
        state = await run_activity(OrderState.read_run, order_id, UNTIL_DONE, "does process-order run?")
        before, self._held_up = self._held_up, None if state == RUNNING else state
        if self._held_up and not before:
            text = f"the cancel waits for {PROCESS_ORDER} {order_id}"
            self._timeline.call_for_attention(HELD_UP, text, f"it is {state}: let it go on")
        elif not self._held_up:
            self._timeline.needs_no_more_attention(HELD_UP)
        return state is not None

    async def _pause(self, why: str) -> None:
        if workflow.info().is_continue_as_new_suggested():
            self._timeline.needs_no_more_attention(HELD_UP)  # the next run looks again
            await self._timeline.flush()
            await workflow.wait_condition(workflow.all_handlers_finished)
            workflow.continue_as_new(self._raw)
        self._timeline.note(why)
        await workflow.sleep(self._poll, summary=why)
        self._poll = min(self._poll * 2, MAX_POLL)

    # ------------------------------------------------------------------------------------------------- the outside

    @workflow.query(description="Where the cancel stands")
    def status(self) -> CancelView:
        view = view_of(self._timeline, self._saga)
        return CancelView(**dict(view), outcome=self._outcome, held_up=self._held_up)


def _is_first_run() -> bool:
    """Not so a run that was reset, or continued as new: it may have closed the row itself, before it could say so."""
    return workflow.info().continued_run_id is None and not was_reset()


def _outcome(row: OrderRow | None, *, asked_too_late: bool) -> CancelOutcome:
    if row is None:
        return CancelOutcome(cancelled=False, refunded=False, reason=CancelReason.UNKNOWN_ORDER)
    if row.parked_step:
        return CancelOutcome(cancelled=False, refunded=False, reason=CancelReason.UNDO_PARKED)
    refunded = row.refund_status == "succeeded"
    if asked_too_late:
        return CancelOutcome(cancelled=False, refunded=refunded, reason=CancelReason.ALREADY_CANCELLED)
    if row.status is not Status.CANCELLED:
        return CancelOutcome(cancelled=False, refunded=refunded, reason=NOT_CANCELLED[row.status])
    return CancelOutcome(cancelled=True, refunded=refunded, reason=None if refunded else _money_reason(row))


def _money_reason(row: OrderRow) -> CancelReason:
    if row.settled_by_hand or (row.part_paid_by_hand and row.refund_status not in STANDING):
        return CancelReason.SETTLED_BY_HAND
    if row.refund_status:
        return CancelReason.REFUND_PENDING
    return CancelReason.AUTHORIZATION_VOIDED if row.payment_intent_id else CancelReason.NOT_CHARGED
