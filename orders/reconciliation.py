"""What reconcile-orders answers, and what it exchanges with its activities."""

from datetime import date, datetime
from typing import Literal

from orders.models import Model, RefundKey, Status

Remedy = Literal["void_payment", "void_orphan", "alert"]


class Page(Model):
    """How far a walk over orders is: the next page begins after this order."""

    at: datetime
    id: str = ""


class OrderWithoutRun(Model):
    """An unfinished order that no run drives, or one that is parked.

    `parked` is the step at which it waits for an operator, and why; `parked_by` the workflow id of the run that waits,
    None if that run is gone.
    """

    order_id: str
    status: Status
    parked: str | None = None
    parked_by: str | None = None


class OrdersWithoutRun(Model):
    orders: tuple[OrderWithoutRun, ...]
    next: Page | None


class Restart(Model):
    """The workflow that was started for an order without a run.

    None: the order changed meanwhile (`moved`), or it may be paid and its request is lost, so it must go forward.
    """

    started: str | None
    moved: bool = False


class RefundsWithoutRun(Model):
    """Refunds of parts of orders that are claimed and not made, and that no run makes."""

    refunds: tuple[RefundKey, ...]
    next: Page | None


class StrayPayment(Model):
    """A payment that contradicts its order. The remedy `alert` leaves it to an operator."""

    order_id: str
    payment_intent_id: str
    remedy: Remedy
    description: str

    @property
    def key(self) -> str:
        """The key of its alert."""
        return f"payment:{self.payment_intent_id}"


class StrayPayments(Model):
    """One page of a comparison. The next page begins after the id `after`; None: there is no next page."""

    found: tuple[StrayPayment, ...]
    after: str | None = None


class StrayShipment(Model):
    """A shipment that contradicts its order. With a `shipment_id` it can be cancelled; else an operator must decide.

    Each day `found_on` is a new business attempt: a warehouse may repeat its refusal under the same key.
    """

    order_id: str
    shipment_id: str | None = None
    description: str
    found_on: date | None = None

    @property
    def key(self) -> str:
        """The key of its alert."""
        return f"shipment:{self.order_id}"


class StrayShipments(Model):
    """One page of a comparison, and which orders it moved on. The next page begins after the id `after`."""

    found: tuple[StrayShipment, ...]
    followed: tuple[str, ...] = ()
    after: str | None = None


class OrderEvent(Model):
    """What was done for an order, as text for order_events."""

    order_id: str
    why: str


class Problem(Model):
    """Something that an operator must decide. Operators are alerted of each `key` once a day as long as it lasts.

    `run` and `command` are those of orders.models.Alert.
    """

    key: str
    order_id: str
    text: str
    run: str | None = None
    command: str | None = None


class Warned(Problem):
    """A dispute, an early fraud warning or a review of a payment. Its status is reported once."""

    is_open: bool
    is_reported: bool


class ReconcileReport(Model):
    """What one run of reconcile-orders did: texts that name the orders. All empty: there was nothing to do."""

    restarted: tuple[str, ...] = ()
    payments: tuple[str, ...] = ()
    shipments: tuple[str, ...] = ()
    refunds: tuple[str, ...] = ()
    stock: tuple[str, ...] = ()
    alerted: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
