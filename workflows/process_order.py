"""process-order: reserve, authorize, fulfill, capture, notify. The workflow id is the order id.

The order row decides: every step obeys what it says, and whatever happened, the run concludes by it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, FailureError

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import FULFILL
    from activities.inventory import RESERVE, Inventory
    from activities.notifications import Notifications
    from activities.order_state import OrderState
    from activities.payments import AUTHORIZE, Payments
    from orders.errors import InvalidInput
    from orders.metrics import ORDER_SECONDS, ORDERS
    from orders.models import (
        CLOSED,
        PAID,
        PAYMENT_REFUSALS,
        Delivery,
        ErrorCode,
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
    )
    from orders.money import show
    from orders.names import PROCESS_ORDER
    from orders.parsing import came_sealed, parse_order, read_payload
    from saga import UNTIL_DONE, choose_execution, run_activity, shielded, within
    from workflows.another_card import AnotherCard, declined, latest, refusal_of
    from workflows.notifications import deliver
    from workflows.order_saga import view_of, was_reset
    from workflows.placing_saga import OrderMoved, PlacingSaga, RejectedOrder
    from workflows.timeline import OrderTimeline

READ_PAYMENT: Final = within(timedelta(minutes=10))
POLL_BACKOFF: Final = 1.5
MAX_NAMED: Final = 3  # products in a line of the timeline
ANOTHER_PAYLOAD: Final = "the order id belongs to another payload"


@workflow.defn(name=PROCESS_ORDER)
class ProcessOrder:
    """One order, from its reservation to its last notification."""

    @workflow.init
    def __init__(self, raw: RawValue = None) -> None:  # type: ignore[assignment]
        self._raw = raw
        self._timeline = OrderTimeline(workflow.info().workflow_id)
        self._order: Order | None = None
        self._row: OrderRow | None = None  # as this run last saw it
        self._saga: PlacingSaga | None = None
        self._captured = False
        self._cancel_requested = False
        self._payment_updated = False
        self._another_card = AnotherCard(workflow.info().workflow_id)
        self._outcome: OrderOutcome | None = None
        self._notifications: list[asyncio.Task[None]] = []

    # -------------------------------------------------------------------------------------------------- the story

    @workflow.run
    async def run(self, _raw: RawValue = None) -> OrderOutcome:  # type: ignore[assignment]
        """Place the order that the input describes; see orders.parsing.OrderRequest.

        Raises:
            ApplicationError: `order_failed`: a technical failure, after the undo.
            CancelledError: an operator canceled the run, after the undo.
        """
        try:
            order = self._order = parse_order(workflow.info().workflow_id, read_payload(self._raw))
        except InvalidInput as invalid:
            return await self._refuse(ErrorCode.INVALID_ORDER, str(invalid))
        choose_execution()
        saga = self._begin_saga(order)
        with suppress(FailureError, asyncio.CancelledError):  # saga.cause keeps it, and the row decides
            async with saga:
                await self._place(order, saga)
        return await shielded(self._conclude(order, saga))

    async def _place(self, order: Order, saga: PlacingSaga) -> None:
        """Everything up to the pivot. An exception undoes it."""
        row = await self._reserve(order, saga)
        if not _is_over(row, order):
            if row.status is Status.PENDING:
                if not row.is_free:
                    await self._authorize(order, row, saga)
                await self._fulfill(order, row, saga)
            elif row.status is not Status.CAPTURING:
                raise OrderMoved
            await self._capture(row)
        saga.commit()

    async def _conclude(self, order: Order, saga: PlacingSaga) -> OrderOutcome:
        """Do what the row says, answer the caller, and deliver the notifications."""
        row = self._row
        if row is None or row.request_hash == order.request_hash:
            row = self._row = await self._drive(order)
        if row.request_hash != order.request_hash:
            return await self._refuse(ErrorCode.ORDER_ID_CONFLICT, ANOTHER_PAYLOAD)
        self._answer(row.outcome, _stage(row))
        if self._captured or row.status in PAID:
            self._notify_of_placing(order, row.terms)
        elif self._may_have_closed(row, saga) and self._should_email_customer(row):
            kind = NotificationKind.CANCELLED if row.status is Status.CANCELLED else NotificationKind.FAILED
            notification = Notification(order_id=order.id, kind=kind, to=order.customer_email)
            self._notify(Notifications.send_email, notification, row.terms)
        await self._drain()
        if self._may_have_closed(row, saga):
            _raise_if_failed(row, saga)
        return row.outcome

    def _may_have_closed(self, row: OrderRow, saga: PlacingSaga) -> bool:
        """Whether the order is closed by the undo of this run, or of what it was before a reset."""
        return not saga.committed or (was_reset() and not row.placed)

    async def _drive(self, order: Order) -> OrderRow:
        """Drive the order until its row is paid or closed."""
        row = self._row
        while row is None or not self._captured:
            row = self._row = await run_activity(OrderState.read_order, order.id, UNTIL_DONE, "read the order")
            if row is None:
                raise ApplicationError("the order has no row", type="order_absent", non_retryable=True)
            if _is_over(row, order):
                return row
            if row.status is Status.CAPTURING:
                with suppress(OrderMoved):
                    await self._capture(row)
            else:
                await self._begin_saga(order).undo()
        return await self._timeline.retry_until_done(Inventory.finalize_order, order.id, "sell stock", may_fail=False)

    # -------------------------------------------------------------------------------------------------- the steps

    async def _reserve(self, order: Order, saga: PlacingSaga) -> OrderRow:
        what = ", ".join(f"{line.quantity} x product {line.product_id}" for line in order.lines[:MAX_NAMED])
        what += ", …" if len(order.lines) > MAX_NAMED else ""
        sealed = came_sealed(self._raw)
        # What came encrypted must not stand in a list in plain text: workers with the key know the customer's tag.
        self._timeline.enter(Stage.RESERVING, f"reserving {what}", customer=None if sealed else order.customer_id)
        request = order.reservation.model_copy(update={"sealed": sealed})
        row = self._row = await saga.do(RESERVE, request, what)
        self._timeline.name_customer(row.customer_tag)
        return row

    async def _authorize(self, order: Order, row: OrderRow, saga: PlacingSaga) -> None:
        amount = show(row.total, row.currency)
        self._timeline.enter(Stage.AUTHORIZING, f"authorizing {amount}")
        payment = await self._try_payment(order.payment, row, saga, amount)
        if payment.state is PaymentState.REQUIRES_ACTION:
            payment = await self._await_customer(row, payment, saga)
        if row.terms.payment_retry and (refusal := refusal_of(payment)):
            payment = await self._await_another_card(row, declined(payment, *refusal), saga)
        if refusal := refusal_of(payment):
            raise RejectedOrder(*refusal)
        if payment.state is PaymentState.CANCELED:
            text = "the payment was cancelled at the payment provider"
            raise RejectedOrder(ErrorCode.AUTHORIZATION_EXPIRED, text, Status.FAILED)
        if payment.state is PaymentState.ORDER_CLOSED:
            raise OrderMoved

    async def _try_payment(self, request: PaymentRequest, row: OrderRow, saga: PlacingSaga, summary: str) -> Payment:
        payment = await saga.do(AUTHORIZE, request, summary)
        self._row = row.model_copy(update={"payment_intent_id": payment.payment_intent_id})
        return payment

    async def _await_customer(self, row: OrderRow, payment: Payment, saga: PlacingSaga) -> Payment:
        """Wait for the customer to authenticate (3DS): until a signal, a poll or the deadline; then read once more."""
        deadline = workflow.now() + timedelta(seconds=row.terms.authentication_deadline)
        until = f"until {deadline:%H:%M:%S} UTC"
        self._timeline.enter(Stage.AWAITING_CUSTOMER, f"waiting {until} for the customer to authenticate the payment")
        poll = timedelta(seconds=row.terms.authentication_poll)
        while payment.state is PaymentState.REQUIRES_ACTION and workflow.now() < deadline:
            with suppress(TimeoutError):
                await workflow.wait_condition(
                    lambda: self._payment_updated or saga.cancelled,
                    timeout=min(poll, deadline - workflow.now()),
                    timeout_summary=f"the customer authenticates the payment, {until}",
                )
            self._payment_updated = False
            poll *= POLL_BACKOFF
            payment = await saga.run(Payments.read_payment, row.id, READ_PAYMENT, "authenticated?")
        return payment

    async def _await_another_card(self, row: OrderRow, payment: Payment, saga: PlacingSaga) -> Payment:
        """Hold the stock until a `pay` or the customer's bank settles the payment, or the deadline ends the order.

        A `pay` that begins before the deadline is carried out; if it is refused, or the customer has to authenticate
        it, there is no time left for more.
        """
        deadline = workflow.now() + timedelta(seconds=row.terms.payment_retry)
        until = f"until {deadline:%H:%M:%S} UTC"
        why = f"the customer pays with another payment method, {until}"
        timer = asyncio.create_task(workflow.sleep(deadline - workflow.now(), summary=why))
        amount = show(row.total, row.currency)
        first_poll = poll = timedelta(seconds=row.terms.authentication_poll)
        try:
            while refusal_of(payment) and (self._another_card.asked or not timer.done()):
                self._another_card.open(payment, deadline)
                self._show_wait(payment, until)
                await self._wait_for_payment(saga, timer, poll if _is_asked_to_authenticate(payment) else None)
                poll *= POLL_BACKOFF
                if asked := self._another_card.asked:
                    self._another_card.close()
                    poll = first_poll
                    self._timeline.enter(Stage.AUTHORIZING, f"authorizing {amount} with another payment method")
                    payment = await self._try_payment(asked.request, row, saga, f"{amount}, another payment method")
                    if timer.done():
                        return payment  # a `pay` that is refused now gets the outcome of the order
                    self._another_card.answer(payment, deadline)
                elif payment.payment_intent_id:
                    found = await saga.run(Payments.read_payment, row.id, READ_PAYMENT, "paid meanwhile?")
                    payment = latest(payment, found)
        finally:
            timer.cancel()
            self._another_card.end()
        return payment

    async def _wait_for_payment(self, saga: PlacingSaga, timer: "asyncio.Task[None]", poll: timedelta | None) -> None:
        """Until a `pay`, a signal, the deadline or the next poll."""
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: bool(self._another_card.asked) or self._payment_updated or timer.done() or saga.cancelled,
                timeout=poll,
                timeout_summary="the customer authenticates the payment",
            )
        self._payment_updated = False
        if saga.cancelled:
            raise asyncio.CancelledError

    def _show_wait(self, payment: Payment, until: str) -> None:
        if _is_asked_to_authenticate(payment):
            stage, text = Stage.AWAITING_CUSTOMER, f"waiting {until} for the customer to authenticate the payment"
        else:
            stage, text = Stage.AWAITING_PAYMENT, f"{payment.error}: waiting {until} for another payment method"
        if self._timeline.stage is not stage:
            self._timeline.enter(stage, text)

    async def _fulfill(self, order: Order, row: OrderRow, saga: PlacingSaga) -> None:
        self._timeline.enter(Stage.FULFILLING, f"asking the warehouse to ship, {order.priority}")
        deadline = timedelta(seconds=row.terms.fulfillment_deadline)
        answer = await saga.do(FULFILL, order.fulfillment, f"{order.priority} shipping", deadline)
        if answer.state == "refused":
            raise RejectedOrder(ErrorCode.FULFILLMENT_REFUSED, answer.error or "the warehouse refused the order")
        if answer.state != "accepted":
            raise OrderMoved
        if self._row:
            self._row = self._row.model_copy(update={"fulfillment_id": answer.fulfillment_id})

    async def _capture(self, row: OrderRow) -> None:
        """The pivot: the claim on the row decides, and no cancel cuts it short: only its answer tells how it ended."""
        amount = show(row.total, row.currency)
        self._timeline.enter(Stage.CAPTURING, f"capturing {amount}")
        capture = self._timeline.retry_until_done(Payments.capture_payment, row.id, f"capture {amount}", may_fail=False)
        self._captured = await shielded(capture)
        if not self._captured:
            raise OrderMoved

    # ------------------------------------------------------------------------------------------------- the ending

    async def _refuse(self, code: ErrorCode, error: str) -> OrderOutcome:
        outcome = self._refusal(code, error)
        self._answer(outcome, Stage.REJECTED)
        await shielded(self._drain())
        return outcome

    def _answer(self, outcome: OrderOutcome, stage: Stage) -> None:
        """Settle the outcome. A run that completes with a refusal must not look like a success in a list."""
        if outcome.success:
            self._timeline.end(stage, "placed", "the order is placed")
        else:
            code = "" if outcome.error_code in (None, stage.value) else f": {outcome.error_code}"
            self._timeline.end(stage, f"{stage}{code}", f"{stage}: {outcome.error}")
        self._outcome = outcome
        how = "placed" if outcome.success else stage.value
        ORDERS.add(outcome=how, error_code=outcome.error_code or "none")
        ORDER_SECONDS.observe((workflow.now() - workflow.info().start_time).total_seconds(), outcome=how)

    def _notify_of_placing(self, order: Order, terms: Terms) -> None:
        """Confirm the order to the customer and record it in analytics; neither holds up the answer."""
        confirmation = Notification(
            order_id=order.id,
            kind=NotificationKind.CONFIRMATION,
            to=order.customer_email,
            delivery=Delivery(
                ordered=workflow.now().date(),
                priority=order.priority,
                country=order.shipping_address.country,
                state=order.shipping_address.state,
            ),
        )
        self._notify(Notifications.send_email, confirmation, terms)
        analytics = Notification(order_id=order.id, kind=NotificationKind.ANALYTICS)
        self._notify(Notifications.track_order, analytics, terms)

    def _notify(
        self, send: Callable[[Any, Notification], Awaitable[str]], notification: Notification, terms: Terms
    ) -> None:
        delivery = deliver(send, notification, terms.notification_deadline, self._timeline)
        self._notifications.append(asyncio.create_task(delivery))

    def _should_email_customer(self, row: OrderRow) -> bool:
        """Whether the customer's bank may have shown an authorization; cancel-order e-mails about its own cancels."""
        if row.status not in CLOSED or (row.status is Status.CANCELLED and self._cancel_requested):
            return False
        return row.payment_intent_id is not None and row.error_code not in PAYMENT_REFUSALS

    async def _drain(self) -> None:
        for notification in self._notifications:
            await notification
        await self._timeline.flush()
        await workflow.wait_condition(workflow.all_handlers_finished)

    # ------------------------------------------------------------------------------------------------- the outside

    @workflow.update(description="Wait for the outcome of the order; every submit gets it")
    async def submit(self, *arguments: object) -> OrderOutcome:
        """Answer with the outcome as soon as it is settled, or that the undo is parked or another payment is required.

        The argument is the hash of the order that the caller means. A caller with the hash of another payload is
        refused at once; one without a hash means this order.
        """
        request_hash = _request_hash(arguments)
        await workflow.wait_condition(lambda: self._has_answer() or self._is_another(request_hash))
        if self._is_another(request_hash):
            return self._refusal(ErrorCode.ORDER_ID_CONFLICT, ANOTHER_PAYLOAD)
        if self._order is None and request_hash is not None:
            # This run was started with what is no order, by somebody else: its refusal is not the caller's.
            raise ApplicationError("the run was started with what is no order", type="no_order")
        return self._answer_now()

    @submit.validator
    def check_submit(self, *arguments: object) -> None:
        _request_hash(arguments)

    @workflow.update(description="Pay with another payment method, while the order waits for one")
    async def pay(self, *arguments: object) -> OrderOutcome:
        """Try another payment method; the argument is one object with `paymentMethodId`.

        Answer with the outcome, or that this method is refused too, or that the customer must authenticate it.
        """
        asked = self._another_card.ask(arguments)
        await workflow.wait_condition(lambda: asked.answer is not None or self._is_settled())
        return asked.answer or self._answer_now()

    @pay.validator
    def check_pay(self, *arguments: object) -> None:
        self._another_card.check(arguments)

    @workflow.signal(name="cancel-requested", description="cancel-order has claimed the order: undo it")
    def cancel_requested(self) -> None:
        self._cancel_requested = True
        if self._saga:
            self._saga.cancel()

    @workflow.signal(name="payment-updated", description="The payment changed, e.g. the customer authenticated it")
    def payment_updated(self) -> None:
        self._payment_updated = True

    @workflow.query(description="Where the order stands")
    def status(self) -> OrderView:
        row = self._row
        return OrderView(
            **dict(view_of(self._timeline, self._saga)),
            inventory_reserved=row is not None and row.status not in CLOSED,
            payment_processed=self._captured or (row is not None and row.placed),
            fulfillment_status="accepted" if row and row.fulfillment_id else None,
            payment_intent=row.payment_intent_id if row else None,
            payment_required=self._another_card.required,
        )

    def _begin_saga(self, order: Order) -> PlacingSaga:
        self._saga = PlacingSaga(order.reservation, self._timeline)
        if self._cancel_requested:
            self._saga.cancel()
        return self._saga

    def _refusal(self, code: ErrorCode, error: str) -> OrderOutcome:
        return OrderOutcome(success=False, order_id=workflow.info().workflow_id, error=error, error_code=code)

    def _is_settled(self) -> bool:
        return self._outcome is not None or self._is_parked()

    def _has_answer(self) -> bool:
        return self._is_settled() or self._another_card.required is not None

    def _answer_now(self) -> OrderOutcome:
        if answer := self._outcome or self._another_card.required:
            return answer
        return self._refusal(ErrorCode.UNDO_PARKED, "the order is being undone, and the undo waits for an operator")

    def _is_another(self, request_hash: str | None) -> bool:
        return self._order is not None and request_hash not in (None, self._order.request_hash)

    def _is_parked(self) -> bool:
        return self._saga is not None and bool(self._saga.parked)


def _is_over(row: OrderRow, order: Order) -> bool:
    """Whether there is nothing to place: the row is of another payload, or an earlier run has paid or closed it."""
    return row.request_hash != order.request_hash or row.status in PAID | CLOSED


def _is_asked_to_authenticate(payment: Payment) -> bool:
    return payment.state is PaymentState.REQUIRES_ACTION


def _request_hash(arguments: tuple[object, ...]) -> str | None:
    match arguments:
        case () | (None,):
            return None
        case (str(request_hash),):
            return request_hash
    raise ApplicationError("submit takes the hash of the order, or nothing", type="invalid_submit")


def _raise_if_failed(row: OrderRow, saga: PlacingSaga) -> None:
    """A technical failure is a failed run, an operator's cancel is a canceled one; the rest is completed."""
    if row.status is Status.FAILED:
        text = f"{row.error}. Undone: {'; '.join(saga.undone)}"
        raise ApplicationError(text, row.outcome, type="order_failed", non_retryable=True) from saga.cause
    if row.status is Status.CANCELLED and workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def _stage(row: OrderRow) -> Stage:
    return Stage.COMPLETED if row.outcome.success else Stage(row.status)
