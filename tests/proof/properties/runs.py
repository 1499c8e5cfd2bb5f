"""What the runs about an order do next, by the answers they get: their stories without Temporal."""

from typing import Any, Final

from activities.parcels import DueNotice
from orders.models import (
    CLOSED,
    PAID,
    FulfillmentAnswer,
    Notification,
    OrderRow,
    Payment,
    PaymentState,
    Refund,
    RefundClaim,
    Status,
    UndoResult,
)
from orders.parcels import SHORTAGE_REFUND, ParcelNotice

FORWARD: Final = {"reserve_stock", "authorize_payment", "read_payment", "request_fulfillment"}  # until the pivot


class Run:
    """One of the runs about an order. `next` is the activity that it is about to execute, None: it is over."""

    first: str
    claim: str  # the first act of what it does to an order that is not to be

    def __init__(self) -> None:
        self.next: str | None = self.first
        self._status: Status | None = None

    def give_up(self) -> bool:
        """A step before the pivot has failed for good, or run out of time; False: it is not such a step."""
        if self.next not in FORWARD:
            return False
        self.next = self.claim
        return True

    def answered(self, answer: Any) -> None:  # noqa: C901  a table of what follows what
        """Go on as the answer says."""
        if isinstance(answer, OrderRow):
            self._status = answer.status
        match self.next, answer:
            case "reserve_stock", OrderRow(status=Status.PENDING):
                self.next = "request_fulfillment" if answer.is_free else "authorize_payment"
            case _, OrderRow() | None:
                self.next = self._by_status(answer)
            case _, Payment(state=PaymentState.AUTHORIZED):
                self.next = "request_fulfillment"
            case _, Payment(state=PaymentState.REQUIRES_ACTION):
                self.next = "read_payment"
            case _, FulfillmentAnswer(state="accepted"):
                self.next = "capture_payment"
            case _, Payment() | FulfillmentAnswer():
                self.next = self.claim
            case "capture_payment", paid:
                self.next = "finalize_order" if paid else "read_order"
            case "cancel_fulfillment", UndoResult(shipped=True):
                self.next = "mark_shipped" if self._status is Status.CANCELLING else "resume_capture"
            case "cancel_fulfillment", _:
                self.next = "void_payment"
            case "void_payment", _:
                self.next = "release_stock"

    def _by_status(self, row: OrderRow | None) -> str | None:
        if row is None or row.status in CLOSED | (PAID - {Status.CANCELLING}):
            return None
        return {Status.PENDING: self.claim, Status.CAPTURING: "capture_payment"}.get(row.status, "cancel_fulfillment")


class Placing(Run):
    """process-order."""

    first = "reserve_stock"
    claim = "claim_undo"

    def _by_status(self, row: OrderRow | None) -> str | None:
        # What cancel-order has begun it leaves to cancel-order.
        return None if row and row.status is Status.CANCELLING else super()._by_status(row)


class Cancelling(Run):
    """cancel-order. `may_drive`: no run of process-order is open; until then it only looks."""

    first = "claim_cancellation"
    claim = "claim_cancellation"

    def __init__(self) -> None:
        super().__init__()
        self.may_drive = False

    def _by_status(self, row: OrderRow | None) -> str | None:
        following = super()._by_status(row)
        if row and row.status is Status.PROCESSING:
            return self.claim  # it has just been finalized
        if row and row.status in {Status.UNDOING, Status.CAPTURING} and not self.may_drive:
            return self.claim
        return following


class Refunding(Run):
    """refund-order: of a unit that comes back, or of one that can never leave."""

    first = "claim_refund"

    def __init__(self, refund: Refund) -> None:
        super().__init__()
        self.refund = refund

    @property
    def is_of_shortage(self) -> bool:
        return self.refund.refund_id.startswith(SHORTAGE_REFUND)

    def answered(self, answer: Any) -> None:
        match self.next, answer:
            case "claim_refund", RefundClaim(status="claimed"):
                self.next = "make_refund"
            case "make_refund", RefundClaim(status="claimed"):
                self.next = "return_stock"
            case _:
                self.next = None


class Telling(Run):
    """notify-shipment."""

    first = "find_recipient"

    def __init__(self, notice: ParcelNotice) -> None:
        super().__init__()
        self.notice = notice
        self.notification: Notification | None = None

    def answered(self, answer: Any) -> None:
        self.next = None
        if isinstance(answer, DueNotice):
            self.notification = answer.notification
            self.next = "send_email"
