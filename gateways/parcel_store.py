"""The parcels of orders, and how an order follows them: what has left is kept, once, and moves the order row.

Every function that takes an order row expects it locked: see order_store.lock_row.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from gateways.order_store import move_row, write_event, write_event_once
from gateways.shortage_store import keep_shortage, read_shorted
from orders.errors import Unavailable
from orders.models import BEING_UNDONE, CLOSED, GONE, UNFINISHED, OrderRow, Status
from orders.parcels import Parcel, Shipment, Shortage, units_text

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection

UNTIL_SETTLED: Final = timedelta(seconds=15)  # when to look again at an unfinished order

LEFT: Final = ("shipping", "shipped", "delivered")  # what the warehouse calls an order of which something has left
ALL_LEFT: Final = ("shipped", "delivered")

SHORTAGE: Final = "shorted"  # the key of a problem that is none of a parcel

NO_LINES: Final = "the parcel has no lines, and not all of the order has left"

READ: Final = """
    SELECT s.*, (
        SELECT json_object_agg(l.product_id, l.quantity ORDER BY l.product_id) FROM shipment_lines l
        WHERE (l.order_id, l.shipment_id) = (s.order_id, s.id)
    ) AS lines
    FROM shipments s WHERE s.order_id = $1 ORDER BY s.at, s.id
"""

READ_ORDERED: Final = "SELECT product_id, quantity FROM order_items WHERE order_id = $1 ORDER BY product_id"

KEEP: Final = """
    INSERT INTO shipments AS s (order_id, id, carrier, tracking, tracking_url, shipped_at)
    VALUES ($1, $2, $3, $4, $5, now())
    ON CONFLICT (order_id, id) DO UPDATE SET carrier = excluded.carrier, tracking = excluded.tracking,
        tracking_url = excluded.tracking_url, shipped_at = now(), problem = NULL, problem_at = NULL
"""

KEEP_LINES: Final = """
    INSERT INTO shipment_lines (order_id, shipment_id, product_id, quantity)
    SELECT $1, $2, * FROM unnest($3::text[], $4::integer[])
"""

# A carrier may give its number later than the goods.
KEEP_TRACKING: Final = """
    UPDATE shipments SET carrier = coalesce($3, carrier), tracking = coalesce($4, tracking),
        tracking_url = coalesce($5, tracking_url), problem = $6,
        problem_at = CASE WHEN problem = $6 THEN problem_at WHEN $6 IS NOT NULL THEN now() END
    WHERE (order_id, id) = ($1, $2)
      AND (problem IS DISTINCT FROM $6 OR carrier IS NULL OR tracking IS NULL OR tracking_url IS NULL)
"""

# A problem that is said again is not new.
KEEP_PROBLEM: Final = """
    INSERT INTO shipments AS s (order_id, id, problem, problem_at) VALUES ($1, $2, $3, now())
    ON CONFLICT (order_id, id) DO UPDATE SET problem = excluded.problem, problem_at = now()
    WHERE s.problem IS DISTINCT FROM excluded.problem
"""

KEEP_DELIVERY: Final = """
    INSERT INTO shipments AS s (order_id, id, delivered_at) VALUES ($1, $2, now())
    ON CONFLICT (order_id, id) DO UPDATE SET delivered_at = coalesce(s.delivered_at, now())
"""

DELIVER_ALL: Final = """
    UPDATE shipments SET delivered_at = now()
    WHERE order_id = $1 AND shipped_at IS NOT NULL AND delivered_at IS NULL
"""


class KeptParcel(NamedTuple):
    """A parcel as the table has it. One that has no `lines` has the whole rest, if it `counts`."""

    id: str
    lines: Mapping[str, int]
    counts: bool
    delivered: bool
    carrier: str | None
    tracking: str | None
    tracking_url: str | None


class Goods(NamedTuple):
    """What of an order has left, in units by product."""

    ordered: Mapping[str, int]
    parcels: Sequence[KeptParcel]
    shorted: Mapping[str, int] = {}

    @property
    def counting(self) -> Sequence[KeptParcel]:
        return [each for each in self.parcels if each.counts]

    @property
    def rest(self) -> dict[str, int]:
        """What no parcel lists, and what is not shorted. A parcel without lines has it, if there is one."""
        rest = {product: quantity - self.shorted.get(product, 0) for product, quantity in self.ordered.items()}
        for parcel in self.counting:
            for product, quantity in parcel.lines.items():
                rest[product] -= quantity
        return {product: quantity for product, quantity in rest.items() if quantity}

    @property
    def still_there(self) -> Mapping[str, int]:
        """What has not left, and can."""
        return self.rest if all(each.lines for each in self.counting) else {}

    @property
    def have_left(self) -> bool:
        """Whether every unit has, except for those that never can."""
        return bool(self.counting) and not self.still_there

    @property
    def are_delivered(self) -> bool:
        return self.have_left and all(each.delivered for each in self.counting if self.lines_of(each))

    def lines_of(self, parcel: KeptParcel) -> Mapping[str, int]:
        return parcel.lines or self.rest


class Followed(NamedTuple):
    """What came of what the warehouse said: whether the order moved, the parcels that are new, and what is wrong.

    `missing` is what has not left though the warehouse says that all has, `can_never_leave`: nothing has left, and the
    warehouse has nothing to ship.
    """

    moved: bool = False
    shipped: Sequence[str] = ()
    shortage: Shortage | None = None
    problems: Mapping[str, str] = {}
    missing: Mapping[str, int] = {}
    can_never_leave: bool = False


async def read_goods(connection: "Connection", order_id: str) -> Goods:
    ordered = {row["product_id"]: row["quantity"] for row in await connection.fetch(READ_ORDERED, order_id)}
    parcels = [_kept(row) for row in await connection.fetch(READ, order_id)]
    return Goods(ordered, parcels, await read_shorted(connection, order_id))


async def follow_shipment(
    connection: "Connection", row: OrderRow, shipment: Shipment, event: Parcel | None = None, *, restock: bool
) -> Followed:
    """Keep the parcels that have left, and move the row after them.

    The warehouse's answer decides. A parcel that an `event` names is believed if the answer lists no parcels, and says
    that something has left. `restock`: what can never leave, and was not known yet, is back in stock.

    Raises:
        Unavailable: the order is unfinished, and its own run comes first; or the event names a parcel, and the answer
            says nothing of it yet.
    """
    if event and _comes_before(shipment) and row.status not in CLOSED:
        text = f"the warehouse answers that the order is {shipment.status}"
        raise Unavailable(text, type="goods_are_there", retry_after=UNTIL_SETTLED)
    if shipment.status not in LEFT and not (shipment.parcels or shipment.shorted or shipment.problem):
        return Followed()
    if row.status in UNFINISHED:
        raise Unavailable(f"the order is {row.status}", type="order_under_way", retry_after=UNTIL_SETTLED)
    if row.status in CLOSED:
        if shipment.status in LEFT:
            text = f"the warehouse says {shipment.status}, but the order is {row.status}"
            await write_event(connection, row.id, text)
        return Followed()
    return await _follow(connection, row, shipment, event, restock=restock)


async def follow_refusal(connection: "Connection", row: OrderRow, shipment: Shipment | None, *, restock: bool) -> None:
    """Move a row that is being cancelled: the warehouse refused, because goods have left."""
    if row.status is not Status.CANCELLING or row.parked_step:
        return
    if shipment and (shipment.status in LEFT or shipment.parcels):
        await _follow(connection, row, shipment, None, restock=restock)
    # Where that has not moved the row, the warehouse contradicts itself: reconcile-orders asks again.
    await move_row(connection, row.id, Status.CANCELLING, Status.SHIPPING, "already shipped")


async def follow_cancel(connection: "Connection", row: OrderRow, shipment: Shipment, *, restock: bool) -> None:
    """Keep what could never leave of a shipment that is cancelled, before the stock of its order is released."""
    if row.status not in BEING_UNDONE:
        return
    _, wrong = await _keep_shortage(connection, row, shipment, await read_goods(connection, row.id), restock=restock)
    if wrong:
        await write_event_once(connection, row.id, wrong)


async def _follow(
    connection: "Connection", row: OrderRow, shipment: Shipment, event: Parcel | None, *, restock: bool
) -> Followed:
    goods = await read_goods(connection, row.id)
    shortage, wrong = await _keep_shortage(connection, row, shipment, goods, restock=restock)
    if shortage:
        goods = await read_goods(connection, row.id)
    shipped, problems = await _keep_parcels(connection, row, shipment, event, goods)
    goods = await _keep_deliveries(connection, row, shipment, event)
    if wrong:
        problems[SHORTAGE] = wrong
        if goods.have_left:  # nobody asks about the order any more, so it is a problem of a parcel
            await connection.execute(KEEP_PROBLEM, row.id, goods.counting[-1].id, wrong)
    has_begun = row.status in GONE or shipment.status in LEFT or bool(goods.parcels)
    moved = await _move_after(connection, row.id, goods) if has_begun else False
    missing = goods.rest if shipment.status in ALL_LEFT and not goods.have_left else {}
    can_never_leave = not has_begun and bool(goods.shorted) and not goods.rest
    return Followed(moved, shipped, shortage, problems, missing, can_never_leave)


async def _keep_shortage(
    connection: "Connection", row: OrderRow, shipment: Shipment, goods: Goods, *, restock: bool
) -> tuple[Shortage | None, str | None]:
    """Keep what the warehouse says for the first time that it can never ship; and what is wrong with that, as text."""
    listed = {line.product_id: line.quantity for line in shipment.shorted}
    new = {product: units - goods.shorted.get(product, 0) for product, units in listed.items()}
    new = {product: units for product, units in new.items() if units > 0}
    excess = _excess(goods, new)
    shortage = await keep_shortage(connection, row.id, new, restock=restock) if new and not excess else None
    return shortage, excess or shipment.problem


async def _keep_parcels(
    connection: "Connection", row: OrderRow, shipment: Shipment, event: Parcel | None, goods: Goods
) -> tuple[list[str], dict[str, str]]:
    """Keep what has left. The ids of the parcels that are new; and what is wrong with a parcel, by its id."""
    shipped: list[str] = []
    problems: dict[str, str] = {}
    for parcel in _parcels(shipment, event):
        problem, is_new = await _keep(connection, row, shipment, parcel, goods)
        if problem:
            problems[parcel.shipment_id] = problem
        if is_new:
            shipped.append(parcel.shipment_id)
            goods = await read_goods(connection, row.id)
    return shipped, problems


async def _keep_deliveries(connection: "Connection", row: OrderRow, shipment: Shipment, event: Parcel | None) -> Goods:
    """Keep what has arrived, as far as no parcel of the answer says so. Returns the goods as they are now."""
    if shipment.parcels is None and shipment.status in LEFT and event and event.status == "delivered":
        await connection.execute(KEEP_DELIVERY, row.id, event.shipment_id)
    goods = await read_goods(connection, row.id)
    if goods.have_left and shipment.status == "delivered":
        await connection.execute(DELIVER_ALL, row.id)
        goods = await read_goods(connection, row.id)
    return goods


def _comes_before(shipment: Shipment) -> bool:
    """Whether the answer may be older than an event: the goods are still there, and it lists no parcels."""
    return shipment.parcels is None and shipment.status not in (*LEFT, "cancelled")


def _parcels(shipment: Shipment, event: Parcel | None) -> Sequence[Parcel]:
    """The parcels to believe in. A warehouse that lists none ships all at once, unless its events say otherwise."""
    if shipment.parcels is not None:
        return shipment.parcels
    if event and shipment.status in LEFT and (event.lines or event.status == "shipped"):
        return [event]
    return [Parcel(shipment_id=shipment.id)] if shipment.status in ALL_LEFT and event is None else []


async def _keep(
    connection: "Connection", row: OrderRow, shipment: Shipment, parcel: Parcel, goods: Goods
) -> tuple[str | None, bool]:
    """Keep a parcel, once. What is wrong with it, as text, if anything is; and whether it is new.

    Lines that are wrong do not count, but the parcel has left all the same.
    """
    is_new = False
    known = next((each for each in goods.parcels if each.id == parcel.shipment_id), None)
    lines = {line.product_id: line.quantity for line in parcel.lines or ()}
    tracking = (None, None) if row.is_erased else (parcel.tracking, parcel.tracking_url)
    details = (row.id, parcel.shipment_id, parcel.carrier, *tracking)
    if known and known.counts:
        differs = bool(lines) and lines != dict(goods.lines_of(known))
        later = f"the warehouse says later that the parcel has {units_text(lines)}" if differs else None
        problem = parcel.problem or later
        await connection.execute(KEEP_TRACKING, *details, problem)
    elif not lines and not parcel.problem and not goods.still_there:
        return None, False
    elif problem := parcel.problem or (_excess(goods, lines) if lines or shipment.status in ALL_LEFT else NO_LINES):
        await connection.execute(KEEP_PROBLEM, row.id, parcel.shipment_id, problem)
    else:
        await connection.execute(KEEP, *details)
        if lines:
            await connection.execute(KEEP_LINES, row.id, parcel.shipment_id, [*lines], [*lines.values()])
        is_new = True
    if parcel.status == "delivered":
        await connection.execute(KEEP_DELIVERY, row.id, parcel.shipment_id)
    return problem, is_new


def _excess(goods: Goods, lines: Mapping[str, int]) -> str | None:
    """What the lines have that the order has not, or that has left already."""
    rest = goods.still_there
    more = {product: quantity for product, quantity in lines.items() if quantity > rest.get(product, 0)}
    if not more:
        return None
    left = {product: rest.get(product, 0) for product in more}
    return f"the warehouse says {units_text(more)}, but the rest of the order is {units_text(left)}"


async def _move_after(connection: "Connection", order_id: str, goods: Goods) -> bool:
    """Move the row to where its goods are. A parcel whose lines do not count has left too.

    An order that has begun to leave ends as `shipped`, also if no parcel of it counts and the rest can never leave.
    """
    moved = False
    if goods.still_there:
        why = "the warehouse has shipped a part"
        moved |= await move_row(connection, order_id, Status.PROCESSING, Status.SHIPPING, why)
        moved |= await move_row(connection, order_id, Status.CANCELLING, Status.SHIPPING, why)
        return moved
    why = "the warehouse says shipped" if goods.have_left else "the warehouse can never ship the rest"
    moved |= await move_row(connection, order_id, Status.PROCESSING, Status.SHIPPED, why)
    moved |= await move_row(connection, order_id, Status.CANCELLING, Status.SHIPPED, why)
    moved |= await move_row(connection, order_id, Status.SHIPPING, Status.SHIPPED, why)
    if goods.are_delivered:
        moved |= await move_row(connection, order_id, Status.SHIPPED, Status.DELIVERED, "the warehouse says delivered")
    return moved


def _kept(row: "asyncpg.Record") -> KeptParcel:
    return KeptParcel(
        id=row["id"],
        lines=json.loads(row["lines"]) if row["lines"] else {},
        counts=row["shipped_at"] is not None,
        delivered=row["delivered_at"] is not None,
        carrier=row["carrier"],
        tracking=row["tracking"],
        tracking_url=row["tracking_url"],
    )
