"""What the invariants read: a snapshot of PostgreSQL, the records of external services, and the runs in Temporal."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

from temporalio.client import Client

from gateways.temporal import find_run, find_schedule
from orders.models import Model, RefundStatus, Status
from orders.names import RUNNING, SCHEDULED, cancel_order_id, refund_order_id
from orders.refunds import FAILED

AT_ONCE: Final = 40  # runs that are read at the same time

# `unconfirmed:` is the key of the alert about an order whose customer's address is lost. It counts as a notification in
# the state `alerted`, which the table notifications does not have.
READ_ORDERS: Final = """
    SELECT o.id, o.status, o.total, o.currency, o.payment_intent_id, o.fulfillment_id,
           o.parked_step IS NOT NULL AS parked,
           o.fulfillment_requested_at IS NOT NULL AS requested,
           (SELECT coalesce(sum(l.quantity * l.price), 0) FROM order_items l WHERE l.order_id = o.id)
               + (SELECT coalesce(sum(c.amount), 0) FROM order_charges c WHERE c.order_id = o.id) AS price,
           extract(epoch FROM now() - o.created_at) AS age,
           extract(epoch FROM now() - coalesce(
               (SELECT max(e.at) FROM order_events e WHERE e.order_id = o.id AND e.to_status IS NOT NULL), o.created_at
           )) AS unchanged,
           coalesce((o.terms ->> 'notificationDeadline')::integer, 0) AS notification_deadline,
           ARRAY(SELECT step FROM resolutions r WHERE r.order_id = o.id AND r.action <> 'retry') AS settled,
           ARRAY(
               SELECT ARRAY[concat_ws(':', n.kind, nullif(n.about, '')), n.state] FROM notifications n
               WHERE n.order_id = o.id
               UNION SELECT ARRAY['order_confirmation', 'alerted'] FROM reminders m WHERE m.key = 'unconfirmed:' || o.id
           ) AS notifications,
           ARRAY(
               SELECT ARRAY[e.from_status, e.to_status] FROM order_events e
               WHERE e.order_id = o.id AND e.to_status IS NOT NULL ORDER BY e.id
           ) AS moves,
           (
               SELECT coalesce(json_agg(json_build_object(
                   'refund_id', f.refund_id, 'amount', f.amount, 'status', f.status, 'restocked', f.restocked,
                   'age', extract(epoch FROM now() - f.at), 'at', f.at,
                   'settled', (
                       SELECT r.action FROM resolutions r
                       WHERE r.order_id = o.id AND r.step = 'refund:' || f.refund_id AND r.action <> 'retry'
                       ORDER BY r.id DESC LIMIT 1
                   )
               )), '[]') FROM order_refunds f WHERE f.order_id = o.id
           ) AS refunds
    FROM orders o WHERE $1::text[] IS NULL OR o.id = ANY($1)
"""

READ_RESERVATIONS: Final = """
    SELECT v.order_id, v.product_id, v.quantity, v.state, v.returned, v.written_off,
           coalesce(sum(CASE WHEN f.status <> 'withdrawn' THEN l.quantity WHEN f.restocked THEN l.restock END), 0)
               AS refunded,
           coalesce(sum(l.restock) FILTER (WHERE f.restocked), 0) AS restocked,
           greatest(
               coalesce(sum(l.quantity - l.restock) FILTER (WHERE f.status <> 'withdrawn' OR f.restocked), 0), (
                   SELECT coalesce(sum(n.quantity), 0) FROM shortage_lines n JOIN shortages s USING (order_id, number)
                   WHERE (n.order_id, n.product_id) = (v.order_id, v.product_id) AND NOT s.restock
               )
           ) AS lost
    FROM reservations v
    LEFT JOIN order_refund_lines l USING (order_id, product_id) LEFT JOIN order_refunds f USING (order_id, refund_id)
    WHERE $1::text[] IS NULL OR v.order_id = ANY($1)
    GROUP BY v.order_id, v.product_id
"""

# Of orders that goods of have left, or should have.
READ_LINES: Final = """
    SELECT l.order_id, l.product_id, l.quantity AS ordered, coalesce((
               SELECT sum(e.quantity) FROM shipment_lines e
               WHERE (e.order_id, e.product_id) = (l.order_id, l.product_id)
           ), 0) AS listed, coalesce((
               SELECT sum(s.quantity) FROM shortage_lines s
               WHERE (s.order_id, s.product_id) = (l.order_id, l.product_id)
           ), 0) AS shorted,
           EXISTS (
               SELECT FROM shipments s WHERE s.order_id = l.order_id AND s.shipped_at IS NOT NULL
               AND NOT EXISTS (SELECT FROM shipment_lines e WHERE (e.order_id, e.shipment_id) = (s.order_id, s.id))
           ) AS rest_has_left
    FROM order_items l JOIN orders o ON o.id = l.order_id
    WHERE ($1::text[] IS NULL OR l.order_id = ANY($1))
      AND (o.status IN ('shipping', 'shipped', 'delivered')
           OR EXISTS (SELECT FROM shipments s WHERE s.order_id = o.id)
           OR EXISTS (SELECT FROM shortages s WHERE s.order_id = o.id))
"""

# The database itself counts what reservations hold and keep: the sums of all reservations take longer every day.
READ_STOCK: Final = """
    SELECT i.product_id, i.quantity, i.reserved, i.sold, coalesce(t.held, 0) AS held, coalesce(t.sold, 0) AS kept
    FROM inventory i LEFT JOIN reservation_totals t USING (product_id)
"""

# One statement reads one moment, whatever the isolation level of its transaction.
READ_SNAPSHOT: Final = f"""
    SELECT json_build_object(
        'orders', (SELECT coalesce(json_agg(o), '[]') FROM ({READ_ORDERS}) o),
        'reservations', (SELECT coalesce(json_agg(r), '[]') FROM ({READ_RESERVATIONS}) r),
        'lines', (SELECT coalesce(json_agg(l), '[]') FROM ({READ_LINES}) l),
        'stock', CASE WHEN $2 THEN (SELECT coalesce(json_agg(s), '[]') FROM ({READ_STOCK}) s) ELSE '[]' END
    )
"""  # noqa: S608 (constants of ours)


class Reader(Protocol):
    """A connection to PostgreSQL, or a pool of them."""

    async def fetchval(self, query: str, /, *args: object) -> Any: ...  # noqa: ANN401  as asyncpg has it


class Stock(Model):
    """Units of one product. Its own row says `quantity`, `reserved` and `sold`; reservations say `held` and `kept`."""

    product_id: str
    quantity: int
    reserved: int
    sold: int
    held: int
    kept: int

    @property
    def units(self) -> int:
        """All units that ever came in. No order changes this number."""
        return self.quantity + self.held + self.kept


class PartialRefund(Model):
    """The claim of a refund of a part of an order, made `at` a time. `amount` is in minor units, `age` in seconds.

    `settled` says how an operator decided about it. `restocked`: what comes back of it is back in stock.
    """

    refund_id: str
    amount: int
    status: RefundStatus
    restocked: bool
    settled: Literal["skip", "resolved"] | None
    age: float
    at: datetime


class OrderEntry(Model):
    """An order row. `total` is in minor units, as is `price`, the sum of its items and charges.

    `requested` says that the warehouse may have been asked to ship it; `settled` are the steps that an operator skipped
    or resolved.

    `age` is the time since the order began, `unchanged` the time since its last change of status, both in seconds.
    `moves` are all changes of status; `notifications` are the kinds of messages, each with its state. The kind of one
    about a parcel ends with its id.
    """

    id: str
    status: Status
    total: int
    currency: str
    payment_intent_id: str | None
    fulfillment_id: str | None
    requested: bool
    price: int
    parked: bool
    age: float
    unchanged: float
    notification_deadline: int
    settled: tuple[str, ...]
    notifications: tuple[tuple[str, str], ...]
    moves: tuple[tuple[str, str], ...]
    refunds: tuple[PartialRefund, ...]

    @property
    def changes(self) -> tuple[object, ...]:
        """Equal as long as neither the order nor a refund of it changes."""
        return self.moves, {each.refund_id: (each.status, each.settled, each.restocked) for each in self.refunds}


class Reservation(Model):
    """`returned` units of it came back, as its own row says; `written_off` ones of a released order did not.

    Refunds say how many are `refunded` and `restocked`; they and shortages say how many are `lost`.
    """

    order_id: str
    product_id: str
    quantity: int
    state: Literal["held", "sold", "released"]
    returned: int
    written_off: int
    refunded: int
    restocked: int
    lost: int


class LineEntry(Model):
    """A line of an order of which something has left: the units `ordered`, and those that its parcels have `listed`.

    `shorted` are the units that can never leave. `rest_has_left`: a parcel has the rest.
    """

    order_id: str
    product_id: str
    ordered: int
    listed: int
    shorted: int
    rest_has_left: bool

    @property
    def has_left(self) -> bool:
        """Whether every unit has, except for those that never can."""
        return self.rest_has_left or self.listed + self.shorted >= self.ordered


class DatabaseSnapshot(Model):
    """What PostgreSQL says at one moment of the orders `asked`; None: of all orders."""

    asked: tuple[str, ...] | None = None
    orders: tuple[OrderEntry, ...]
    reservations: tuple[Reservation, ...]
    lines: tuple[LineEntry, ...] = ()
    stock: tuple[Stock, ...]

    @property
    def claimed(self) -> tuple[tuple[str, str], ...]:
        """The refunds of parts of orders that are claimed and not made: order ids and refund ids."""
        return tuple(
            (order.id, each.refund_id) for order in self.orders for each in order.refunds if each.status == "claimed"
        )

    @property
    def units(self) -> dict[str, int]:
        return {stock.product_id: stock.units for stock in self.stock}

    def concerns(self, order_id: str | None) -> bool:
        return self.asked is None or order_id in self.asked


class RefundEntry(Model):
    """A refund of a payment. `refund_id` is that of the part of an order which it refunds; None: it refunds no part.

    `by_hand`: it was made in the dashboard.
    """

    id: str
    refund_id: str | None
    status: str
    amount: int
    by_hand: bool = False
    created: datetime

    @property
    def stands(self) -> bool:
        """Whether the customer has the money, or will have it. One of unknown status may have taken its part."""
        return self.status not in FAILED


class PaymentEntry(Model):
    """A PaymentIntent. Amounts in minor units; `authorized` is neither captured nor voided yet."""

    id: str
    order: str | None
    status: str
    currency: str
    authorized: int
    captured: int
    refunded: int
    refund_pending: int
    refunds: tuple[RefundEntry, ...] = ()

    def standing(self, refund_id: str) -> list[RefundEntry]:
        """The refunds of this part of the order which stand."""
        return [each for each in self.refunds if each.refund_id == refund_id and each.stands]

    @property
    def net(self) -> int:
        """What the shop keeps once all refunds under way have arrived."""
        return self.captured - self.refunded - self.refund_pending

    @property
    def has_money(self) -> bool:
        return bool(self.net or self.authorized)


class ShipmentEntry(Model):
    order_id: str
    status: str


class Delivery(Model):
    """A message that arrived. The kind of one about a parcel ends with its id."""

    order_id: str
    kind: str


class KeyMisuse(Model):
    """A request to the payment provider without an idempotency key, or with the key of another request."""

    order: str | None
    path: str
    what: str


class ProviderRecords(Model):
    """What the external services say; what is not known is empty. The sandbox knows all of it.

    `deliveries` are all messages that arrived; None: not known.
    """

    payments: tuple[PaymentEntry, ...]
    fulfillment: tuple[ShipmentEntry, ...]
    deliveries: tuple[Delivery, ...] | None = None
    key_misuses: tuple[KeyMisuse, ...] = ()


class OpenRun(Model):
    """An open run about an order. `attempt` counts the attempts of its current workflow task; 0: there is none."""

    order_id: str
    workflow_id: str
    state: str = RUNNING
    attempt: int


class ScheduleEntry(Model):
    """A Schedule that is not paused: its interval, and the time since its last success, both in seconds.

    `last` is the state of its newest run.
    """

    name: str
    every: float
    since_success: float
    last: str


class Evidence(NamedTuple):
    """Everything that the invariants read.

    `units` are those of an earlier snapshot, plus what was restocked since; empty: there is no earlier snapshot. `runs`
    are all open runs of these orders; None: not known. `patience` is how long an order may be unfinished, in seconds.
    """

    snapshot: DatabaseSnapshot
    records: ProviderRecords
    units: Mapping[str, int] = MappingProxyType({})
    runs: tuple[OpenRun, ...] | None = None
    schedules: tuple[ScheduleEntry, ...] = ()
    patience: float = 0

    def payments(self) -> Iterator[tuple[OrderEntry, PaymentEntry]]:
        """The orders with the payment whose id is on their row, if the provider has that payment."""
        found = {payment.id: payment for payment in self.records.payments}
        for order in self.snapshot.orders:
            if order.payment_intent_id in found:
                yield order, found[order.payment_intent_id]

    def shipments(self) -> Iterator[ShipmentEntry]:
        """The shipments that are not cancelled."""
        return (
            each
            for each in self.records.fulfillment
            if each.status != "cancelled" and self.snapshot.concerns(each.order_id)
        )

    def runs_of(self, order: OrderEntry) -> list[OpenRun]:
        return [run for run in self.runs or () if run.order_id == order.id]


async def read_snapshot(reader: Reader, orders: Sequence[str] | None = None, *, stock: bool = True) -> DatabaseSnapshot:
    """The snapshot of these orders, None: of all orders; with the stock of all products, or without stock."""
    text: str = await reader.fetchval(READ_SNAPSHOT, orders, stock)
    snapshot = DatabaseSnapshot.model_validate_json(text)
    return snapshot.model_copy(update={"asked": None if orders is None else tuple(orders)})


async def read_runs(
    client: Client, orders: Sequence[str], refunds: Iterable[tuple[str, str]] = ()
) -> tuple[OpenRun, ...]:
    """The open runs of the orders, and of these refunds of parts of them.

    Raises:
        Unavailable: Temporal.
    """
    ids = [(order_id, run) for order_id in orders for run in (order_id, cancel_order_id(order_id))]
    ids += [(order_id, refund_order_id(order_id, refund_id)) for order_id, refund_id in refunds]
    found: list[OpenRun | None] = []
    for start in range(0, len(ids), AT_ONCE):
        some = ids[start : start + AT_ONCE]
        found += await asyncio.gather(*(_read_run(client, *each) for each in some))
    return tuple(run for run in found if run)


async def read_schedules(client: Client) -> tuple[ScheduleEntry, ...]:
    """The Schedules that start runs: those that were applied, have an interval, and are not paused.

    Raises:
        Unavailable: Temporal.
    """
    found = [await find_schedule(client, name) for name in SCHEDULED]
    now = datetime.now(UTC)
    return tuple(
        ScheduleEntry(
            name=each.name,
            every=each.every.total_seconds(),
            since_success=(now - each.succeeded).total_seconds(),
            last=each.last,
        )
        for each in found
        if each and each.every and not each.paused
    )


async def _read_run(client: Client, order_id: str, workflow_id: str) -> OpenRun | None:
    found = await find_run(client, workflow_id)
    if found is None or not found.is_open:
        return None
    return OpenRun(order_id=order_id, workflow_id=workflow_id, state=found.state, attempt=found.attempt)
