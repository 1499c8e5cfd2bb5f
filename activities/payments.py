"""The payment of an order: one PaymentIntent, whose id is on the order row before anything is confirmed."""

from datetime import timedelta
from typing import Final

import stripe
from temporalio import activity

from gateways.order_store import count_retries, lock_row, move_row, read_resolution, row_as_it_is
from gateways.payment_tries import FIRST_TRY, begin_try
from gateways.postgres import Database
from gateways.refund_store import (
    left_of,
    read_paid_elsewhere,
    read_standing,
    refund_failed,
    refuse_unknown,
    save_refunds,
    take_attempt,
)
from gateways.stripe import Intent, PaymentRefused, StripeGateway, is_by_hand, part_of
from orders.errors import Permanent, Unavailable
from orders.models import PAID, ErrorCode, OrderRow, Payment, PaymentRequest, PaymentState, Status, UndoResult
from orders.money import show
from orders.refunds import FAILED, STANDING
from saga import Step, local_first

# The first id that is written stays. An id that was never written is never confirmed.
KEEP_INTENT: Final = """
    UPDATE orders SET payment_intent_id = $2
    WHERE id = $1 AND status = 'pending' AND (payment_intent_id IS NULL OR payment_intent_id = $2)
"""

# To the customer these declines must look like any other (docs.stripe.com/declines/codes).
SILENT_DECLINES: Final = {"fraudulent", "lost_card", "stolen_card", "merchant_blacklist", "pickup_card"}


REFUSED: Final = "the payment method was refused"


class Payments:
    """Authorize, capture, void and refund. No attempt charges or refunds a second time.

    Raises, in all activities:
        Unavailable: Stripe or PostgreSQL; what was asked for may have happened.
        Permanent: Stripe refuses the request itself.
    """

    def __init__(self, database: Database, gateway: StripeGateway) -> None:
        self._database = database
        self._gateway = gateway

    @local_first
    @activity.defn
    async def authorize_payment(self, request: PaymentRequest) -> Payment:
        """Create the PaymentIntent, write its id on the order row, and only then confirm it.

        Another payment method is tried on the same PaymentIntent, unless that holds money by now. An attempt of an
        earlier try than the latest one changes nothing: it answers what the payment has come to.
        """
        row = await self._read(request.order_id)
        number: int | None = FIRST_TRY
        if row.terms.payment_retry:
            row, number = await self._begin_try(request)
        if row.status is not Status.PENDING:
            return Payment(state=PaymentState.ORDER_CLOSED)
        if number is None or (number != FIRST_TRY and row.payment_intent_id):
            payment = await self._look(row)
            if number is None or payment.state not in {PaymentState.DECLINED, PaymentState.REQUIRES_ACTION}:
                return payment
        try:
            created = row.payment_intent_id or await self._create(row, request.payment_method_id, number)
        except PaymentRefused as refused:
            return _refused(refused)
        kept = await self._keep_intent(row.id, created)
        if kept is None:
            return Payment(state=PaymentState.ORDER_CLOSED)
        try:
            return _state(row, await self._confirm(row.id, kept, request, number))
        except PaymentRefused as refused:
            return _refused(refused, kept)

    @activity.defn
    async def read_payment(self, order_id: str) -> Payment:
        """The payment as Stripe has it now, e.g. while the customer authenticates it."""
        row = await self._read(order_id)
        return _state(row, await self._gateway.retrieve(_intent_id(row)))

    @local_first
    @activity.defn
    async def capture_payment(self, order_id: str) -> bool:
        """The pivot: claim the row (pending -> capturing), then capture. True: the order is paid.

        Of a free order the claim is all of it. False: the order is closed or being undone, and the caller must read its
        row. After the claim only a lost authorization turns the row to undoing: the PaymentIntent is canceled, or all
        that it took was refunded.

        Raises:
            Permanent: somebody captured another amount; an operator must refund it.
        """
        row = await self._move(order_id, Status.PENDING, Status.CAPTURING, "claimed for capture")
        if row.status is not Status.CAPTURING:
            return row.status in PAID
        if row.terms.capture_mode == "automatic" or row.is_free:
            return True
        intent = await self._gateway.capture(order_id, _intent_id(row))
        if intent.status == "succeeded":
            if intent.amount_received == row.total:
                return True
            if left_of(intent, await self._gateway.refunds(intent.id)):
                raise _another_amount(row, intent)
        elif intent.status != "canceled":
            raise Unavailable(f"stripe: cannot capture, the payment is {intent.status}", type="payment_not_capturable")
        await self._lose_authorization(order_id)
        return False

    @activity.defn
    async def resume_capture(self, order_id: str) -> OrderRow:
        """The goods left before the undo could stop them: the order goes forward, undoing -> capturing.

        The row stays as it is if an operator has settled the shipment: the payment may be voided or refunded by now.

        Raises:
            Permanent: the payment is lost, refunded, or settled by an operator; an operator must decide.
        """
        row = await self._read(order_id)
        if not row.is_free and not await self._can_be_paid(row):
            raise Permanent("the goods were shipped, but there is no authorization to capture", type="shipped_unpaid")
        async with self._database.transaction() as connection:
            await lock_row(connection, order_id)
            is_settled = await read_resolution(connection, order_id, "cancel_fulfillment")
            if not is_settled and (settled := await read_resolution(connection, order_id, "void_payment")):
                raise Permanent(f"the goods were shipped, but the payment is {settled.text}", type="shipped_unpaid")
            if not is_settled:
                why = "shipped before the undo: go forward"
                await move_row(connection, order_id, Status.UNDOING, Status.CAPTURING, why)
            return await lock_row(connection, order_id)

    @activity.defn
    async def void_payment(self, order_id: str) -> UndoResult:
        """Void or refund the payment, depending on the status that Stripe has.

        Raises:
            Permanent: the refund failed; an operator must decide.
        """
        async with self._database.transaction() as connection:
            row = await lock_row(connection, order_id)
            resolution = await read_resolution(connection, order_id, "void_payment")
            attempt = 1 + await count_retries(connection, order_id, "void_payment")
        if resolution or row.payment_intent_id is None:
            return UndoResult(note=resolution.text if resolution else "no payment was made")
        intent = await self._gateway.void(order_id, row.payment_intent_id, attempt=attempt)
        if intent.status == "succeeded":
            return await self._refund(order_id, intent)
        return UndoResult(note=f"{intent.id} voided")

    async def _can_be_paid(self, row: OrderRow) -> bool:
        """Whether the price can be captured, or was captured and is still there."""
        if row.payment_intent_id is None:
            return False
        intent = await self._gateway.retrieve(row.payment_intent_id)
        if intent.status == "succeeded":
            return left_of(intent, await self._gateway.refunds(intent.id)) == row.total
        return _taken(intent) == row.total

    async def _refund(self, order_id: str, intent: Intent) -> UndoResult:
        """Refund what is left of the charge. Refunds that already exist count, also manual ones, and those of parts."""
        async with self._database.transaction() as connection:
            standing = await read_standing(connection, intent.id)
        refunds = await self._gateway.refunds(intent.id)
        async with self._database.transaction() as connection:
            paid_elsewhere = await read_paid_elsewhere(connection, order_id, refunds)
        if (due := left_of(intent, refunds) - paid_elsewhere) > 0:
            refuse_unknown(standing, refunds)
            attempt = await take_attempt(self._database, order_id, intent.id, refunds)
            amount = due if paid_elsewhere else None
            refunds = await self._gateway.refund(order_id, intent.id, attempt=attempt, known=refunds, amount=amount)
        await save_refunds(self._database, order_id, intent.id, refunds)
        counting = [each for each in refunds if _counts(each)]
        if not counting:
            return UndoResult(note=f"{intent.id} was paid back by hand")
        latest = counting[0]
        if latest.status not in STANDING:
            raise refund_failed(latest)
        return UndoResult(note=f"{intent.id} refunded: {latest.id} {latest.status}")

    async def _begin_try(self, request: PaymentRequest) -> tuple[OrderRow, int | None]:
        """The row, and the number of the try; None: a later one has begun."""
        async with self._database.transaction() as connection:
            row = await lock_row(connection, request.order_id)
            is_pending = row.status is Status.PENDING
            return row, await begin_try(connection, row.id, request.pay) if is_pending else None

    async def _look(self, row: OrderRow) -> Payment:
        """What the payment has come to, without any change of it."""
        if row.payment_intent_id is None:
            return _declined(ErrorCode.PAYMENT_REFUSED, REFUSED)
        return _state(row, await self._gateway.retrieve(row.payment_intent_id))

    async def _confirm(self, order_id: str, intent_id: str, request: PaymentRequest, number: int) -> Intent:
        if number == FIRST_TRY:
            return await self._gateway.confirm(order_id, intent_id)
        return await self._gateway.confirm_with(order_id, intent_id, request.payment_method_id, number=number)

    async def _create(self, row: OrderRow, payment_method_id: str, number: int) -> str:
        async def is_kept(intent_id: str) -> bool:
            return (await self._read(row.id)).payment_intent_id == intent_id

        return (await self._gateway.create(row, payment_method_id, is_kept, number=number)).id

    async def _keep_intent(self, order_id: str, intent_id: str) -> str | None:
        """The id that the row has now, this one or an earlier one; None if the order is no longer pending."""
        async with self._database.transaction() as connection:
            await connection.execute(KEEP_INTENT, order_id, intent_id)
            row = await lock_row(connection, order_id)
        return row.payment_intent_id if row.status is Status.PENDING else None

    async def _lose_authorization(self, order_id: str) -> None:
        async with self._database.transaction() as connection:
            await move_row(
                connection,
                order_id,
                Status.CAPTURING,
                Status.UNDOING,
                "the authorization is lost",
                closing=Status.FAILED,
                error_code=ErrorCode.AUTHORIZATION_EXPIRED,
                error="the authorization of the payment expired before it was captured",
            )

    async def _move(self, order_id: str, before: Status, after: Status, why: str) -> OrderRow:
        async with self._database.transaction() as connection:
            await move_row(connection, order_id, before, after, why)
            return await lock_row(connection, order_id)

    async def _read(self, order_id: str) -> OrderRow:
        """The row as it is. What is decided by it is decided again by a statement with a lock, before it takes effect.

        A PaymentIntent that is created holds no money until KEEP_INTENT has found the order pending; an id is on the
        row before Stripe is asked to confirm it, so a read after the confirmation finds it.
        """
        async with self._database.transaction() as connection:
            return await row_as_it_is(connection, order_id)


def _state(row: OrderRow, intent: Intent) -> Payment:
    """Where the payment of the order is.

    Raises:
        Unavailable: Stripe has not decided.
        Permanent: somebody captured another amount than the order's.
    """
    match intent.status:
        case "requires_capture" | "succeeded":
            if _taken(intent) != row.total:
                raise _another_amount(row, intent)
            return Payment(state=PaymentState.AUTHORIZED, payment_intent_id=intent.id)
        case "requires_action" | "processing":
            return Payment(state=PaymentState.REQUIRES_ACTION, payment_intent_id=intent.id)
        case "requires_confirmation":  # Stripe refused to ask the bank
            return _declined(ErrorCode.PAYMENT_REFUSED, REFUSED, intent.id)
        case "requires_payment_method":
            return _declined(*_decline(intent.last_payment_error), intent.id)
        case "canceled":
            return Payment(state=PaymentState.CANCELED, payment_intent_id=intent.id)
        case status:
            raise Unavailable(f"stripe: the payment is {status}", type="payment_undecided")


def _taken(intent: Intent) -> int:
    """What is authorized or captured, in minor units; 0 for a payment that is neither."""
    return {"requires_capture": intent.amount_capturable, "succeeded": intent.amount_received}.get(intent.status, 0)


def _counts(refund: stripe.Refund) -> bool:
    """Whether the refund decides what an undo comes to, of whose payment nothing is left to refund.

    A part, or a refund by hand, that failed does not: it is covered by what was refunded since, or by other means.
    """
    if refund.status in STANDING:
        return True
    return part_of(refund) is None and not (is_by_hand(refund) and refund.status in FAILED)


def _another_amount(row: OrderRow, intent: Intent) -> Permanent:
    taken, total = show(_taken(intent), row.currency), show(row.total, row.currency)
    text = f"stripe: {intent.id} is {intent.status} with {taken} instead of {total}; refund it in the dashboard"
    return Permanent(text, type="another_amount")


def _decline(error: "stripe.PaymentIntent.LastPaymentError | None") -> tuple[ErrorCode, str]:
    if error is not None and error.code == "payment_intent_authentication_failure":
        return ErrorCode.AUTHENTICATION_FAILED, "the customer did not authenticate the payment"
    reason = (error.decline_code or error.code) if error else None
    shown = f" ({reason})" if reason and reason not in SILENT_DECLINES else ""
    return ErrorCode.CARD_DECLINED, f"the card was declined{shown}"


def _refused(refused: PaymentRefused, intent_id: str | None = None) -> Payment:
    activity.logger.info("Stripe refuses the payment", extra={"why": str(refused)})
    return _declined(ErrorCode.PAYMENT_REFUSED, REFUSED, intent_id)


def _declined(code: ErrorCode, error: str, intent_id: str | None = None) -> Payment:
    return Payment(state=PaymentState.DECLINED, payment_intent_id=intent_id, error_code=code, error=error)


def _intent_id(row: OrderRow) -> str:
    if row.payment_intent_id is None:
        raise Permanent(f"order {row.id} has no payment", type="payment_absent")
    return row.payment_intent_id


AUTHORIZE: Final = Step(
    Payments.authorize_payment,
    undo=Payments.void_payment,
    deadline=timedelta(minutes=10),
    undoing="void or refund the payment",
    read=lambda undone: undone.note,
)
