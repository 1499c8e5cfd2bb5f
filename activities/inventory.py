"""The stock of an order: reserved, sold, released.

Every movement is one transaction, which locks the order row first, then the rows of inventory in product order.

A product whose row is locked for long holds up its own orders only: few attempts at a time wait for it at PostgreSQL,
and only briefly. The others wait for their turn without a connection, or give up and are retried.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from temporalio import activity
from temporalio.exceptions import ApplicationError

from gateways.order_store import actor, existing_row, move_row, write_event
from gateways.postgres import LIMIT_LOCKS, Database
from orders.errors import Unavailable
from orders.models import CLOSED, ErrorCode, Line, OrderRow, ReservationRequest, Status, Terms
from orders.money import MAX_AMOUNT, show
from saga import Step, StopUndo, local_first

if TYPE_CHECKING:
    from gateways.postgres import Connection

MAX_TURNS: Final = 2  # attempts of one worker that move the stock of one product at the same time
TURN_SECONDS: Final = 0.5  # how long an attempt waits for its turn

INSERT_ORDER: Final = """
    INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms)
    VALUES ($1, $2, $3, 'pending', $4, $5, $6)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
"""

LOCK_STOCK: Final = """
    SELECT p.id, p.name, p.price, p.currency, i.quantity
    FROM inventory i JOIN products p ON p.id = i.product_id
    WHERE i.product_id = ANY($1::text[])
    ORDER BY i.product_id
    FOR UPDATE OF i
"""

HOLD_STOCK: Final = """
    WITH lines AS (
        SELECT * FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS l (product_id, quantity, price)
    ), stock AS (
        UPDATE inventory i SET quantity = i.quantity - l.quantity, reserved = i.reserved + l.quantity
        FROM lines l WHERE i.product_id = l.product_id
    ), items AS (
        INSERT INTO order_items (order_id, product_id, quantity, price)
        SELECT $1, product_id, quantity, price FROM lines
    ), holds AS (
        INSERT INTO reservations (order_id, product_id, quantity, state)
        SELECT $1, product_id, quantity, 'held' FROM lines
    ), event AS (
        INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        VALUES ($1, 'absent', 'pending', $6, 'stock reserved')
    )
    UPDATE orders SET total = $5 WHERE id = $1
"""

REJECT_ORDER: Final = """
    WITH event AS (
        INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        VALUES ($1, 'absent', 'rejected', $4, $2)
    )
    UPDATE orders SET status = 'rejected', closing = 'rejected', error_code = $2, error = $3 WHERE id = $1
"""

READ_RESERVED: Final = "SELECT product_id FROM reservations WHERE order_id = $1"

LOCK_RESERVED: Final = """
    SELECT i.product_id FROM inventory i JOIN reservations r ON r.product_id = i.product_id
    WHERE r.order_id = $1
    ORDER BY i.product_id
    FOR UPDATE OF i
"""

SELL_STOCK: Final = """
    WITH sold AS (
        UPDATE reservations SET state = 'sold' WHERE order_id = $1 AND state = 'held' RETURNING product_id, quantity
    )
    UPDATE inventory i SET reserved = i.reserved - s.quantity, sold = i.sold + s.quantity
    FROM sold s WHERE i.product_id = s.product_id
"""

# A held unit leaves `reserved`, a sold unit leaves `sold`, a released unit is back already. `sold` is for statistics: a
# wrong count must not keep stock from coming back.
RELEASE_STOCK: Final = """
    WITH open AS (
        SELECT product_id, quantity, state FROM reservations WHERE order_id = $1 AND state <> 'released' FOR UPDATE
    ), released AS (
        UPDATE reservations r SET state = 'released' FROM open
        WHERE r.order_id = $1 AND r.product_id = open.product_id
    )
    UPDATE inventory i
    SET quantity = i.quantity + open.quantity,
        reserved = i.reserved - CASE open.state WHEN 'held' THEN open.quantity ELSE 0 END,
        sold = greatest(0, i.sold - CASE open.state WHEN 'sold' THEN open.quantity ELSE 0 END)
    FROM open WHERE i.product_id = open.product_id
"""

# Closing an order and releasing its stock are one transaction: only a manual change of the database leaves any.
FIND_LEFTOVERS: Final = """
    SELECT DISTINCT r.order_id FROM reservations r JOIN orders o ON o.id = r.order_id
    WHERE r.state = 'held' AND o.status = ANY($2::text[]) LIMIT $1
"""


class Product(NamedTuple):
    """A product with its stock; `price` in minor units."""

    id: str
    name: str
    price: int
    currency: str
    quantity: int


class Refusal(NamedTuple):
    code: ErrorCode
    error: str


class Inventory:
    """Reserve, sell and release, each at most once for an order.

    Raises, in all activities:
        Unavailable: PostgreSQL; or too many orders wait for the same product.
    """

    def __init__(self, database: Database, terms: Terms) -> None:
        """`terms` are written on every new order row. A row that exists keeps the terms it has."""
        self._database = database
        self._terms = terms
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # those in use, by product

    @local_first
    @activity.defn
    async def reserve_stock(self, request: ReservationRequest) -> OrderRow:
        """Write the order row and hold the stock, or reject the order. Returns an existing row unchanged."""
        async with self._moving(line.product_id for line in request.lines) as connection:
            if not await self._insert_order(connection, request):
                return await existing_row(connection, request.order_id)
            products = await _lock_products(connection, request.lines)
            if refusal := refusal_for(request, products):
                await connection.execute(REJECT_ORDER, request.order_id, refusal.code, refusal.error, actor())
            else:
                await _hold(connection, request, products)
            return await existing_row(connection, request.order_id)

    @local_first
    @activity.defn
    async def finalize_order(self, order_id: str) -> OrderRow:
        """Turn the held stock of a paid order into sold stock: capturing -> processing."""
        async with self._moving(await self._reserved(order_id)) as connection:
            row = await existing_row(connection, order_id)
            if row.status is not Status.CAPTURING:
                return row
            await connection.fetch(LOCK_RESERVED, order_id)
            await connection.execute(SELL_STOCK, order_id)
            await move_row(connection, order_id, Status.CAPTURING, Status.PROCESSING, "paid, stock sold")
            return await existing_row(connection, order_id)

    @activity.defn
    async def release_stock(self, order_id: str) -> OrderRow:
        """Put the stock back and close the order: undoing -> its closing status, or cancelling -> cancelled."""
        async with self._moving(await self._reserved(order_id)) as connection:
            row = await existing_row(connection, order_id)
            closed = {Status.UNDOING: row.closing, Status.CANCELLING: Status.CANCELLED}.get(row.status)
            if closed and await _close(connection, row, closed):
                await _put_back(connection, order_id)
            return await existing_row(connection, order_id)

    @activity.defn
    async def release_leftovers(self, limit: int) -> Sequence[str]:
        """Put back the stock that closed orders still hold, of at most `limit` orders. Returns their ids."""
        async with self._database.transaction() as connection:
            orders = [row["order_id"] for row in await connection.fetch(FIND_LEFTOVERS, limit, CLOSED)]
        return [order_id for order_id in orders if await self._release_leftover(order_id)]

    async def _release_leftover(self, order_id: str) -> bool:
        async with self._moving(await self._reserved(order_id)) as connection:
            row = await existing_row(connection, order_id)
            if row.status not in CLOSED:
                return False
            await _put_back(connection, order_id)
            await write_event(connection, order_id, "put back the stock that the closed order still held")
        return True

    async def _reserved(self, order_id: str) -> list[str]:
        async with self._database.transaction() as connection:
            return [row["product_id"] for row in await connection.fetch(READ_RESERVED, order_id)]

    @asynccontextmanager
    async def _moving(self, products: Iterable[str]) -> AsyncIterator["Connection"]:
        """A transaction that moves the stock of these products, once it is its turn at each of them."""
        turns = [self._turns.setdefault(product, asyncio.Semaphore(MAX_TURNS)) for product in sorted({*products})]
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(TURN_SECONDS):
                    for turn in turns:
                        await stack.enter_async_context(turn)
            except TimeoutError:
                text = "other orders move the stock of the same product"
                raise Unavailable(text, type="stock_busy", expected=True) from None
            connection = await stack.enter_async_context(self._database.transaction())
            await connection.execute(LIMIT_LOCKS)
            yield connection

    async def _insert_order(self, connection: "Connection", request: ReservationRequest) -> bool:
        inserted = await connection.fetchval(
            INSERT_ORDER,
            request.order_id,
            request.customer_id,
            request.request_hash,
            request.currency,
            self._terms.capture_mode,
            self._terms.model_dump_json(),
        )
        return inserted is not None


def refusal_for(request: ReservationRequest, products: Mapping[str, Product]) -> Refusal | None:
    """Why the order must be rejected, naming every line that is a reason; None if it need not be."""
    unknown = [
        f"product {line.product_id} is not sold in {request.currency}"
        for line in request.lines
        if line.product_id not in products or products[line.product_id].currency != request.currency
    ]
    if unknown:
        return Refusal(ErrorCode.UNKNOWN_PRODUCT, "; ".join(unknown))
    wanted = [(line, products[line.product_id]) for line in request.lines]
    changed = [
        f"product {product.id} costs {show(product.price, product.currency)}"
        for line, product in wanted
        if line.unit_price not in (None, product.price)
    ]
    if changed:
        return Refusal(ErrorCode.PRICE_CHANGED, "; ".join(changed))
    short = [
        f"product {product.id}: {line.quantity} wanted, {product.quantity} available"
        for line, product in wanted
        if line.quantity > product.quantity
    ]
    if short:
        return Refusal(ErrorCode.OUT_OF_STOCK, "; ".join(short))
    if total_of(request.lines, products) > MAX_AMOUNT:
        return Refusal(ErrorCode.ORDER_TOO_LARGE, f"the most in one order is {show(MAX_AMOUNT, request.currency)}")
    return None


def total_of(lines: Sequence[Line], products: Mapping[str, Product]) -> int:
    """The price of the cart by the catalogue, in minor units. A client's price is compared, never charged."""
    return sum(line.quantity * products[line.product_id].price for line in lines)


async def _lock_products(connection: "Connection", lines: Sequence[Line]) -> dict[str, Product]:
    records = await connection.fetch(LOCK_STOCK, [line.product_id for line in lines])
    return {record["id"]: Product(**record) for record in records}


async def _hold(connection: "Connection", request: ReservationRequest, products: Mapping[str, Product]) -> None:
    await connection.execute(
        HOLD_STOCK,
        request.order_id,
        [line.product_id for line in request.lines],
        [line.quantity for line in request.lines],
        [products[line.product_id].price for line in request.lines],
        total_of(request.lines, products),
        actor(),
    )


async def _put_back(connection: "Connection", order_id: str) -> None:
    await connection.fetch(LOCK_RESERVED, order_id)
    await connection.execute(RELEASE_STOCK, order_id)


async def _close(connection: "Connection", row: OrderRow, closed: Status) -> bool:
    cancelled = closed is Status.CANCELLED
    return await move_row(
        connection,
        row.id,
        row.status,
        closed,
        "undone, stock back",
        error_code=ErrorCode.CANCELLED if cancelled else None,
        error="the order was cancelled" if cancelled else None,
    )


def _closed(row: OrderRow) -> str | StopUndo:
    """The release closes the order in the same transaction; the row tells whether it did."""
    if row.status in CLOSED:
        return f"stock back, the order is {row.status}"
    if row.parked_step:
        raise ApplicationError(f"the order is parked at {row.parked_step}", type="parked")
    return StopUndo(f"the order is {row.status}")


RESERVE: Final = Step(
    Inventory.reserve_stock,
    undo=Inventory.release_stock,
    deadline=timedelta(minutes=5),
    undoing="put the stock back, close the order",
    read=_closed,
    skippable=False,  # it closes the order row, and only a closed row ends an order
)
