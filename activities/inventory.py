"""The stock of an order: reserved, sold, released.

Every movement is one transaction, which locks order rows first, then the rows of inventory in product order. Orders
that arrive while a transaction reserves stock are reserved together in the next one.

A product whose row is locked for long holds up its own orders only: few attempts at a time wait for it at PostgreSQL,
and only briefly. The others wait for their turn without a connection, or give up and are retried.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple
from weakref import WeakValueDictionary

from temporalio import activity
from temporalio.exceptions import ApplicationError

from gateways import order_refunds
from gateways.group_commit import GroupCommit
from gateways.held_stock import read_held
from gateways.lost_stock import LOST
from gateways.order_store import actor, lock_row, move_row, read_rows, write_event
from gateways.postgres import LIMIT_LOCKS, LOCKED, PLAN_ONCE, Database
from orders.errors import Unavailable
from orders.holds import NO_LIMITS, Held, HoldLimits
from orders.models import (
    CLOSED,
    WAS_CANCELLED,
    ErrorCode,
    Line,
    OrderCharge,
    OrderRow,
    RefundClaim,
    RefundKey,
    ReservationRequest,
    Status,
    Terms,
)
from orders.money import MAX_AMOUNT, MIN_AMOUNT, show
from saga import Step, StopUndo, local_first

if TYPE_CHECKING:
    from gateways.postgres import Connection

MAX_TURNS: Final = 2  # attempts of one worker that sell or release the stock of one product at the same time
REMEMBER_SECONDS: Final = 1.0  # how long a worker does not wait for a row that was locked for long
BUSY: Final = "stock_busy"
HELD_UP: Final = frozenset({BUSY, LOCKED})  # by others that move the stock of the same product
TURN_SECONDS: Final = 0.5  # how long an attempt waits for its turn

INSERT_ORDERS: Final = """
    INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms)
    SELECT o.id, o.customer_id, o.request_hash, 'pending', o.currency, $5, $6::jsonb
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS o (id, customer_id, request_hash, currency)
    ORDER BY o.id
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

# Those of the products whose row somebody else has locked.
FIND_LOCKED: Final = """
    WITH free AS (
        SELECT product_id FROM inventory WHERE product_id = ANY($1::text[]) FOR SHARE SKIP LOCKED
    )
    SELECT product_id FROM inventory WHERE product_id = ANY($1::text[]) EXCEPT SELECT product_id FROM free
"""

# An order without an error holds its lines; one with an error is rejected, and has neither lines nor charges.
WRITE_DECISIONS: Final = """
    WITH decided AS (
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[])
            AS d (order_id, total, error_code, error, actor)
    ), lines AS (
        SELECT * FROM unnest($6::text[], $7::text[], $8::integer[], $9::bigint[])
            AS l (order_id, product_id, quantity, price)
    ), stock AS (
        UPDATE inventory i SET quantity = i.quantity - l.quantity, reserved = i.reserved + l.quantity
        FROM (SELECT product_id, sum(quantity) AS quantity FROM lines GROUP BY product_id) l
        WHERE i.product_id = l.product_id
    ), items AS (
        INSERT INTO order_items (order_id, product_id, quantity, price)
        SELECT order_id, product_id, quantity, price FROM lines
    ), charges AS (
        INSERT INTO order_charges (order_id, position, type, name, amount)
        SELECT * FROM unnest($10::text[], $11::smallint[], $12::text[], $13::text[], $14::bigint[])
    ), holds AS (
        INSERT INTO reservations (order_id, product_id, quantity, state)
        SELECT order_id, product_id, quantity, 'held' FROM lines
    ), event AS (
        INSERT INTO order_events (order_id, from_status, to_status, actor, why)
        SELECT order_id, 'absent', 'pending', actor, 'stock reserved' FROM decided WHERE error_code IS NULL
        UNION ALL
        SELECT order_id, 'absent', 'rejected', actor, error_code FROM decided WHERE error_code IS NOT NULL
    )
    UPDATE orders o
    SET total = d.total,
        status = CASE WHEN d.error_code IS NULL THEN 'pending' ELSE 'rejected' END,
        closing = CASE WHEN d.error_code IS NOT NULL THEN 'rejected' END,
        error_code = d.error_code,
        error = d.error
    FROM decided d WHERE o.id = d.order_id AND o.id = ANY($1::text[])
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

# A held unit leaves `reserved`, a sold unit leaves `sold`, a released unit is back already. Units that are lost are
# `sold` from now on. That is for statistics: a wrong count must not keep stock from coming back.
RELEASE_STOCK: Final = f"""
    WITH open AS (
        SELECT product_id, quantity - returned AS quantity, state, {LOST} AS lost
        FROM reservations r WHERE order_id = $1 AND state <> 'released' FOR UPDATE
    ), released AS (
        UPDATE reservations r SET state = 'released', written_off = open.lost FROM open
        WHERE r.order_id = $1 AND r.product_id = open.product_id
    )
    UPDATE inventory i
    SET quantity = i.quantity + open.quantity - open.lost,
        reserved = i.reserved - CASE open.state WHEN 'held' THEN open.quantity ELSE 0 END,
        sold = greatest(0, i.sold + open.lost - CASE open.state WHEN 'sold' THEN open.quantity ELSE 0 END)
    FROM open WHERE i.product_id = open.product_id
"""  # noqa: S608 (a constant of ours)

# Only what the order still keeps: the undo of a cancel puts back whatever is not back yet.
RETURN_STOCK: Final = """
    WITH back AS (
        SELECT l.product_id, least(l.restock, r.quantity - r.returned) AS units
        FROM order_refund_lines l JOIN reservations r USING (order_id, product_id)
        WHERE (l.order_id, l.refund_id) = ($1, $2) AND r.state = 'sold'
    ), returned AS (
        UPDATE reservations r SET returned = r.returned + back.units FROM back
        WHERE (r.order_id, r.product_id) = ($1, back.product_id)
    )
    UPDATE inventory i SET quantity = i.quantity + back.units, sold = greatest(0, i.sold - back.units)
    FROM back WHERE i.product_id = back.product_id
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


NOT_SEALED: Final = Refusal(
    ErrorCode.INVALID_ORDER,
    "the order came unencrypted, and PAYLOADS_MUST_BE_SEALED forbids it: give its client PAYLOAD_KEYS, and place the "
    "order under a new id",
)


class Asked(NamedTuple):
    """A reservation, who asks for it, for order_events, and why it is refused whatever the stock is."""

    request: ReservationRequest
    actor: str
    refusal: Refusal | None = None


class Decision(NamedTuple):
    """What becomes of a new order: it holds its lines, each at its price in `prices`, or it is refused."""

    asked: Asked
    refusal: Refusal | None
    lines: Sequence[Line] = ()
    prices: Sequence[int] = ()
    charges: Sequence[OrderCharge] = ()
    total: int = 0


class Inventory:
    """Reserve, sell and release, each at most once for an order.

    Raises, in all activities:
        Unavailable: PostgreSQL; or too many orders wait for the same product.
    """

    def __init__(
        self,
        database: Database,
        terms: Terms,
        *,
        hold_limits: HoldLimits = NO_LIMITS,
        must_be_sealed: bool = False,
        customer_tag: Callable[[str], str] | None = None,
    ) -> None:
        """Take stock under these rules.

        Args:
            database: where orders and stock are.
            terms: written on every new order row. A row that exists keeps the terms it has.
            hold_limits: the most that the unfinished orders of one customer may hold.
            must_be_sealed: whether an order that came to Temporal unencrypted is refused.
            customer_tag: what lists of runs call a customer; None: payloads are not encrypted.
        """
        self._database = database
        self._terms = terms
        self._hold_limits = hold_limits
        self._must_be_sealed = must_be_sealed
        self._customer_tag = customer_tag
        self._reservations = GroupCommit(self._reserve, lambda asked: len(asked.request.lines))
        self._locked: dict[str, float] = {}  # products whose row was locked for long: until when nobody waits for it
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()  # those in use, by product

    @local_first
    @activity.defn
    async def reserve_stock(self, request: ReservationRequest) -> OrderRow:
        """Write the order row and hold the stock, or reject the order. Returns an existing row unchanged.

        It is decided with the orders that arrive at the same time (see GroupCommit), and as if it were alone.
        """
        is_refused = self._must_be_sealed and not request.sealed
        row = await self._reservations.ask(Asked(request, actor(), NOT_SEALED if is_refused else None))
        tag = self._customer_tag(request.customer_id) if self._customer_tag and request.sealed else None
        return row.model_copy(update={"customer_tag": tag})

    @local_first
    @activity.defn
    async def finalize_order(self, order_id: str) -> OrderRow:
        """Turn the held stock of a paid order into sold stock: capturing -> processing."""
        async with self._moving(await self._reserved(order_id)) as connection:
            row = await lock_row(connection, order_id)
            if row.status is not Status.CAPTURING:
                return row
            await connection.fetch(LOCK_RESERVED, order_id)
            await connection.execute(SELL_STOCK, order_id)
            await move_row(connection, order_id, Status.CAPTURING, Status.PROCESSING, "paid, stock sold")
            return await lock_row(connection, order_id)

    @activity.defn
    async def release_stock(self, order_id: str) -> OrderRow:
        """Put the stock back and close the order: undoing -> its closing status, or cancelling -> cancelled."""
        async with self._moving(await self._reserved(order_id)) as connection:
            row = await lock_row(connection, order_id)
            closed = {Status.UNDOING: row.closing, Status.CANCELLING: Status.CANCELLED}.get(row.status)
            if closed and await _close(connection, row, closed):
                await _put_back(connection, order_id)
            return await lock_row(connection, order_id)

    @activity.defn
    async def return_stock(self, key: RefundKey) -> RefundClaim:
        """Put back what a refund brings back, and finish it. Of an order that is undone nothing is put back twice."""
        async with self._moving(await self._reserved(key.order_id)) as connection:
            await lock_row(connection, key.order_id)
            claim = await order_refunds.existing_claim(connection, key)
            if not await order_refunds.finish(connection, key):
                return claim
            if claim.restock and not claim.restocked:
                await connection.fetch(LOCK_RESERVED, key.order_id)
                await connection.execute(RETURN_STOCK, key.order_id, key.refund_id)
            await write_event(connection, key.order_id, _made(key, claim))
            return await order_refunds.existing_claim(connection, key)

    @activity.defn
    async def release_leftovers(self, limit: int) -> Sequence[str]:
        """Put back the stock that closed orders still hold, of at most `limit` orders. Returns their ids.

        A locked product holds up its own orders only: the attempt fails after the others.
        """
        async with self._database.transaction() as connection:
            orders = [row["order_id"] for row in await connection.fetch(FIND_LEFTOVERS, limit, CLOSED)]
        released: list[str] = []
        held_up: Unavailable | None = None
        for order_id in orders:
            try:
                released += [order_id] if await self._release_leftover(order_id) else []
            except Unavailable as error:
                if error.type not in HELD_UP:
                    raise
                held_up = error
        if held_up:
            raise held_up
        return released

    async def _release_leftover(self, order_id: str) -> bool:
        async with self._moving(await self._reserved(order_id)) as connection:
            row = await lock_row(connection, order_id)
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
                raise _busy() from None
            connection = await stack.enter_async_context(self._database.transaction())
            await connection.execute(LIMIT_LOCKS)
            yield connection

    async def _reserve(self, batch: Sequence[Asked]) -> Sequence[OrderRow | Unavailable | None]:
        """Decide all orders of a batch; only those for a locked product, if there is one (None for the others)."""
        wanted = _products_of(*batch)
        locked = await self._find_locked(wanted & self._remembered())
        if not locked:
            try:
                return await self._reserve_together(batch)
            except Unavailable as error:
                if error.type != LOCKED or not (locked := await self._find_locked(wanted)):
                    raise
        return [None if locked.isdisjoint(_products_of(asked)) else _busy() for asked in batch]

    async def _reserve_together(self, batch: Sequence[Asked]) -> Sequence[OrderRow]:
        first: dict[str, Asked] = {}
        for asked in batch:
            first.setdefault(asked.request.order_id, asked)
        async with self._database.transaction() as connection:
            await connection.execute(f"{LIMIT_LOCKS}; {PLAN_ONCE}")
            inserted = await self._insert_orders(connection, first.values())
            new = [asked for order_id, asked in first.items() if order_id in inserted]
            held = await self._read_held(connection, new)
            products = await _lock_products(connection, _products_of(*new))
            await _write(connection, decide(new, products, self._hold_limits, held))
            rows = await read_rows(connection, first)
        return [rows[asked.request.order_id] for asked in batch]

    async def _read_held(self, connection: "Connection", batch: Sequence[Asked]) -> dict[str, Held]:
        """What the customers of the batch hold; nobody needs to know it without a limit."""
        if not self._hold_limits.are_set:
            return {}
        return await read_held(connection, {asked.request.customer_id for asked in batch})

    def _remembered(self) -> frozenset[str]:
        """The products that nobody waits for now.

        It ends by itself: at a row that others wait for there is no free moment, so whoever only looks never gets it.
        """
        now = asyncio.get_running_loop().time()
        self._locked = {product: until for product, until in self._locked.items() if until > now}
        return frozenset(self._locked)

    async def _find_locked(self, products: frozenset[str]) -> frozenset[str]:
        """Those of the products that somebody else has locked. Nobody waits for them until they are free, or soon."""
        if not products:
            return products
        async with self._database.transaction() as connection:
            records = await connection.fetch(FIND_LOCKED, [*products])
        found = frozenset(record["product_id"] for record in records)
        until = asyncio.get_running_loop().time() + REMEMBER_SECONDS
        self._locked = {each: self._locked.get(each, until) for each in (self._locked.keys() - products) | found}
        return found

    async def _insert_orders(self, connection: "Connection", batch: Iterable[Asked]) -> set[str]:
        """Write the rows of those orders that have none. Returns their ids."""
        requests = [asked.request for asked in batch]
        records = await connection.fetch(
            INSERT_ORDERS,
            [request.order_id for request in requests],
            [request.customer_id for request in requests],
            [request.request_hash for request in requests],
            [request.currency for request in requests],
            self._terms.capture_mode,
            self._terms.model_dump_json(),
        )
        return {record["id"] for record in records}


def decide(
    batch: Iterable[Asked], products: Mapping[str, Product], limits: HoldLimits, held: Mapping[str, Held]
) -> list[Decision]:
    """What becomes of new orders for these products, each by what the ones before it leave.

    `held` is what the customers hold already, whom the `limits` allow so much at a time.
    """
    left, holding, decisions = dict(products), dict(held), []
    for asked in batch:
        lines, customer = asked.request.lines, asked.request.customer_id
        units = sum(line.quantity for line in lines)
        mine = holding.get(customer, Held())
        if refusal := asked.refusal or refusal_for(asked.request, left) or _beyond(limits, mine, units):
            decisions.append(Decision(asked, refusal))
            continue
        holding[customer] = Held(mine.orders + 1, mine.units + units)
        prices = [left[line.product_id].price for line in lines]
        decisions.append(Decision(asked, None, lines, prices, asked.request.charges, total_of(asked.request, left)))
        for line in lines:
            product = left[line.product_id]
            left[product.id] = product._replace(quantity=product.quantity - line.quantity)
    return decisions


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
    return _refusal_of_total(request, total_of(request, products))


def _refusal_of_total(request: ReservationRequest, total: int) -> Refusal | None:
    """Why nobody can pay this total. Discounts count against all that the order costs, not only its products."""
    currency = request.currency
    if total < 0:
        text = f"the discounts are {show(-total, currency)} more than the products and the other charges"
        return Refusal(ErrorCode.DISCOUNT_TOO_LARGE, text)
    if total > MAX_AMOUNT:
        return Refusal(ErrorCode.ORDER_TOO_LARGE, f"the most in one order is {show(MAX_AMOUNT, currency)}")
    if 0 < total < (least := MIN_AMOUNT[currency]):
        text = f"the total is {show(total, currency)}; the least that can be paid is {show(least, currency)}"
        return Refusal(ErrorCode.AMOUNT_TOO_SMALL, text)
    if total and not request.has_payment_method:
        text = f"the total is {show(total, currency)}, and there is no payment method"
        return Refusal(ErrorCode.PAYMENT_METHOD_REQUIRED, text)
    return None


def _beyond(limits: HoldLimits, held: Held, units: int) -> Refusal | None:
    excess = limits.excess(held, units)
    return Refusal(ErrorCode.CUSTOMER_LIMIT, excess) if excess else None


def total_of(request: ReservationRequest, products: Mapping[str, Product]) -> int:
    """The cart by the catalogue and the charges, in minor units. A client's price is compared, never charged."""
    lines = sum(line.quantity * products[line.product_id].price for line in request.lines)
    return lines + sum(charge.amount for charge in request.charges)


def _products_of(*batch: Asked) -> frozenset[str]:
    return frozenset(line.product_id for asked in batch for line in asked.request.lines)


def _busy() -> Unavailable:
    return Unavailable("other orders move the stock of the same product", type=BUSY, expected=True)


async def _lock_products(connection: "Connection", products: Iterable[str]) -> dict[str, Product]:
    return {record["id"]: Product(**record) for record in await connection.fetch(LOCK_STOCK, [*products])}


async def _write(connection: "Connection", decisions: Sequence[Decision]) -> None:
    held = [
        (each.asked.request.order_id, line, price)
        for each in decisions
        for line, price in zip(each.lines, each.prices, strict=True)
    ]
    charged = [
        (each.asked.request.order_id, position, charge)
        for each in decisions
        for position, charge in enumerate(each.charges, start=1)
    ]
    await connection.execute(
        WRITE_DECISIONS,
        [each.asked.request.order_id for each in decisions],
        [each.total for each in decisions],
        [each.refusal and each.refusal.code for each in decisions],
        [each.refusal and each.refusal.error for each in decisions],
        [each.asked.actor for each in decisions],
        [order_id for order_id, _, _ in held],
        [line.product_id for _, line, _ in held],
        [line.quantity for _, line, _ in held],
        [price for _, _, price in held],
        [order_id for order_id, _, _ in charged],
        [position for _, position, _ in charged],
        [charge.type for _, _, charge in charged],
        [charge.name for _, _, charge in charged],
        [charge.amount for _, _, charge in charged],
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
        error=WAS_CANCELLED if cancelled else None,
    )


def _made(key: RefundKey, claim: RefundClaim) -> str:
    units = f", {claim.restock} units back in stock" if claim.restock and not claim.restocked else ""
    return f"refund {key.refund_id} of {show(claim.amount, claim.currency or '')} made{units}"


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
