"""process-order: reserve, authorize, fulfill, capture, notify. The workflow id is the order id.

The order row is the arbiter: every step obeys what it says, and whatever happened, the run settles by it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception
from temporalio.workflow import ActivityHandle

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import Fulfillment
    from activities.inventory import Inventory
    from activities.notifications import Notifications
    from activities.order_state import OrderState
    from activities.payments import Payments
    from orders.delivery import estimated_delivery
    from orders.errors import InvalidInput
    from orders.models import (
        CLOSED,
        PAID,
        ErrorCode,
        FulfillmentRequest,
        Notification,
        NotificationKind,
        Order,
        OrderOutcome,
        OrderRow,
        OrderView,
        Payment,
        PaymentRequest,
        PaymentState,
        Stage,
        Status,
        Terms,
        UndoClaim,
    )
    from orders.money import show
    from orders.names import PROCESS_ORDER
    from orders.parsing import parse_order, read_payload
    from workflows.compensations import Compensations
    from workflows.notifications import deliver
    from workflows.saga import Saga, StopUndo, reason, shielded
    from workflows.steps import UNTIL_DONE, Options, start_step, step, within
    from workflows.timeline import OrderTimeline

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

RESERVE: Final = within(timedelta(minutes=5))
AUTHORIZE: Final = within(timedelta(minutes=10))
POLL_BACKOFF: Final = 1.5


@workflow.defn(name=PROCESS_ORDER)
class ProcessOrder:
    """One order, from its reservation to its last notification."""

    @workflow.init
    def __init__(self, raw: RawValue = None) -> None:  # type: ignore[assignment]
        self._raw = raw
        self._timeline = OrderTimeline(workflow.info().workflow_id)
        self._compensations = Compensations(workflow.info().workflow_id, self._timeline)
        self._order: Order | None = None
        self._row: OrderRow | None = None
        self._saga: Saga | None = None
        self._outcome: OrderOutcome | None = None
        self._closing: Closing | None = None
        self._authorized = False
        self._fulfilled = False
        self._captured = False
        self._cancel_requested = False
        self._payment_updated = False
        self._in_flight: ActivityHandle[Any] | None = None
        self._notifications: list[asyncio.Task[None]] = []

    # -------------------------------------------------------------------------------------------------- the story

    @workflow.run
    async def run(self, _raw: RawValue = None) -> OrderOutcome:  # type: ignore[assignment]
        """Place the order that the input describes; see orders.parsing.OrderRequest.

        Raises:
            ApplicationError: `order_failed`: a technical failure, after the undo.
            CancelledError: an operator's cancel, after the undo.
        """
        try:
            order = parse_order(workflow.info().workflow_id, read_payload(self._raw))
        except InvalidInput as invalid:
            return await self._refuse(ErrorCode.INVALID_ORDER, str(invalid))
        self._order = order
        saga = self._saga = self._compensations.saga(self.claim_undo)
        with suppress(FailureError, asyncio.CancelledError):  # the row tells how it ended, saga.cause why
            async with saga:
                await self._place(order, saga)
        return await shielded(self._finish(order, saga))

    async def _place(self, order: Order, saga: Saga) -> None:
        """Everything up to the pivot. Returning without a commit undoes."""
        row = self._row = await self._reserve(order)
        stands = row.request_hash != order.request_hash or row.status in PAID | CLOSED
        if stands or (await self._is_ready_to_capture(order, row) and await self._capture(row)):
            saga.commit()

    async def _is_ready_to_capture(self, order: Order, row: OrderRow) -> bool:
        if row.status is Status.PENDING:
            return await self._authorize(order, row) and await self._fulfill(order, row)
        return row.status is Status.CAPTURING

    async def _finish(self, order: Order, saga: Saga) -> OrderOutcome:
        """Whatever happened: do what the row says, answer the caller, deliver the notifications."""
        if self._row and self._row.request_hash != order.request_hash:
            return await self._refuse(ErrorCode.ORDER_ID_CONFLICT, "the order id belongs to another payload")
        row = self._row = await self._settle(order)
        self._answer(row.outcome, _stage(row))
        if not saga.committed and self._should_email_customer(row):
            kind = NotificationKind.CANCELLED if row.status is Status.CANCELLED else NotificationKind.FAILED
            notification = Notification(order_id=order.id, kind=kind, to=order.customer_email)
            self._notify(Notifications.send_email, notification, row.terms)
        await self._drain()
        if not saga.committed:
            self._raise_if_failed(row, saga)
        return row.outcome

    async def _settle(self, order: Order) -> OrderRow:
        """Drive the order until its row is paid or closed."""
        row = self._row
        while row is None or not self._captured:
            row = self._row = await step(OrderState.read_order, order.id, UNTIL_DONE, "how did it end?")
            if row is None:
                raise ApplicationError("the order has no row", type="order_absent", non_retryable=True)
            if row.status in PAID:
                self._start_tail(order, row.terms)
            if row.status in PAID | CLOSED:
                return row
            if row.status is Status.CAPTURING:
                await self._capture(row)
            else:
                self._saga = self._compensations.saga(self.claim_undo)
                await self._saga.undo()
        self._start_tail(order, row.terms)
        return await self._timeline.retry_until_done(Inventory.finalize_order, order.id, "stock sold", may_fail=False)

    # -------------------------------------------------------------------------------------------------- the steps

    async def _reserve(self, order: Order) -> OrderRow:
        what = ", ".join(f"{line.quantity} x product {line.product_id}" for line in order.lines[:3])
        what += ", …" if len(order.lines) > 3 else ""  # noqa: PLR2004 (a line of a timeline holds three)
        self._timeline.enter(Stage.RESERVING, f"reserving {what}", customer_id=order.customer_id)
        return await self._step(Inventory.reserve_stock, order.reservation, RESERVE, what)

    async def _authorize(self, order: Order, row: OrderRow) -> bool:
        amount = show(row.total, row.currency)
        self._timeline.enter(Stage.AUTHORIZING, f"authorizing {amount}")
        request = PaymentRequest(order_id=order.id, payment_method_id=order.payment_method_id)
        payment = await self._step(Payments.authorize_payment, request, AUTHORIZE, amount)
        self._row = row.model_copy(update={"payment_intent_id": payment.payment_intent_id})
        if payment.state is PaymentState.REQUIRES_ACTION:
            payment = await self._await_customer(order, row, payment)
        match payment.state:
            case PaymentState.AUTHORIZED:
                self._authorized = True
            case PaymentState.REQUIRES_ACTION:
                self._closing = _rejected(ErrorCode.AUTHENTICATION_EXPIRED, "the payment was not authenticated in time")
            case PaymentState.DECLINED:
                self._closing = _rejected(payment.error_code or ErrorCode.CARD_DECLINED, payment.error or "declined")
            case PaymentState.GONE:
                self._closing = Closing(
                    Status.FAILED, ErrorCode.AUTHORIZATION_EXPIRED, "the payment was cancelled at the payment provider"
                )
        return self._authorized

    async def _await_customer(self, order: Order, row: OrderRow, payment: Payment) -> Payment:
        """Wait for the customer to authenticate (3DS): for a signal, a poll, the deadline; then look once more."""
        deadline = workflow.now() + timedelta(seconds=row.terms.authentication_deadline)
        until = f"until {deadline:%H:%M:%S} UTC"
        self._timeline.enter(Stage.AWAITING_CUSTOMER, f"waiting {until} for the customer to authenticate the payment")
        poll = timedelta(seconds=row.terms.authentication_poll)
        while payment.state is PaymentState.REQUIRES_ACTION and workflow.now() < deadline:
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._payment_updated or self._cancel_requested,
                    timeout=min(poll, deadline - workflow.now()),
                    timeout_summary=f"the customer authenticates the payment, {until}",
                )
            self._payment_updated = False
            poll *= POLL_BACKOFF
            payment = await self._step(Payments.read_payment, order.id, AUTHORIZE, "authenticated?")
        return payment

    async def _fulfill(self, order: Order, row: OrderRow) -> bool:
        self._timeline.enter(Stage.FULFILLING, f"asking the warehouse to ship, {order.priority}")
        request = FulfillmentRequest(
            order_id=order.id, shipping_address=order.shipping_address, priority=order.priority
        )
        options = within(timedelta(seconds=row.terms.fulfillment_deadline))
        answer = await self._step(Fulfillment.request_fulfillment, request, options, f"{order.priority} shipping")
        if answer.state == "refused":
            self._closing = _rejected(ErrorCode.FULFILLMENT_REFUSED, answer.error or "the warehouse refused the order")
        self._fulfilled = answer.state == "accepted"
        return self._fulfilled

    async def _capture(self, row: OrderRow) -> bool:
        """The pivot: claimed on the row, awaited through any cancellation: only its own answer tells how it ended."""
        amount = show(row.total, row.currency)
        self._timeline.enter(Stage.CAPTURING, f"capturing {amount}")
        capture = self._timeline.retry_until_done(Payments.capture_payment, row.id, f"capture {amount}", may_fail=False)
        self._captured = await shielded(capture)
        return self._captured

    def _start_tail(self, order: Order, terms: Terms) -> None:
        """What follows a paid order and holds up nobody."""
        confirmation = Notification(
            order_id=order.id,
            kind=NotificationKind.CONFIRMATION,
            to=order.customer_email,
            estimated_delivery=estimated_delivery(workflow.now().date(), order.priority),
        )
        self._notify(Notifications.send_email, confirmation, terms)
        self._notify(Notifications.track_order, Notification(order_id=order.id, kind=NotificationKind.ANALYTICS), terms)

    def _notify(
        self, send: Callable[[Any, Notification], Awaitable[str]], notification: Notification, terms: Terms
    ) -> None:
        self._notifications.append(
            asyncio.create_task(deliver(send, notification, terms.notification_deadline, self._timeline))
        )

    async def _step(
        self, activity: Callable[[Any, ArgT], Awaitable[ResultT]], arg: ArgT, options: Options, summary: str
    ) -> ResultT:
        """A step before the pivot: a cancel, by whomever, lets the attempt in flight end, and then undoes."""
        self._stop_if_cancelled()
        self._in_flight = start_step(activity, arg, options, summary)
        result: ResultT = await self._in_flight
        self._stop_if_cancelled()
        return result

    def _stop_if_cancelled(self) -> None:
        # A cancelled step may still come back with its result; then nothing else tells of the cancel.
        if self._cancel_requested or workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError

    # --------------------------------------------------------------------------------------------------- the undo

    async def claim_undo(self, cause: BaseException | None) -> str | StopUndo:
        """The first act of the undo: from here on no late attempt of a step gets through."""
        if self._order is None:
            return StopUndo("there is no order")
        closing = self._closing or _closing_for(cause)
        self._timeline.enter(Stage.UNDOING, f"undoing: {closing.error}")
        claim = UndoClaim(order=self._order.reservation, **closing._asdict())
        row = await self._timeline.retry_until_done(OrderState.claim_undo, claim, closing.error, may_fail=False)
        self._row = row
        self._compensations.resolution_count = row.resolution_count
        if row.request_hash != self._order.request_hash or row.status is not Status.UNDOING:
            return StopUndo(f"the order is {row.status}")
        if row.parked_step and self._saga:
            await self._saga.take_over(row.parked_step, row.parked_reason or "parked by an earlier run")
            if self._saga.stopped:
                return StopUndo("the order has moved on")
        return f"the order will be {row.closing}"

    # ------------------------------------------------------------------------------------------------- the ending

    async def _refuse(self, code: ErrorCode, error: str) -> OrderOutcome:
        outcome = OrderOutcome(success=False, order_id=workflow.info().workflow_id, error=error, error_code=code)
        self._answer(outcome, Stage.REJECTED)
        await shielded(self._drain())
        return outcome

    def _answer(self, outcome: OrderOutcome, stage: Stage) -> None:
        self._timeline.enter(stage, outcome.error or "the order is placed")
        self._outcome = outcome

    async def _drain(self) -> None:
        for notification in self._notifications:
            await notification
        await self._timeline.flush()
        await workflow.wait_condition(workflow.all_handlers_finished)

    def _should_email_customer(self, row: OrderRow) -> bool:
        """Whether the customer's bank may have shown an authorization; cancel-order writes about its own cancels."""
        if row.status not in CLOSED or (row.status is Status.CANCELLED and self._cancel_requested):
            return False
        return self._authorized or (row.payment_intent_id is not None and row.status is not Status.REJECTED)

    def _raise_if_failed(self, row: OrderRow, saga: Saga) -> None:
        """A technical failure is a failed run, an operator's cancel a cancelled one; the rest is completed."""
        if row.status is Status.FAILED:
            text = f"{row.error}. Undone: {'; '.join(saga.undone)}"
            raise ApplicationError(text, row.outcome, type="order_failed", non_retryable=True) from saga.cause
        if row.status is Status.CANCELLED and workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError

    # ------------------------------------------------------------------------------------------------- the outside

    @workflow.update(description="Wait for the outcome of the order; the answer of every submit")
    async def submit(self, request_hash: str | None = None) -> OrderOutcome:
        """The outcome as soon as it is settled, or that the undo is parked. Another payload is told so at once.

        Without a hash whoever asks is taken to mean this order.
        """
        await workflow.wait_condition(
            lambda: self._outcome is not None or self._is_parked() or self._is_another(request_hash)
        )
        order_id = workflow.info().workflow_id
        if self._is_another(request_hash):
            error = "the order id belongs to another payload"
            return OrderOutcome(success=False, order_id=order_id, error=error, error_code=ErrorCode.ORDER_ID_CONFLICT)
        if self._outcome:
            return self._outcome
        error = "the order is being undone, and the undo waits for an operator"
        return OrderOutcome(success=False, order_id=order_id, error=error, error_code=ErrorCode.UNDO_PARKED)

    @workflow.signal(name="cancel-requested", description="cancel-order has claimed the order: undo it")
    def cancel_requested(self) -> None:
        self._cancel_requested = True
        if self._in_flight:
            self._in_flight.cancel()

    @workflow.signal(name="payment-updated", description="The payment changed, e.g. the customer authenticated it")
    def payment_updated(self) -> None:
        self._payment_updated = True

    @workflow.query(description="Where the order stands")
    def status(self) -> OrderView:
        row, stage = self._row, self._timeline.stage
        return OrderView(
            stage=stage,
            inventory_reserved=row is not None and row.status not in CLOSED,
            payment_processed=self._captured or (row is not None and row.placed),
            fulfillment_status="accepted" if self._fulfilled else None,
            payment_intent=row.payment_intent_id if row else None,
            stuck=tuple(self._saga.parked) if self._saga else (),
        )

    def _is_another(self, request_hash: str | None) -> bool:
        return self._order is not None and request_hash not in (None, self._order.request_hash)

    def _is_parked(self) -> bool:
        return self._saga is not None and bool(self._saga.parked)


class Closing(NamedTuple):
    """How an undo will leave the order, and what its caller is told."""

    closing: Status
    error_code: ErrorCode
    error: str


def _rejected(code: ErrorCode, error: str) -> Closing:
    return Closing(Status.REJECTED, code, error)


def _closing_for(cause: BaseException | None) -> Closing:
    if cause is not None and is_cancelled_exception(cause):
        return Closing(Status.CANCELLED, ErrorCode.CANCELLED, "the order was cancelled")
    why = reason(cause) if cause else "its row was closed meanwhile"
    return Closing(Status.FAILED, ErrorCode.FAILED, f"the order could not be processed: {why}")


def _stage(row: OrderRow) -> Stage:
    return Stage.COMPLETED if row.outcome.success else Stage(row.status)
