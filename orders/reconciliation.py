"""What reconcile-orders says, and what travels between it and its activities."""

from datetime import datetime
from typing import Literal

from orders.models import Model, Status

Remedy = Literal["void_payment", "void_orphan", "alert"]


class Page(Model):
    """Where a walk over old orders stands: behind this one."""

    at: datetime
    id: str = ""


class OrderWithoutRun(Model):
    """An unfinished order that nobody drives. `parked`: the step at which it waits for a person, and why."""

    order_id: str
    status: Status
    parked: str | None = None


class OrdersWithoutRun(Model):
    orders: tuple[OrderWithoutRun, ...]
    next: Page | None


class Restart(Model):
    """What was started for a stranded order; nothing, where its request is lost and it must go forward.

    `moved`: it is stranded no more.
    """

    started: str | None
    moved: bool = False


class Charge(Model):
    """A payment that is not what its order says: how it is mended, or that a person must look."""

    order_id: str
    payment_intent_id: str
    remedy: Remedy
    description: str

    @property
    def key(self) -> str:
        """Under which a person is told of it."""
        return f"payment:{self.payment_intent_id}"


class Charges(Model):
    """One page of a comparison; `after` is where the next one begins, None: there is none."""

    found: tuple[Charge, ...]
    after: str | None = None


class OrderEvent(Model):
    """What was done for an order, in words."""

    order_id: str
    why: str


class Problem(Model):
    """Something for a person, told once a day as long as it goes on. `key` is its identity."""

    key: str
    order_id: str
    text: str


class ReconcileReport(Model):
    """What one run of reconcile-orders did, in words that name the orders; all empty when everything was in order."""

    restarted: tuple[str, ...] = ()
    payments: tuple[str, ...] = ()
    refunds: tuple[str, ...] = ()
    stock: tuple[str, ...] = ()
    alerted: tuple[str, ...] = ()
    not_done: tuple[str, ...] = ()
