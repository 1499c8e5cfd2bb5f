"""The refunds of parts of an order, as refund-order claims them: which units, which charges, how much.

A claim is made before any money moves. What is claimed or made counts against what was ordered and paid; what was
withdrawn does not. Every function that takes an order row expects it locked: see order_store.lock_row.
"""

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Final, NamedTuple

from gateways.lost_stock import recount_lost
from gateways.order_store import write_event
from orders import money
from orders.errors import InvalidInput, Permanent
from orders.models import (
    CLOSED,
    KEPT,
    OrderRow,
    Refund,
    RefundCharge,
    RefundClaim,
    RefundKey,
    RefundLine,
    RefundReason,
    Status,
)
from orders.money import show
from orders.parcels import Shortage
from orders.reconciliation import Page
from orders.refunds import FAILED, STANDING, ByHand, paid_elsewhere

if TYPE_CHECKING:
    import asyncpg

    from gateways.postgres import Connection

READ: Final = """
    SELECT r.request_hash, r.amount, r.status, r.refusal, r.reason, r.restocked, o.currency,
           (
               SELECT coalesce(sum(l.restock), 0) FROM order_refund_lines l
               WHERE (l.order_id, l.refund_id) = (r.order_id, r.refund_id)
           ) AS restock,
           (
               SELECT s.status FROM refunds s
               WHERE (s.order_id, s.payment_intent_id, s.refund_id) = (o.id, o.payment_intent_id, r.refund_id)
               ORDER BY s.attempt DESC LIMIT 1
           ) AS stripe_status,
           EXISTS (
               SELECT FROM resolutions s
               WHERE s.order_id = r.order_id AND s.step = 'refund:' || r.refund_id AND s.action = 'resolved'
           ) AND NOT EXISTS (
               SELECT FROM refunds s
               WHERE (s.order_id, s.payment_intent_id, s.refund_id) = (o.id, o.payment_intent_id, r.refund_id)
               AND s.status <> ALL($3::text[])
           ) AS paid_by_hand,
           coalesce((o.terms ->> 'notificationDeadline')::integer, 0) AS notification_deadline
    FROM order_refunds r JOIN orders o ON o.id = r.order_id
    WHERE (r.order_id, r.refund_id) = ($1, $2)
"""

READ_LINES: Final = """
    SELECT product_id, quantity, restock FROM order_refund_lines
    WHERE (order_id, refund_id) = ($1, $2) ORDER BY product_id
"""

READ_CHARGES: Final = """
    SELECT type, amount FROM order_refund_charges WHERE (order_id, refund_id) = ($1, $2) ORDER BY type
"""

# What can still be refunded of each product, and the price of one unit. Units that are back count, also of a claim that
# was withdrawn when its refund failed: they cannot come back again.
READ_UNITS_LEFT: Final = """
    SELECT i.product_id, i.price, i.quantity - (
        SELECT coalesce(sum(
            CASE WHEN r.status <> 'withdrawn' THEN l.quantity WHEN r.restocked THEN l.restock ELSE 0 END
        ), 0) FROM order_refund_lines l JOIN order_refunds r USING (order_id, refund_id)
        WHERE (l.order_id, l.product_id) = (i.order_id, i.product_id)
    ) AS left
    FROM order_items i WHERE i.order_id = $1
"""

# The same of each type of charge; a discount was not paid.
READ_CHARGES_LEFT: Final = """
    SELECT c.type, sum(c.amount) - (
        SELECT coalesce(sum(d.amount), 0) FROM order_refund_charges d JOIN order_refunds r USING (order_id, refund_id)
        WHERE d.order_id = $1 AND d.type = c.type AND r.status <> 'withdrawn'
    ) AS left
    FROM order_charges c WHERE c.order_id = $1 AND c.type <> 'discount' GROUP BY c.type
"""

# The refunds at Stripe that stand, as far as we know; a part is not named if it was not refunded by refund-order.
READ_STANDING: Final = """
    SELECT refund_id, amount, made_at FROM refunds
    WHERE order_id = $1 AND payment_intent_id = $2 AND status = ANY($3::text[])
"""

# What was paid for the products: their prices, less discounts, and tax.
READ_PAID_FOR_ITEMS: Final = """
    SELECT (SELECT coalesce(sum(price * quantity), 0)::bigint FROM order_items WHERE order_id = $1) AS items, (
        SELECT coalesce(sum(amount), 0)::bigint FROM order_charges WHERE order_id = $1 AND type = 'discount'
    ) AS discounts, (
        SELECT coalesce(sum(amount), 0)::bigint FROM order_charges WHERE order_id = $1 AND type = 'tax'
    ) AS tax
"""

READ_CLAIMED: Final = "SELECT refund_id, amount FROM order_refunds WHERE order_id = $1 AND status <> 'withdrawn'"

CLAIM: Final = """
    INSERT INTO order_refunds (order_id, refund_id, request_hash, amount, reason) VALUES ($1, $2, $3, $4, $5)
"""

CLAIM_LINES: Final = """
    INSERT INTO order_refund_lines (order_id, refund_id, product_id, quantity, restock)
    SELECT $1, $2, * FROM unnest($3::text[], $4::integer[], $5::integer[])
"""

CLAIM_CHARGES: Final = """
    INSERT INTO order_refund_charges (order_id, refund_id, type, amount)
    SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[])
"""

WITHDRAW: Final = """
    UPDATE order_refunds SET status = 'withdrawn', refusal = $3
    WHERE (order_id, refund_id) = ($1, $2) AND status = 'claimed'
    RETURNING refund_id
"""

FINISH: Final = """
    UPDATE order_refunds SET status = 'made', restocked = true
    WHERE (order_id, refund_id) = ($1, $2) AND status = 'claimed'
    RETURNING refund_id
"""

# The claims that are not as their refunds at Stripe are: one was made, and its refund has failed since; or a late
# attempt made one that was withdrawn. Of a closed order all that is left is refunded, so no part is claimed again.
FOLLOW: Final = """
    UPDATE order_refunds r
    SET status = CASE WHEN s.closed AND NOT s.stands THEN 'withdrawn' ELSE 'claimed' END,
        refusal = CASE WHEN s.closed AND NOT s.stands THEN $4 END
    FROM (
        SELECT f.refund_id, bool_or(f.status <> ALL($2::text[])) AS stands, o.status = ANY($3::text[]) AS closed
        FROM refunds f JOIN orders o ON (o.id, o.payment_intent_id) = (f.order_id, f.payment_intent_id)
        WHERE o.id = $1 AND f.refund_id IS NOT NULL
        GROUP BY f.refund_id, o.status
    ) s
    WHERE (r.order_id, r.refund_id) = ($1, s.refund_id)
      AND CASE
          WHEN s.stands THEN r.status = 'withdrawn'
          WHEN s.closed THEN r.status <> 'withdrawn'
          ELSE r.status = 'made'
      END
      AND (s.stands OR NOT EXISTS (
          SELECT FROM resolutions w
          WHERE (w.order_id, w.step) = ($1, 'refund:' || r.refund_id) AND w.action = 'resolved'
      ))
    RETURNING r.refund_id, r.status
"""

FIND_CLAIMED: Final = """
    SELECT order_id, refund_id, at FROM order_refunds
    WHERE status = 'claimed' AND at < now() - $1::interval AND (at, order_id || ':' || refund_id) > ($2, $3)
    ORDER BY at, order_id || ':' || refund_id LIMIT $4
"""

READ_RESOLVED: Final = """
    SELECT refund_id, amount, at FROM order_refunds r
    WHERE r.order_id = $1 AND r.status <> 'withdrawn' AND EXISTS (
        SELECT FROM resolutions s
        WHERE s.order_id = $1 AND s.step = 'refund:' || r.refund_id AND s.action = 'resolved'
    )
"""

# Why an order that is not kept refunds nothing.
NOT_REFUNDABLE: Final[Mapping[Status, RefundReason]] = {
    Status.PENDING: RefundReason.NOT_PAID,
    Status.CAPTURING: RefundReason.NOT_PAID,
    Status.UNDOING: RefundReason.NOT_PAID,
    Status.CANCELLING: RefundReason.ORDER_CANCELLED,
    Status.CANCELLED: RefundReason.ORDER_CANCELLED,
    Status.REJECTED: RefundReason.ORDER_REJECTED,
    Status.FAILED: RefundReason.ORDER_FAILED,
}


class _Asked(NamedTuple):
    """What a refund means for its order, in minor units."""

    lines: Sequence[RefundLine]
    charges: Mapping[str, int]
    amount: int

    @property
    def hash(self) -> str:
        """The same for every request that means the same."""
        meaning = [[line.model_dump() for line in self.lines], sorted(self.charges.items()), self.amount]
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()


class _Left(NamedTuple):
    """What can still be refunded of an order."""

    units: Mapping[str, int]
    prices: Mapping[str, int]
    charges: Mapping[str, int]
    money: int


async def read_claim(connection: "Connection", key: RefundKey) -> RefundClaim | None:
    """The refund as its row has it; None: it was never claimed."""
    record = await connection.fetchrow(READ, key.order_id, key.refund_id, FAILED)
    return _claim(record) if record else None


async def existing_claim(connection: "Connection", key: RefundKey) -> RefundClaim:
    """The same of a refund that was claimed.

    Raises:
        Permanent: it was not.
    """
    claim = await read_claim(connection, key)
    if claim is None:
        raise Permanent(f"refund {key.refund_id} of order {key.order_id} was never claimed", type="refund_absent")
    return claim


async def claim(connection: "Connection", row: OrderRow, refund: Refund) -> RefundClaim:
    """Claim the units, charges and money of a refund, or refuse it by name. The same refund again: its claim."""
    before = await connection.fetchrow(READ, refund.order_id, refund.refund_id, FAILED)
    left = await _read_left(connection, row)
    try:
        asked = _asked(row, refund, left.prices)
    except InvalidInput as invalid:
        return _refused(RefundReason.INVALID_REQUEST, str(invalid))
    if before:
        if asked is None or asked.hash != before["request_hash"]:
            return _refused(RefundReason.REFUND_ID_CONFLICT, f"{refund.refund_id} was claimed for something else")
        return _claim(before)
    if row.status not in KEPT:
        return _refused(NOT_REFUNDABLE[row.status], f"the order is {row.status}")
    if asked is None:
        unknown = [line.product_id for line in refund.lines if line.product_id not in left.prices]
        return _refused(RefundReason.NOT_ORDERED, f"the order has no product {', '.join(unknown)}")
    return _refusal(row, asked, left) or await _write(connection, row, refund, asked)


async def withdraw(connection: "Connection", key: RefundKey, refusal: RefundReason) -> None:
    """Give up a claim: its units, charges and money can be refunded by others again.

    Units of an undone order that are lost because of it alone are back in stock.
    """
    if await connection.fetchval(WITHDRAW, key.order_id, key.refund_id, refusal):
        await write_event(connection, key.order_id, f"refund {key.refund_id} withdrawn: {refusal}")
        await recount_lost(connection, key.order_id)


async def finish(connection: "Connection", key: RefundKey) -> bool:
    """The money is on its way, and the units are back in stock. False: the refund is not claimed."""
    return await connection.fetchval(FINISH, key.order_id, key.refund_id) is not None


async def follow_claims(connection: "Connection", order_id: str) -> None:
    """Open or withdraw the claims whose refunds at Stripe say so, as the table `refunds` has them."""
    followed = await connection.fetch(FOLLOW, order_id, FAILED, CLOSED, RefundReason.ORDER_CANCELLED)
    for each in followed:
        await write_event(connection, order_id, f"refund {each['refund_id']} is now {each['status']}")
    if followed:
        await recount_lost(connection, order_id)


async def find_claimed(
    connection: "Connection", after: timedelta, page: Page, limit: int
) -> list[tuple[RefundKey, datetime]]:
    """The claims that were not finished within `after`, each with its time; the oldest first, from the page on."""
    found = await connection.fetch(FIND_CLAIMED, after, page.at, page.id, limit)
    return [(RefundKey(order_id=each["order_id"], refund_id=each["refund_id"]), each["at"]) for each in found]


async def read_refund(connection: "Connection", key: RefundKey) -> Refund | None:
    """What was asked for, as refund-order takes it; without the address, which is not kept. None: nothing was."""
    record = await connection.fetchrow(READ, key.order_id, key.refund_id, FAILED)
    if record is None:
        return None
    currency = record["currency"]
    return Refund(
        order_id=key.order_id,
        refund_id=key.refund_id,
        lines=tuple(await read_refunded_lines(connection, key)),
        charges=tuple(
            RefundCharge(type=each["type"], amount=money.to_decimal(each["amount"], currency))
            for each in await connection.fetch(READ_CHARGES, key.order_id, key.refund_id)
        ),
        amount=money.to_decimal(record["amount"], currency),
        reason=record["reason"],
    )


async def read_refunded_lines(connection: "Connection", key: RefundKey) -> list[RefundLine]:
    """The units of the refund, in product order."""
    return [RefundLine(**dict(line)) for line in await connection.fetch(READ_LINES, key.order_id, key.refund_id)]


async def amount_of(connection: "Connection", row: OrderRow, shortage: Shortage) -> Decimal | None:
    """What is refunded for units that can never leave; None: their prices.

    With a discount or tax it is their share of what was paid for the products, never more than is left of the payment,
    nor more tax than is left of the tax. What was paid for shipping and fees stays.
    """
    (paid,) = await connection.fetch(READ_PAID_FOR_ITEMS, row.id)
    left = await _read_left(connection, row)
    prices = sum(units * left.prices[product] for product, units in shortage.lines.items())
    if not paid["discounts"] and not paid["tax"] and (prices <= left.money or left.money <= 0):
        return None
    items, net = paid["items"], paid["items"] + paid["discounts"]
    tax_left = max(0, left.charges.get("tax", 0))
    share = min(money.share_of(prices, items, net + paid["tax"]), money.share_of(prices, items, net) + tax_left)
    return money.to_decimal(max(0, min(share, left.money)), row.currency)


async def read_resolved(connection: "Connection", order_id: str, refunded: Container[str | None]) -> list[ByHand]:
    """The parts that operators have paid back by hand. Not so one that is `refunded`: its refund at Stripe stands."""
    found = await connection.fetch(READ_RESOLVED, order_id)
    return [ByHand(each["amount"], each["at"]) for each in found if each["refund_id"] not in refunded]


async def read_money_left(connection: "Connection", row: OrderRow) -> int:
    """What is neither claimed nor refunded of the payment, in minor units; less than 0: more was refunded than paid.

    A part whose claim is withdrawn, but whose refund stands, is refunded.
    """
    standing = await connection.fetch(READ_STANDING, row.id, row.payment_intent_id, STANDING)
    parts = {each["refund_id"]: each["amount"] for each in standing if each["refund_id"] is not None}
    in_dashboard = [ByHand(each["amount"], each["made_at"]) for each in standing if each["refund_id"] is None]
    resolved = await read_resolved(connection, row.id, parts)
    parts |= {each["refund_id"]: each["amount"] for each in await connection.fetch(READ_CLAIMED, row.id)}
    # Resolved parts are claimed too: of them only that counts which is not among the refunds in the dashboard.
    at_stripe = sum(parts.values()) - sum(each.amount for each in resolved)
    elsewhere = paid_elsewhere(resolved, in_dashboard)
    return int(row.total - at_stripe - sum(each.amount for each in in_dashboard) - elsewhere)


async def _read_left(connection: "Connection", row: OrderRow) -> _Left:
    units = await connection.fetch(READ_UNITS_LEFT, row.id)
    charges = await connection.fetch(READ_CHARGES_LEFT, row.id)
    return _Left(
        units={each["product_id"]: each["left"] for each in units},
        prices={each["product_id"]: each["price"] for each in units},
        charges={each["type"]: int(each["left"]) for each in charges},
        money=await read_money_left(connection, row),
    )


def _asked(row: OrderRow, refund: Refund, prices: Mapping[str, int]) -> _Asked | None:
    """The refund in the order's own prices and currency; None: it names a product that the order does not have.

    Raises:
        InvalidInput: an amount has more decimals than the currency, or is too large.
    """
    charges = {
        each.type.value: money.to_minor(each.amount, row.currency, f"charges: {each.type}") for each in refund.charges
    }
    given = None if refund.amount is None else money.to_minor(refund.amount, row.currency, "amount")
    if any(line.product_id not in prices for line in refund.lines):
        return None
    if given is not None:
        return _Asked(refund.lines, charges, given)
    # Nobody has paid for the products of a free order.
    paid = 0 if row.is_free else sum(line.quantity * prices[line.product_id] for line in refund.lines)
    return _Asked(refund.lines, charges, paid + sum(charges.values()))


def _refusal(row: OrderRow, asked: _Asked, left: _Left) -> RefundClaim | None:
    """Why this is more than can be refunded; None: it is not."""
    for line in asked.lines:
        if line.quantity > (units := left.units[line.product_id]):
            text = f"product {line.product_id}: {line.quantity} wanted, {units} left to refund"
            return _refused(RefundReason.MORE_THAN_ORDERED, text)
    for type_, amount in asked.charges.items():
        if amount > (rest := left.charges.get(type_, 0)):
            text = f"{type_}: {show(amount, row.currency)} wanted, {show(rest, row.currency)} left to refund"
            return _refused(RefundReason.MORE_THAN_CHARGED, text)
    if asked.amount > left.money:
        reason = RefundReason.MORE_THAN_LEFT if left.money > 0 else RefundReason.NOTHING_LEFT
        wanted, rest_of = show(asked.amount, row.currency), show(max(left.money, 0), row.currency)
        return _refused(reason, f"{wanted} wanted, {rest_of} left of the payment")
    return None


async def _write(connection: "Connection", row: OrderRow, refund: Refund, asked: _Asked) -> RefundClaim:
    key = (refund.order_id, refund.refund_id)
    await connection.execute(CLAIM, *key, asked.hash, asked.amount, refund.reason)
    await connection.execute(
        CLAIM_LINES,
        *key,
        [line.product_id for line in asked.lines],
        [line.quantity for line in asked.lines],
        [line.restock for line in asked.lines],
    )
    await connection.execute(CLAIM_CHARGES, *key, [*asked.charges], [*asked.charges.values()])
    await write_event(connection, row.id, f"refund {refund.refund_id} of {show(asked.amount, row.currency)} claimed")
    (record,) = await connection.fetch(READ, *key, FAILED)
    return _claim(record)


def _claim(record: "asyncpg.Record") -> RefundClaim:
    return RefundClaim(**{name: record[name] for name in RefundClaim.model_fields if name in record})


def _refused(reason: RefundReason, why: str) -> RefundClaim:
    return RefundClaim(status=None, refusal=reason, why=why)
