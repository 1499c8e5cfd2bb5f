"""What the invariants read: a snapshot of PostgreSQL, the records of external services, and the runs in Temporal."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol

from temporalio.client import Client, WorkflowExecutionStatus

from gateways.temporal import find_run
from orders.models import Model, Status
from orders.names import cancel_order_id

AT_ONCE: Final = 20  # orders whose runs are asked for together

# `unconfirmed:` is the alert for an order whose customer's address is lost: `told` is no state of a notification.
READ_ORDERS: Final = """
    SELECT o.id, o.status, o.total, o.payment_intent_id, o.parked_step IS NOT NULL AS parked,
           extract(epoch FROM now() - o.created_at) AS age,
           extract(epoch FROM now() - coalesce(
               (SELECT max(e.at) FROM order_events e WHERE e.order_id = o.id AND e.to_status IS NOT NULL), o.created_at
           )) AS unchanged,
           coalesce((o.terms ->> 'notificationDeadline')::integer, 0) AS notification_deadline,
           ARRAY(SELECT step FROM resolutions r WHERE r.order_id = o.id AND r.action <> 'retry') AS settled,
           ARRAY(
               SELECT ARRAY[n.kind, n.state] FROM notifications n WHERE n.order_id = o.id
               UNION SELECT ARRAY['order_confirmation', 'told'] FROM reminders m WHERE m.key = 'unconfirmed:' || o.id
           ) AS notifications,
           ARRAY(
               SELECT ARRAY[e.from_status, e.to_status] FROM order_events e
               WHERE e.order_id = o.id AND e.to_status IS NOT NULL ORDER BY e.id
           ) AS moves
    FROM orders o WHERE $1::text[] IS NULL OR o.id = ANY($1)
"""

READ_RESERVATIONS: Final = """
    SELECT order_id, product_id, quantity, state FROM reservations WHERE $1::text[] IS NULL OR order_id = ANY($1)
"""

READ_STOCK: Final = """
    SELECT i.product_id, i.quantity, i.reserved, i.sold,
           coalesce(sum(r.quantity) FILTER (WHERE r.state = 'held'), 0) AS held,
           coalesce(sum(r.quantity) FILTER (WHERE r.state = 'sold'), 0) AS kept
    FROM inventory i LEFT JOIN reservations r USING (product_id)
    GROUP BY i.product_id
"""

# One statement sees one moment, whatever transaction it is in.
READ_SNAPSHOT: Final = f"""
    SELECT json_build_object(
        'orders', (SELECT coalesce(json_agg(o), '[]') FROM ({READ_ORDERS}) o),
        'reservations', (SELECT coalesce(json_agg(r), '[]') FROM ({READ_RESERVATIONS}) r),
        'stock', CASE WHEN $2 THEN (SELECT coalesce(json_agg(s), '[]') FROM ({READ_STOCK}) s) ELSE '[]' END
    )
"""  # noqa: S608 (constants of ours)


class Reader(Protocol):
    """A connection to PostgreSQL, or a pool of them."""

    async def fetchval(self, query: str, /, *args: object) -> Any: ...  # noqa: ANN401  as asyncpg has it


class Stock(Model):
    """Units of one product: on the shelf, reserved and sold by its own row; held and kept by the reservations."""

    product_id: str
    quantity: int
    reserved: int
    sold: int
    held: int
    kept: int

    @property
    def units(self) -> int:
        """All that ever came in: no order changes it."""
        return self.quantity + self.held + self.kept


class OrderEntry(Model):
    """An order row. `settled` are the undos that an operator settled by hand; `total` in minor units.

    `age` is since its beginning, `unchanged` since its last change of state, both in seconds; `moves` are all changes;
    `notifications` are kinds of messages, and what became of each.
    """

    id: str
    status: Status
    total: int
    payment_intent_id: str | None
    parked: bool
    age: float
    unchanged: float
    notification_deadline: int
    settled: tuple[str, ...]
    notifications: tuple[tuple[str, str], ...]
    moves: tuple[tuple[str, str], ...]


class Reservation(Model):
    order_id: str
    product_id: str
    quantity: int
    state: Literal["held", "sold", "released"]


class DatabaseSnapshot(Model):
    """What PostgreSQL says, at one moment, of the orders that were `asked` for; None: of all."""

    asked: tuple[str, ...] | None = None
    orders: tuple[OrderEntry, ...]
    reservations: tuple[Reservation, ...]
    stock: tuple[Stock, ...]

    @property
    def units(self) -> dict[str, int]:
        return {stock.product_id: stock.units for stock in self.stock}

    def concerns(self, order_id: str | None) -> bool:
        return self.asked is None or order_id in self.asked


class PaymentEntry(Model):
    """A PaymentIntent. Amounts in minor units; `authorized` is held and neither captured nor released."""

    id: str
    order: str | None
    status: str
    authorized: int
    captured: int
    refunded: int
    refund_pending: int

    @property
    def net(self) -> int:
        """What the shop keeps, once refunds under way have arrived."""
        return self.captured - self.refunded - self.refund_pending

    @property
    def has_money(self) -> bool:
        return bool(self.net or self.authorized)


class Shipment(Model):
    order_id: str
    status: str


class Delivery(Model):
    """A message that arrived."""

    order_id: str
    kind: str


class KeyMisuse(Model):
    """A request to the payment provider whose idempotency key is missing, or was another request's."""

    order: str | None
    path: str
    what: str


class ProviderRecords(Model):
    """What the external services say; the sandbox answers all of it at /_sandbox/records. What is not known is empty.

    `deliveries` are all that arrived; None: nobody knows.
    """

    payments: tuple[PaymentEntry, ...]
    fulfillment: tuple[Shipment, ...]
    deliveries: tuple[Delivery, ...] | None = None
    key_misuses: tuple[KeyMisuse, ...] = ()


class OpenRun(Model):
    """A run about an order. `attempt` counts how often its workflow task was tried in a row, 0: none is due."""

    order_id: str
    workflow_id: str
    attempt: int


class Evidence(NamedTuple):
    """All that the rules judge by.

    `units` are those of an earlier snapshot, plus what was restocked since; empty: nothing earlier is known. `runs` are
    all open ones of these orders; None: nobody was asked. `patience` is how long an order may take, in seconds.
    """

    snapshot: DatabaseSnapshot
    books: ProviderRecords
    units: Mapping[str, int] = MappingProxyType({})
    runs: tuple[OpenRun, ...] | None = None
    patience: float = 0

    def payments(self) -> Iterator[tuple[OrderEntry, PaymentEntry]]:
        """The orders whose row names a payment, with that payment, if the provider has it."""
        found = {payment.id: payment for payment in self.books.payments}
        for order in self.snapshot.orders:
            if order.payment_intent_id in found:
                yield order, found[order.payment_intent_id]

    def shipments(self) -> Iterator[Shipment]:
        """Those that are on their way, or will be."""
        return (
            each
            for each in self.books.fulfillment
            if each.status != "cancelled" and self.snapshot.concerns(each.order_id)
        )

    def runs_of(self, order: OrderEntry) -> list[OpenRun]:
        return [run for run in self.runs or () if run.order_id == order.id]


async def read_snapshot(reader: Reader, orders: Sequence[str] | None = None, *, stock: bool = True) -> DatabaseSnapshot:
    """The snapshot at one moment: of the named orders, or of all; the stock as a whole, or not at all."""
    read: str = await reader.fetchval(READ_SNAPSHOT, orders, stock)
    snapshot = DatabaseSnapshot.model_validate_json(read)
    return snapshot.model_copy(update={"asked": None if orders is None else tuple(orders)})


async def read_runs(client: Client, orders: Sequence[str]) -> tuple[OpenRun, ...]:
    """The open runs of the orders.

    Raises:
        Unavailable: Temporal.
    """
    found: list[OpenRun | None] = []
    for start in range(0, len(orders), AT_ONCE):
        some = orders[start : start + AT_ONCE]
        ids = [(order_id, run) for order_id in some for run in (order_id, cancel_order_id(order_id))]
        found += await asyncio.gather(*(_read_run(client, *each) for each in ids))
    return tuple(run for run in found if run)


async def _read_run(client: Client, order_id: str, workflow_id: str) -> OpenRun | None:
    found = await find_run(client, workflow_id)
    if found is None or found.status is not WorkflowExecutionStatus.RUNNING:
        return None
    attempt = found.raw_description.pending_workflow_task.attempt
    return OpenRun(order_id=order_id, workflow_id=workflow_id, attempt=attempt)
