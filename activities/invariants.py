"""What must hold of stock and money, whatever happened: read from PostgreSQL and from the neighbours' own books.

`RULES` are functions whose docstring is the rule in words and whose results are the violations. They judge orders whose
runs have closed; of an order that is still under way they judge only what holds at any moment.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from orders.models import CLOSED, Model, Status

if TYPE_CHECKING:
    import asyncpg

SOLD: Final = frozenset({Status.PROCESSING, Status.SHIPPED, Status.DELIVERED})

READ_ORDERS: Final = """
    SELECT id, status, total,
           ARRAY(SELECT step FROM resolutions r WHERE r.order_id = o.id AND r.action <> 'retry') AS settled,
           ARRAY(SELECT kind FROM notices n WHERE n.order_id = o.id) AS notices
    FROM orders o WHERE $1::text[] IS NULL OR id = ANY($1)
"""

READ_RESERVATIONS: Final = """
    SELECT order_id, product_id, quantity, state FROM reservations WHERE $1::text[] IS NULL OR order_id = ANY($1)
"""

READ_STOCK: Final = """
    SELECT i.product_id, i.quantity, i.reserved,
           coalesce(sum(r.quantity) FILTER (WHERE r.state = 'held'), 0)::integer AS held,
           coalesce(sum(r.quantity) FILTER (WHERE r.state = 'sold'), 0)::integer AS sold
    FROM inventory i LEFT JOIN reservations r USING (product_id)
    GROUP BY i.product_id
"""


class Stock(Model):
    """Units of one product: on the shelf and set aside by its own row; held and sold by the reservations."""

    product_id: str
    quantity: int
    reserved: int
    held: int
    sold: int

    @property
    def units(self) -> int:
        """All that ever came in: no order changes it."""
        return self.quantity + self.reserved + self.sold


class OrderEntry(Model):
    """An order row. `settled` are the undos that an operator settled by hand; `total` in minor units."""

    id: str
    status: Status
    total: int
    settled: tuple[str, ...]
    notices: tuple[str, ...]


class Reservation(Model):
    order_id: str
    product_id: str
    quantity: int
    state: Literal["held", "sold", "released"]


class Ledger(Model):
    """What PostgreSQL says, at one moment."""

    orders: tuple[OrderEntry, ...]
    reservations: tuple[Reservation, ...]
    stock: tuple[Stock, ...]

    @property
    def units(self) -> dict[str, int]:
        return {stock.product_id: stock.units for stock in self.stock}


class PaymentEntry(Model):
    """A PaymentIntent. Amounts in minor units; `authorised` is held and neither captured nor released."""

    id: str
    order: str | None
    authorised: int
    captured: int
    refunded: int
    refund_pending: int

    @property
    def net(self) -> int:
        """What the shop keeps, once refunds under way have arrived."""
        return self.captured - self.refunded - self.refund_pending


class Shipment(Model):
    order_id: str
    status: Literal["accepted", "cancelled", "shipped"]


class Books(Model):
    """What the payment provider and the warehouse say; the sandbox answers it at /_sandbox/books."""

    payments: tuple[PaymentEntry, ...]
    fulfillment: tuple[Shipment, ...]

    def payments_of(self, order_id: str) -> list[PaymentEntry]:
        return [payment for payment in self.payments if payment.order == order_id]

    def shipments_of(self, order_id: str) -> list[Shipment]:
        """Those that are on their way, or will be."""
        return [each for each in self.fulfillment if each.order_id == order_id and each.status != "cancelled"]


class Evidence(NamedTuple):
    """All that the rules judge by; `units` are those of an earlier ledger, plus what was restocked since."""

    ledger: Ledger
    books: Books
    units: Mapping[str, int]


class Finding(NamedTuple):
    """`subject` is an order id, or `product <id>`."""

    subject: str
    what: str


class Violation(NamedTuple):
    subject: str
    rule: str
    what: str


Rule = Callable[[Evidence], Iterable[Finding]]


async def read_ledger(connection: "asyncpg.Connection[asyncpg.Record]", orders: Sequence[str] | None = None) -> Ledger:
    """The ledger at one moment: of the named orders, or of all; the stock always as a whole."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return Ledger.model_validate(
            {
                "orders": [dict(row) for row in await connection.fetch(READ_ORDERS, orders)],
                "reservations": [dict(row) for row in await connection.fetch(READ_RESERVATIONS, orders)],
                "stock": [dict(row) for row in await connection.fetch(READ_STOCK)],
            }
        )


def violations(evidence: Evidence) -> list[Violation]:
    """Everything that is wrong."""
    return [Violation(found.subject, words(rule), found.what) for rule in RULES for found in rule(evidence)]


def words(rule: Rule) -> str:
    return rule.__doc__ or rule.__name__


def stock_is_conserved(evidence: Evidence) -> Iterator[Finding]:
    """No unit is lost or made up: available, reserved and sold add up as before."""
    for stock in evidence.ledger.stock:
        if stock.units != (before := evidence.units.get(stock.product_id)):
            yield Finding(f"product {stock.product_id}", f"{before} units became {stock.units}")


def reserved_is_what_is_held(evidence: Evidence) -> Iterator[Finding]:
    """What a product has reserved is what its orders hold, and nothing is below zero."""
    for stock in evidence.ledger.stock:
        if stock.reserved != stock.held or stock.quantity < 0:
            what = f"{stock.quantity} available, {stock.reserved} reserved, {stock.held} held"
            yield Finding(f"product {stock.product_id}", what)


def settled_orders_hold_nothing(evidence: Evidence) -> Iterator[Finding]:
    """A paid order's stock is sold, a closed order's is back."""
    due = dict.fromkeys(SOLD, "sold") | dict.fromkeys(CLOSED, "released")
    expected = {order.id: due[order.status] for order in evidence.ledger.orders if order.status in due}
    for each in evidence.ledger.reservations:
        if each.state != expected.get(each.order_id, each.state):
            yield Finding(each.order_id, f"{each.quantity} of product {each.product_id} are {each.state}")


def charged_once(evidence: Evidence) -> Iterator[Finding]:
    """An order is charged its total once, or nothing."""
    for order in evidence.ledger.orders:
        charges = [payment.net for payment in evidence.books.payments_of(order.id) if payment.net]
        if charges not in ([], [order.total]):
            yield Finding(order.id, f"charges of {charges}, the total is {order.total}")


def refunded_at_most_what_was_charged(evidence: Evidence) -> Iterator[Finding]:
    """No payment is refunded beyond its charge."""
    for order in evidence.ledger.orders:
        for payment in evidence.books.payments_of(order.id):
            if payment.net < 0:
                yield Finding(order.id, f"{payment.id}: {payment.captured} charged, more refunded")


def paid_orders_are_whole(evidence: Evidence) -> Iterator[Finding]:
    """A paid order is charged in full, is shipped, and its customer was written to or it is recorded why not."""
    for order in evidence.ledger.orders:
        if order.status not in SOLD:
            continue
        if (charged := sum(payment.net for payment in evidence.books.payments_of(order.id))) != order.total:
            yield Finding(order.id, f"{order.status}, but {charged} of {order.total} charged")
        if not evidence.books.shipments_of(order.id):
            yield Finding(order.id, f"{order.status}, but the warehouse has no shipment")
        if "order_confirmation" not in order.notices:
            yield Finding(order.id, f"{order.status}, but nothing tells of its confirmation")


def closed_orders_are_empty(evidence: Evidence) -> Iterator[Finding]:
    """A closed order has no charge, no authorisation and no shipment, save where an operator settled it by hand."""
    for order in evidence.ledger.orders:
        if order.status not in CLOSED:
            continue
        for payment in evidence.books.payments_of(order.id):
            if "void_payment" not in order.settled and (payment.net or payment.authorised):
                what = f"{order.status}, but {payment.id} has {payment.net} charged, {payment.authorised} authorised"
                yield Finding(order.id, what)
        if "cancel_fulfillment" not in order.settled and evidence.books.shipments_of(order.id):
            yield Finding(order.id, f"{order.status}, but the warehouse ships it")


def shipped_at_most_once(evidence: Evidence) -> Iterator[Finding]:
    """No order is shipped twice."""
    shipments = Counter(shipment.order_id for shipment in evidence.books.fulfillment if shipment.status != "cancelled")
    for order_id, count in shipments.items():
        if count > 1:
            yield Finding(order_id, f"{count} shipments")


RULES: Final[tuple[Rule, ...]] = (
    stock_is_conserved,
    reserved_is_what_is_held,
    settled_orders_hold_nothing,
    charged_once,
    refunded_at_most_what_was_charged,
    paid_orders_are_whole,
    closed_orders_are_empty,
    shipped_at_most_once,
)
