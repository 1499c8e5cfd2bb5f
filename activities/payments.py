"""The payment of an order: one PaymentIntent, known to the order row before anything is confirmed."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import stripe
from temporalio import activity

from gateways.order_store import existing_row, move_row, read_resolution, read_shop_id, write_event
from gateways.postgres import Database
from gateways.stripe import Intent, PaymentRefused, StripeGateway, attempt_of
from orders.errors import Permanent, Unavailable
from orders.models import PAID, ErrorCode, OrderRow, Payment, PaymentRequest, PaymentState, Status, UndoResult
from saga import Step

if TYPE_CHECKING:
    from gateways.postgres import Connection

# An id that was never written is never confirmed; the first one that was stays.
KEEP_INTENT: Final = """
    UPDATE orders SET payment_intent_id = $2
    WHERE id = $1 AND status = 'pending' AND (payment_intent_id IS NULL OR payment_intent_id = $2)
"""

# A status only goes forward: whoever read an older one comes too late.
KEEP_REFUND: Final = """
    INSERT INTO refunds (id, order_id, payment_intent_id, amount, status, attempt) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (id) DO UPDATE SET status = (
        SELECT s FROM unnest(ARRAY['failed', 'canceled', 'succeeded', 'requires_action', 'pending']) s
        WHERE s IN (refunds.status, excluded.status) LIMIT 1
    )
"""

READ_REFUNDS: Final = "SELECT id, status FROM refunds WHERE order_id = $1"

MARK_LOOKED_AT: Final = "UPDATE refunds SET checked_at = now() WHERE (order_id, payment_intent_id) = ($1, $2)"

CHECK_AGAIN: Final = "UPDATE orders SET payment_checked_at = NULL WHERE id = $1"

COUNT_RETRIES: Final = "SELECT count(*) FROM resolutions WHERE order_id = $1 AND step = $2 AND action = 'retry'"

STANDING_REFUNDS: Final = {"succeeded", "pending", "requires_action"}

# Declines that must look like any other to the customer (docs.stripe.com/declines/codes).
SILENT_DECLINES: Final = {"fraudulent", "lost_card", "stolen_card", "merchant_blacklist", "pickup_card"}


class Payments:
    """Authorize, capture, void and refund; whatever is tried again, nothing is charged twice.

    Raises, in all activities:
        Unavailable: Stripe or PostgreSQL; what was asked for may have happened.
        Permanent: Stripe refuses the request itself.
    """

    def __init__(self, database: Database, gateway: StripeGateway) -> None:
        self._database = database
        self._gateway = gateway

    @activity.defn
    async def authorize_payment(self, request: PaymentRequest) -> Payment:
        """Create the PaymentIntent, write its id on the order row, and only then confirm it."""
        async with self._database.transaction() as connection:
            row = await existing_row(connection, request.order_id)
            shop_id = await read_shop_id(connection)
        if row.status is not Status.PENDING:
            return Payment(state=PaymentState.ORDER_CLOSED)
        try:
            created = row.payment_intent_id or (await self._gateway.create(row, request.payment_method_id, shop_id)).id
        except PaymentRefused as refused:
            return _declined(ErrorCode.PAYMENT_REFUSED, f"the payment was refused ({refused})")
        kept = await self._keep_intent(row.id, created)
        if kept is None:
            return Payment(state=PaymentState.ORDER_CLOSED)
        try:
            return _state(await self._gateway.confirm(row.id, kept))
        except PaymentRefused as refused:
            return _declined(ErrorCode.PAYMENT_REFUSED, f"the payment was refused ({refused})", kept)

    @activity.defn
    async def read_payment(self, order_id: str) -> Payment:
        """Where the payment stands at Stripe, e.g. while a customer authenticates it."""
        return _state(await self._gateway.retrieve(_intent_id(await self._read(order_id))))

    @activity.defn
    async def capture_payment(self, order_id: str) -> bool:
        """The pivot: claim the row (pending -> capturing), then take the money. True once the order is paid.

        False: the order is closed or being undone; its row tells. Only an authorization that is gone turns a claimed
        row to undoing.
        """
        row = await self._move(order_id, Status.PENDING, Status.CAPTURING, "claimed for capture")
        if row.status is not Status.CAPTURING:
            return row.status in PAID
        if row.terms.capture_mode == "automatic":
            return True
        intent = await self._gateway.capture(order_id, _intent_id(row))
        if intent.status == "succeeded":
            return True
        if intent.status != "canceled":
            raise Unavailable(f"stripe: cannot capture, the payment {intent.status}", type="payment_not_capturable")
        await self._lose_authorization(order_id)
        return False

    @activity.defn
    async def resume_capture(self, order_id: str) -> OrderRow:
        """The goods have left before the undo could stop them: go forward instead, undoing -> capturing.

        Not if an operator has settled the shipment or the payment: then somebody may be voiding it, or has refunded it.

        Raises:
            Permanent: the authorization is gone too; a person must decide.
        """
        row = await self._read(order_id)
        intent = await self._gateway.retrieve(row.payment_intent_id) if row.payment_intent_id else None
        if intent is None or intent.status not in ("requires_capture", "succeeded"):
            raise Permanent("the goods were shipped, but there is no authorization to capture", type="shipped_unpaid")
        async with self._database.transaction() as connection:
            await existing_row(connection, order_id)
            said = [
                await read_resolution(connection, order_id, step) for step in ("cancel_fulfillment", "void_payment")
            ]
            if not any(said):
                why = "shipped before the undo: go forward"
                await move_row(connection, order_id, Status.UNDOING, Status.CAPTURING, why)
            return await existing_row(connection, order_id)

    @activity.defn
    async def void_payment(self, order_id: str) -> UndoResult:
        """Void or refund, whichever the PaymentIntent's real state asks for.

        Raises:
            Permanent: the refund failed; a person must decide.
        """
        async with self._database.transaction() as connection:
            row = await existing_row(connection, order_id)
            said = await read_resolution(connection, order_id, "void_payment")
        if said or row.payment_intent_id is None:
            return UndoResult(note=said or "no payment was made")
        intent = await self._gateway.retrieve(row.payment_intent_id)
        if intent.status not in ("canceled", "processing", "succeeded"):
            intent = await self._gateway.void(order_id, intent.id)
        if intent.status == "succeeded":
            return await self._refund(order_id, intent)
        if intent.status != "canceled":
            raise Unavailable(f"stripe: cannot void yet, the payment {intent.status}", type="payment_not_voidable")
        return UndoResult(note=f"{intent.id} voided")

    async def _refund(self, order_id: str, intent: Intent) -> UndoResult:
        """Refund what is left of the charge, after looking at what was refunded already."""
        refunds = await self._gateway.refunds(intent.id)
        standing = [refund for refund in refunds if refund.status in STANDING_REFUNDS]
        if sum(refund.amount for refund in standing) < intent.amount_received:
            attempt = await self._next_attempt(order_id, [refund for refund in refunds if refund not in standing])
            created = await self._gateway.refund(order_id, intent.id, attempt=attempt, known=len(refunds))
            refunds = [created, *refunds]
        await self._keep_refunds(order_id, intent.id, refunds)
        latest = refunds[0]
        if latest.status not in STANDING_REFUNDS:
            raise _refund_failed(latest.id)
        return UndoResult(note=f"{intent.id} refunded: {latest.id} {latest.status}")

    async def _next_attempt(self, order_id: str, failed: Sequence[stripe.Refund]) -> int:
        """A refund that failed or was refused is tried again only on a person's word, once per word.

        The word of a refusal, which left no refund behind, is not one for the failure of the refund that it led to:
        under the key of that attempt Stripe would answer what the refund was at first, or, days later, make another.
        """
        async with self._database.transaction() as connection:
            allowed = int(await connection.fetchval(COUNT_RETRIES, order_id, "void_payment"))
        attempt = allowed + 1
        if len(failed) > allowed or attempt in map(attempt_of, failed):
            raise _refund_failed(failed[0].id)
        return attempt

    async def _keep_refunds(self, order_id: str, intent_id: str, refunds: list[stripe.Refund]) -> None:
        async with self._database.transaction() as connection:
            await keep_refunds(connection, order_id, intent_id, refunds)

    async def _keep_intent(self, order_id: str, intent_id: str) -> str | None:
        """The id that the row holds now, ours or an earlier one; None if the order is no longer pending."""
        async with self._database.transaction() as connection:
            await connection.execute(KEEP_INTENT, order_id, intent_id)
            row = await existing_row(connection, order_id)
        return row.payment_intent_id if row.status is Status.PENDING else None

    async def _lose_authorization(self, order_id: str) -> None:
        async with self._database.transaction() as connection:
            await move_row(
                connection,
                order_id,
                Status.CAPTURING,
                Status.UNDOING,
                "the authorization is gone",
                closing=Status.FAILED,
                error_code=ErrorCode.AUTHORIZATION_EXPIRED,
                error="the authorization of the payment expired before it was captured",
            )

    async def _move(self, order_id: str, before: Status, after: Status, why: str) -> OrderRow:
        async with self._database.transaction() as connection:
            await move_row(connection, order_id, before, after, why)
            return await existing_row(connection, order_id)

    async def _read(self, order_id: str) -> OrderRow:
        async with self._database.transaction() as connection:
            return await existing_row(connection, order_id)


async def keep_refunds(
    connection: "Connection", order_id: str, intent_id: str, refunds: Sequence[stripe.Refund]
) -> list[str]:
    """Bring the refunds of a payment, newest first, up to date: what changed, in words. The order is checked anew."""
    await existing_row(connection, order_id)
    before = await _refunds(connection, order_id)
    for attempt, refund in enumerate(reversed(refunds), start=1):
        await connection.execute(KEEP_REFUND, refund.id, order_id, intent_id, refund.amount, refund.status, attempt)
    await connection.execute(MARK_LOOKED_AT, order_id, intent_id)
    now = await _refunds(connection, order_id)
    changed = [f"refund {refund} {status}" for refund, status in now.items() if before.get(refund) != status]
    for what in changed:
        await write_event(connection, order_id, what)
    if changed:
        await connection.execute(CHECK_AGAIN, order_id)
    return changed


async def _refunds(connection: "Connection", order_id: str) -> dict[str, str]:
    return {refund["id"]: refund["status"] for refund in await connection.fetch(READ_REFUNDS, order_id)}


def _state(intent: Intent) -> Payment:
    match intent.status:
        case "requires_capture" | "succeeded":
            return Payment(state=PaymentState.AUTHORIZED, payment_intent_id=intent.id)
        case "requires_action" | "processing":
            return Payment(state=PaymentState.REQUIRES_ACTION, payment_intent_id=intent.id)
        case "requires_payment_method":
            return _declined(*_decline(intent.last_payment_error), intent.id)
        case "canceled":
            return Payment(state=PaymentState.GONE, payment_intent_id=intent.id)
        case status:
            raise Unavailable(f"stripe: the payment {status}", type="payment_undecided")


def _decline(error: "stripe.PaymentIntent.LastPaymentError | None") -> tuple[ErrorCode, str]:
    if error is not None and error.code == "payment_intent_authentication_failure":
        return ErrorCode.AUTHENTICATION_FAILED, "the customer did not authenticate the payment"
    reason = (error.decline_code or error.code) if error else None
    shown = f" ({reason})" if reason and reason not in SILENT_DECLINES else ""
    return ErrorCode.CARD_DECLINED, f"the card was declined{shown}"


def _declined(code: ErrorCode, error: str, intent_id: str | None = None) -> Payment:
    return Payment(state=PaymentState.DECLINED, payment_intent_id=intent_id, error_code=code, error=error)


def _intent_id(row: OrderRow) -> str:
    if row.payment_intent_id is None:
        raise Permanent(f"order {row.id} has no payment", type="payment_absent")
    return row.payment_intent_id


def _refund_failed(refund: str) -> Permanent:
    return Permanent(f"the refund failed ({refund})", type="refund_failed")


AUTHORIZE: Final = Step(
    Payments.authorize_payment,
    undo=Payments.void_payment,
    deadline=timedelta(minutes=10),
    undoing="void or refund the payment",
    read=lambda undone: undone.note,
)
