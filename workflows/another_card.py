"""An order whose payment was refused waits for another payment method: what `submit` and `pay` answer meanwhile."""

import hashlib
from datetime import datetime
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from orders.errors import InvalidInput
    from orders.models import ErrorCode, OrderOutcome, Payment, PaymentRequest, PaymentState
    from orders.parsing import parse_pay

MAX_TRIES: Final = 20  # of one run: a stranger must not try stolen cards on one order without end

EXPIRED: Final = "the payment was not authenticated in time"


class Try:
    """A `pay` that is under way. `answer` is what it came to, unless it settles the order."""

    def __init__(self, request: PaymentRequest) -> None:
        self.request = request
        self.answer: OrderOutcome | None = None


class AnotherCard:
    """Takes one `pay` at a time, while the order waits for one.

    Attributes:
        required: what `submit` answers meanwhile; None: the order waits for nothing, or for the customer's bank.
        asked: the `pay` that is to be tried, or is under way.
    """

    def __init__(self, order_id: str) -> None:
        self._order_id = order_id
        self._is_open = False
        self._tries = 0
        self.required: OrderOutcome | None = None
        self.asked: Try | None = None

    def open(self, payment: Payment, deadline: datetime) -> None:
        """Wait for a `pay`, because this is what the payment has come to."""
        answer = _answer(self._order_id, payment, deadline)
        self.required = answer if answer.error_code is ErrorCode.PAYMENT_REQUIRED else None
        self._is_open = True

    def answer(self, payment: Payment, deadline: datetime) -> None:
        """Answer the `pay` that was tried, unless its payment settles the order."""
        if self.asked and refusal_of(payment):
            self.asked.answer, self.asked = _answer(self._order_id, payment, deadline), None

    def close(self) -> None:
        """Take no `pay` while one is under way."""
        self.required = None
        self._is_open = False

    def end(self) -> None:
        """Take no `pay` any more: the one that may be under way gets the outcome of the order."""
        self.close()
        self.asked = None

    def check(self, arguments: tuple[object, ...]) -> str:
        """The payment method that a `pay` names.

        Raises:
            ApplicationError: `invalid_payment`, `payment_under_way`, `not_waiting_for_payment`, `too_many_payments`.
        """
        try:
            method = parse_pay(*arguments).payment_method_id
        except InvalidInput as invalid:
            raise ApplicationError(str(invalid), type="invalid_payment") from None
        if self.asked:
            text = "another payment method is being tried: ask again when that is answered"
            raise ApplicationError(text, type="payment_under_way")
        if not self._is_open:
            text = "the order does not wait for another payment method; its status says where it stands"
            raise ApplicationError(text, type="not_waiting_for_payment")
        if self._tries >= MAX_TRIES:
            raise ApplicationError(f"{MAX_TRIES} payment methods were tried already", type="too_many_payments")
        return method

    def ask(self, arguments: tuple[object, ...]) -> Try:
        """Let the run try a payment method. Raises what `check` raises."""
        method = self.check(arguments)
        self._tries += 1
        update = workflow.current_update_info()
        # The same `pay` in a run that was reset or started again is the same try. Its id may have any length.
        key = hashlib.sha256(f"{update.id if update else ''}:{method}".encode(errors="replace")).hexdigest()
        self.asked = Try(PaymentRequest(order_id=self._order_id, payment_method_id=method, pay=key))
        return self.asked


def refusal_of(payment: Payment) -> tuple[ErrorCode, str] | None:
    """Why the payment is refused; None: it is not. A customer who is asked to authenticate has not done it in time."""
    match payment.state:
        case PaymentState.REQUIRES_ACTION:
            return ErrorCode.AUTHENTICATION_EXPIRED, EXPIRED
        case PaymentState.DECLINED:
            return payment.error_code or ErrorCode.CARD_DECLINED, payment.error or "declined"
    return None


def declined(payment: Payment, code: ErrorCode, error: str) -> Payment:
    """A refused payment, also one that the customer has not authenticated in time."""
    refusal = {"state": PaymentState.DECLINED, "error_code": code, "error": error}
    return payment.model_copy(update=refusal)


def latest(before: Payment, found: Payment) -> Payment:
    """The payment as it was found; a refusal that still stands keeps the reason that was given for it."""
    is_refused = before.state is PaymentState.DECLINED
    return before if is_refused and refusal_of(found) else found


def _answer(order_id: str, payment: Payment, deadline: datetime) -> OrderOutcome:
    until = f"until {deadline:%H:%M:%S} UTC"
    if payment.state is PaymentState.REQUIRES_ACTION:
        code, text = ErrorCode.AUTHENTICATION_REQUIRED, f"the customer must authenticate the payment, {until}"
    else:
        code = ErrorCode.PAYMENT_REQUIRED
        text = f"{payment.error_code}: {payment.error}; another payment method may be tried {until}"
    return OrderOutcome(
        success=False, order_id=order_id, payment_intent=payment.payment_intent_id, error=text, error_code=code
    )
