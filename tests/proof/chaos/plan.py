"""What happens in a chaos run, drawn from a seed alone: who orders what, and which fault hits which part when.

A fault begins when a certain order begins, not at a time of day, so that a slow machine meets the same plan.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from random import Random
from typing import Any, Final, Literal, TypeVar

from orders.models import Model
from orders.names import CANCEL_ORDER, PROCESS_ORDER, REFUND_ORDER

WORKERS: Final = 3
HOT: Final = "5"  # the product that most customers want
HOT_SHARE: Final = 0.2  # of all orders
ORDERS_PER_HOT_UNIT: Final = 12
RUSH: Final = "1"  # the product of which there is plenty, but which everybody wants at first
RUSH_PART: Final = 1 / 3  # of the run
RUSH_SHARE: Final = 0.8  # of the orders in that part that do not want the hot one

T = TypeVar("T")

Execution = Literal["regular", "local-first"]
Customer = Literal["authenticates", "fails", "leaves"]
PROCESS_FAULTS: Final = {"kill", "stop", "restart", "cut"}
Act = Literal["kill", "stop", "restart", "request", "cut", "terminate", "cancel", "reconcile"]

ACCEPTED: Final = "pm_card_visa"
ASKS: Final = "pm_card_threeDSecure2Required"
CARDS: Final = {
    ACCEPTED: 64,
    ASKS: 18,
    "pm_card_chargeDeclined": 8,
    "pm_card_chargeDeclinedInsufficientFunds": 2,
    "pm_card_pendingRefund": 8,
}
# With which a customer pays whose first card was refused, and who does not leave.
SECOND_CARDS: Final = {"": 30, ACCEPTED: 40, ASKS: 10, "pm_card_chargeDeclinedExpiredCard": 20}
STREETS: Final = {"123 Main St": 94, "1 Refuse Street": 6}
PRICES: Final = {"1": "29.99", "2": "89", "3": "14.5", "4": "19", "5": "450"}  # deploy/local/seed.sql
CHARGES: Final = {"none": 50, "charges": 35, "free": 15}


class PlannedRefund(Model):
    """A refund of a part of an order, so many seconds after its customer was answered.

    It is of so many units, whatever they cost or for an `amount`; or of an amount alone.
    """

    refund_id: str
    after: float
    quantity: int
    restock: bool
    amount: str | None

    def payload(self, order: "PlannedOrder") -> dict[str, Any]:
        """The refund as the shop asks for it."""
        line = {"productId": order.product, "quantity": self.quantity, "restock": self.restock}
        amount = {} if self.amount is None else {"amount": Decimal(self.amount)}
        email = order.payload["customerEmail"]
        lines = [line] if self.quantity else []
        return {"orderId": order.order_id, "refundId": self.refund_id, "lines": lines, "customerEmail": email} | amount


class PlannedOrder(Model):
    """One order and what its customer does about it. `cancels` are seconds after the order began."""

    order_id: str
    card: str
    second_card: str
    street: str
    product: str
    quantity: int
    charges: str
    customer: Customer
    submits: int
    cancels: tuple[float, ...] = ()
    refunds: tuple[PlannedRefund, ...] = ()
    ships: bool = False
    parcels: bool = False  # it leaves one unit first
    shorts: bool = False  # one unit can never leave
    regrets: bool = False  # then it is cancelled instead

    @property
    def payload(self) -> dict[str, Any]:
        """The order as a client sends it. A free one has no payment method."""
        price = self.quantity * Decimal(PRICES[self.product])
        charges = {
            "none": [],
            "charges": [("shipping", Decimal("5.95")), ("tax", Decimal("2.47")), ("discount", -price / 2)],
            "free": [("shipping", Decimal("5.95")), ("discount", -price - Decimal("5.95"))],
        }[self.charges]
        return {
            "customerId": f"cus_{self.order_id}",
            "customerEmail": f"{self.order_id}@example.com",
            "items": [{"productId": self.product, "quantity": self.quantity}],
            "charges": [{"type": type_, "amount": round(amount, 2)} for type_, amount in charges],
            **({} if self.charges == "free" else {"paymentMethodId": self.card}),
            "shippingAddress": {"street": self.street, "city": "San Francisco", "state": "CA", "zip": "94102"},
        }


class PlannedFault(Model):
    """What happens when the order of that number begins. `target` is a process, a request's route, or empty.

    `seconds` is how long a process is down or stopped, or how long a run has run; `times` is how many requests fail.
    """

    order: int
    act: Act
    target: str = ""
    fault: str = ""
    seconds: float = 0
    times: int = 1

    @property
    def kind(self) -> str:
        """The act and its target, to count by; of a request fault the external service, not the route."""
        return " ".join(filter(None, (self.act, self.target.split(" ")[0].split(".")[0], self.fault)))

    @property
    def is_process_fault(self) -> bool:
        return self.act in PROCESS_FAULTS


class Plan(Model):
    seed: int
    capture: Literal["manual", "automatic"]
    execution: Execution = "regular"
    orders: tuple[PlannedOrder, ...]
    faults: tuple[PlannedFault, ...]

    @property
    def fingerprint(self) -> str:
        """The same for the same plan."""
        return sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @cached_property
    def faults_at(self) -> Mapping[int, Sequence[PlannedFault]]:
        """The faults by the number of the order with which they begin."""
        found = defaultdict(list)
        for fault in self.faults:
            found[fault.order].append(fault)
        return found

    @property
    def hot_units(self) -> int:
        return max(1, len(self.orders) // ORDERS_PER_HOT_UNIT)


def draw_plan(seed: int, orders: int, orders_per_fault: int, execution: Execution = "regular") -> Plan:
    """The plan of a seed for so many orders; even seeds capture automatically. `execution` is of their steps."""
    random = Random(seed)  # noqa: S311  (the same seed must draw the same plan)
    rush = range(int(orders * RUSH_PART))
    planned = tuple(_order(random, f"chaos-{seed}-{n}", RUSH_SHARE if n in rush else 0) for n in range(orders))
    faults = tuple(_faults(random, planned, range(0, orders, orders_per_fault)))
    capture: Final = "manual" if seed % 2 else "automatic"
    return Plan(seed=seed, capture=capture, execution=execution, orders=planned, faults=faults)


def _order(random: Random, order_id: str, rush: float) -> PlannedOrder:
    hot = random.random() < HOT_SHARE
    rushed = random.random() < rush
    cancels = 0 if random.random() < 0.7 else random.choice((1, 1, 1, 3))
    return PlannedOrder(
        order_id=order_id,
        card=_drawn(random, CARDS),
        street=_drawn(random, STREETS),
        product=HOT if hot else RUSH if rushed else random.choice("1234"),
        quantity=1 if hot else random.randint(1, 3),
        charges=_drawn(random, CHARGES),
        customer=_drawn(random, {"authenticates": 7, "fails": 1, "leaves": 2}),
        submits=_drawn(random, {1: 85, 2: 10, 4: 5}),
        cancels=tuple(round(max(0, random.uniform(-1, 4)), 2) for _ in range(cancels)),  # a fifth before it begins
        ships=random.random() < 0.35,
        second_card=_drawn(random, SECOND_CARDS),
        parcels=random.random() < 0.5,
        shorts=random.random() < 0.5,
        regrets=random.random() < 0.2,
        refunds=tuple(_refunds(random)),
    )


def _refunds(random: Random) -> Iterator[PlannedRefund]:
    """Often two at the same time, which together may want more than there is."""
    for number in range(_drawn(random, {0: 60, 1: 20, 2: 20})):
        quantity = _drawn(random, {0: 20, 1: 40, 2: 40})
        yield PlannedRefund(
            refund_id=f"r{number}",
            after=round(max(0, random.uniform(-1, 2)), 2),
            quantity=quantity,
            restock=random.random() < 0.6,
            amount=_drawn(random, {None: 80 if quantity else 0, "5.00": 10, "25.00": 10}),
        )


# Each fault, its shortest and longest seconds, and how often in a hundred it is drawn. A worker is stopped for longer
# than the 30 seconds of an attempt, so that it continues with late attempts.
FAULTS: Final[dict[tuple[Act, str, float, float], int]] = {
    ("kill", "worker", 0, 0): 12,
    ("stop", "worker", 33, 36): 3,
    ("restart", "worker", 0, 0): 2,
    ("kill", "postgres", 0, 2): 3,
    ("stop", "postgres", 2, 7): 2,
    ("cut", "postgres", 0, 0): 8,
    ("kill", "temporal", 0, 2): 3,
    ("stop", "temporal", 2, 7): 2,
    ("kill", "sandbox", 0, 2): 4,
    ("stop", "sandbox", 1, 4): 2,
    ("kill", "webhooks", 0, 2): 2,
    ("terminate", PROCESS_ORDER, 0, 3): 4,
    ("terminate", CANCEL_ORDER, 0, 0.3): 2,
    ("terminate", REFUND_ORDER, 0, 0.3): 2,
    ("cancel", PROCESS_ORDER, 0, 3): 6,
    ("reconcile", "", 0, 0): 3,
    ("request", "", 0, 0): 42,
}

CALLS: Final = {
    ("stripe", "POST /v1/payment_intents"): 3,
    ("stripe", "POST */confirm"): 4,
    ("stripe", "POST */capture"): 4,
    ("stripe", "POST */cancel"): 3,
    ("stripe", "POST /v1/refunds"): 3,
    ("stripe", "GET *"): 2,
    ("fulfillment", "POST /orders"): 3,
    ("fulfillment", "POST */cancel"): 2,
    ("email", "*"): 2,
    ("analytics", "*"): 1,
    ("webhooks", "*"): 2,
    ("webhooks", "order.*"): 2,
}
REQUEST_FAULTS: Final = {
    "reset_before": 3,
    "reset_after": 4,
    "hang_after": 3,
    "500": 2,
    "429": 2,
    "saved_500": 2,
    "500_in_vain": 1,
    "delay": 2,
}
SAVED: Final = {"saved_500", "500_in_vain"}  # Stripe keeps the answer under the idempotency key of a POST
MAX_SAVED: Final = 15  # hits; repeated answers take two of three, so that six keys of one call are spent
LATE: Final = ("delay", "duplicate", "reorder", "drop")  # for webhooks


def _faults(random: Random, planned: Sequence[PlannedOrder], orders: Sequence[int]) -> Iterator[PlannedFault]:
    kinds = random.sample([*FAULTS], min(len(FAULTS), len(orders)))  # one of each, if there are enough orders
    kinds += [_drawn(random, FAULTS) for _ in orders[len(kinds) :]]
    random.shuffle(kinds)
    for order, (act, target, least, most) in zip(orders, kinds, strict=True):
        seconds = round(random.uniform(least, most), 1)
        if act == "request":
            for _ in range(2):
                yield _request_fault(random, order)
        elif target in {CANCEL_ORDER, REFUND_ORDER}:
            later = (n for n in range(order, len(planned)) if _has_run(planned[n], target))
            if (found := next(later, None)) is not None:
                yield PlannedFault(order=found, act=act, target=target, seconds=seconds)
        else:
            where = f"{target}.{random.randrange(WORKERS)}" if target == "worker" else target
            yield PlannedFault(order=order, act=act, target=where, seconds=seconds)


def _has_run(order: PlannedOrder, workflow: str) -> bool:
    return bool(order.cancels if workflow == CANCEL_ORDER else order.refunds)


def _request_fault(random: Random, order: int) -> PlannedFault:
    service, route = _drawn(random, CALLS)
    fault = random.choice(LATE) if service == "webhooks" else _drawn(random, REQUEST_FAULTS)
    if fault in SAVED and (service != "stripe" or route.startswith("GET")):
        fault = "reset_after"
    times = random.randint(1, MAX_SAVED if fault in SAVED else 4)
    return PlannedFault(order=order, act="request", target=f"{service} {route}", fault=fault, times=times)


def _drawn(random: Random, weights: dict[T, int]) -> T:
    return random.choices([*weights], [*weights.values()])[0]
