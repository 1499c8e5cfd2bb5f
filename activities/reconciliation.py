"""What sagas alone cannot see: payments that are not what their orders say, and refunds that fail late.

Everything here finds; what is found is mended by the same idempotent activities as the sagas use, or told to a person.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import stripe
from temporalio import activity

from activities.payments import STANDING_REFUNDS, keep_refunds
from gateways.order_store import existing_row, read_rows, read_shop_id, write_event_once
from gateways.postgres import Database
from gateways.stripe import Intent, StripeGateway, order_of, shop_id_of
from orders.errors import Permanent, Unavailable
from orders.models import CLOSED, PAID, OrderRow, Status, UndoResult
from orders.money import show
from orders.reconciliation import Charge, Charges, OrderEvent, Problem, Remedy

PAGE: Final = 100
CHECKED: Final = 20  # payments in one attempt, each with two calls
LOOKS_FOR: Final = 15  # seconds, then the attempt is content with what it has seen: it ends after 30

OVER: Final = {"canceled", "processing"}  # nothing to give back, or nothing that can be given back yet

# What a person was told of today is not looked at again before tomorrow: it must not stand in the way of the others.
FIND_UNCHECKED: Final = """
    SELECT id FROM orders o
    WHERE payment_intent_id IS NOT NULL AND payment_checked_at IS NULL
      AND status IN ('processing', 'shipped', 'delivered', 'rejected', 'failed', 'cancelled')
      AND created_at < now() - $1::interval AND id > $2
      AND NOT EXISTS (
          SELECT 1 FROM reminders r
          WHERE r.key = 'payment:' || o.payment_intent_id AND r.at > now() - interval '1 day'
      )
    ORDER BY id LIMIT $3
"""

# Not where the state has changed meanwhile: what was checked is no longer what is.
MARK_CHECKED: Final = """
    UPDATE orders o SET payment_checked_at = now() FROM unnest($1::text[], $2::text[]) AS c (id, status)
    WHERE o.id = c.id AND o.status = c.status
"""

FIND_REFUNDS: Final = """
    SELECT order_id FROM refunds
    WHERE (status IN ('pending', 'requires_action') AND checked_at < now() - $1::interval)
       OR (status IN ('succeeded', 'failed', 'canceled')
           AND checked_at < now() - interval '1 day' AND at > now() - interval '30 days')
    GROUP BY order_id ORDER BY min(checked_at) LIMIT $2
"""

FIND_KEPT: Final = "SELECT DISTINCT payment_intent_id FROM refunds WHERE payment_intent_id = ANY($1::text[])"

FIND_REFUNDED: Final = "SELECT DISTINCT payment_intent_id FROM refunds WHERE order_id = $1"

# The customer must act, or the bank does not (docs.stripe.com/refunds); or it has failed for a payment that is not its
# order's, and so is not looked at any more, until later refunds make up for it or an operator has had a word about it.
# What a person was told of today must not stand in the way of the others.
FIND_STUCK_REFUNDS: Final = """
    SELECT p.key, r.id, r.order_id, r.amount, r.status, o.currency
    FROM refunds r JOIN orders o ON o.id = r.order_id CROSS JOIN concat('refund:', r.id, ':', r.status) AS p (key)
    WHERE (r.status = 'requires_action'
       OR (r.status = 'pending' AND r.at < now() - interval '7 days')
       OR (r.status IN ('failed', 'canceled') AND r.payment_intent_id IS DISTINCT FROM o.payment_intent_id
           AND r.amount > (
               SELECT coalesce(sum(s.amount), 0) FROM refunds s
               WHERE s.payment_intent_id = r.payment_intent_id AND s.attempt > r.attempt
               AND s.status IN ('succeeded', 'pending', 'requires_action')
           )
           AND NOT EXISTS (
               SELECT 1 FROM resolutions s WHERE s.order_id = r.order_id AND s.step = 'refund:' || r.id
           )))
       AND NOT EXISTS (SELECT 1 FROM reminders m WHERE m.key = p.key AND m.at > now() - interval '1 day')
    ORDER BY r.at LIMIT $1
"""

TAKE_DUE: Final = """
    SELECT key FROM unnest($1::text[]) AS p (key)
    WHERE NOT EXISTS (SELECT 1 FROM reminders r WHERE r.key = p.key AND r.at > now() - interval '1 day')
"""

REMIND: Final = "INSERT INTO reminders (key) VALUES ($1) ON CONFLICT (key) DO UPDATE SET at = now()"


class Reconciliation:
    """Compares orders with the payment provider.

    Raises, in all activities:
        Unavailable: PostgreSQL or Stripe.
    """

    def __init__(self, database: Database, gateway: StripeGateway, after: timedelta, window: timedelta) -> None:
        """Orders and payments are looked at `after` they began; payments are listed for one `window`."""
        self._database = database
        self._gateway = gateway
        self._after = after
        self._window = window

    # -------------------------------------------------------------------------------------------------------- payments

    @activity.defn
    async def check_charges(self, after: str) -> Charges:
        """From settled orders to their payments, by the stored id: a page of those not found in order so far."""
        async with self._database.transaction() as connection:
            ids = [row["id"] for row in await connection.fetch(FIND_UNCHECKED, self._after, after, CHECKED)]
            rows = await read_rows(connection, ids)
        seen: list[OrderRow] = []
        found: list[Charge] = []
        until = time.monotonic() + LOOKS_FOR
        for row in map(rows.__getitem__, ids):
            if time.monotonic() > until:
                break
            if charge := await self._check(row):
                found.append(charge)
            seen.append(row)
        wrong = {charge.order_id for charge in found}
        right = [row for row in seen if row.id not in wrong]
        async with self._database.transaction() as connection:
            await connection.execute(MARK_CHECKED, [each.id for each in right], [each.status for each in right])
            now = await read_rows(connection, wrong)
        # What has moved on meanwhile was not what it is, and is looked at again.
        still = tuple(charge for charge in found if now[charge.order_id].status is rows[charge.order_id].status)
        more = len(ids) == CHECKED or len(seen) < len(ids)
        return Charges(found=still, after=seen[-1].id if more else None)

    @activity.defn
    async def find_orphans(self, after: str) -> Charges:
        """From payments to their orders, by listing the recent ones: a page of those that no order answers for."""
        now = datetime.now(UTC)
        first, last = now - self._window, now - self._after
        intents = await self._gateway.list_between(first, last, after=after or None, limit=PAGE)
        claimed = {intent.id: order for intent in intents if (order := order_of(intent))}
        async with self._database.transaction() as connection:
            rows = await read_rows(connection, claimed.values())
            shop_id = await read_shop_id(connection)
            kept = {row["payment_intent_id"] for row in await connection.fetch(FIND_KEPT, list(claimed))}
        found: list[Charge] = []
        for intent in intents:
            order_id = claimed.get(intent.id)
            row = rows.get(order_id) if order_id else None
            if order_id and (charge := await self._orphan(intent, order_id, row, shop_id, is_kept=intent.id in kept)):
                found.append(charge)
        return Charges(found=tuple(found), after=intents[-1].id if len(intents) == PAGE else None)

    @activity.defn
    async def void_orphan(self, charge: Charge) -> UndoResult:
        """Give back a payment that is not its order's: void it, or refund what is left of it."""
        key = f"{charge.order_id}:{charge.payment_intent_id}"
        intent = await self._gateway.retrieve(charge.payment_intent_id)
        if intent.status not in {*OVER, "succeeded"}:
            intent = await self._gateway.void(key, intent.id)
        if intent.status not in {"canceled", "succeeded"}:
            raise Unavailable(f"stripe: cannot void yet, the payment {intent.status}", type="payment_not_voidable")
        if intent.status == "succeeded":
            await self._refund_orphan(charge.order_id, key, intent)
        note = f"the payment {intent.id}, which the order does not answer for, is {intent.status} and given back"
        async with self._database.transaction() as connection:
            await write_event_once(connection, charge.order_id, note)
        return UndoResult(note=note)

    async def _refund_orphan(self, order_id: str, key: str, intent: Intent) -> None:
        """Refund what is left, and keep the refunds under the order that the payment names: they may fail later."""
        async with self._database.transaction() as connection:
            await existing_row(connection, order_id)  # what was charged for no order is a person's matter
        refunds = await self._gateway.refunds(intent.id)
        if _left(intent, refunds):
            if not all(refund.status in STANDING_REFUNDS for refund in refunds):
                raise Permanent(f"a refund of {intent.id} failed", type="refund_failed")
            refunds = [await self._gateway.refund(key, intent.id, attempt=1, known=len(refunds)), *refunds]
        async with self._database.transaction() as connection:
            await keep_refunds(connection, order_id, intent.id, refunds)

    async def _check(self, row: OrderRow) -> Charge | None:
        """What is wrong with the payment of a settled order."""
        intent_id = row.payment_intent_id or ""
        intent = await self._gateway.find(intent_id)
        if intent is None:
            return _charge("alert", row.id, intent_id, f"of order {row.id} is not known to Stripe")
        left = await self._left_of(intent)
        if row.status in CLOSED:
            gone = intent.status == "canceled" or (intent.status == "succeeded" and not left)
            if gone or row.settled_by_hand:
                return None
            text = f"of order {row.id}, which is {row.status}, is {intent.status}"
            return _charge("void_payment", row.id, intent_id, text)
        # What was refunded by hand is the shop's own affair, be it a part, or goods that came back.
        if intent.amount_received == row.total and (left or row.status in (Status.SHIPPED, Status.DELIVERED)):
            return None
        paid = show(left, row.currency)
        text = f"of order {row.id} over {show(row.total, row.currency)} has {paid} charged"
        return _charge("alert", row.id, intent_id, text)

    async def _orphan(
        self, intent: Intent, order_id: str, row: OrderRow | None, shop_id: str, *, is_kept: bool
    ) -> Charge | None:
        """What is to become of a payment that names an order; None if that order answers for it, or may yet.

        Only what this shop has created itself is given back. What was made by hand for an order of ours is told;
        all else is of others, who share the account. What was given back is looked at until its refund `is_kept`.
        """
        if row and (row.payment_intent_id == intent.id or row.status not in CLOSED | PAID):
            return None
        made_by = shop_id_of(intent)
        if made_by not in ((None, shop_id) if row else (shop_id,)):
            return None
        captured = intent.status == "succeeded"
        is_given_back = captured and not await self._left_of(intent)
        if intent.status in OVER or (is_given_back and (row is None or made_by is None or is_kept)):
            return None
        if made_by is None:
            return _charge(
                "alert", order_id, intent.id, f"of order {order_id} was made by hand, and is {intent.status}"
            )
        if row is None and captured:
            return _charge("alert", order_id, intent.id, f"was captured for {order_id}, which is no order")
        return _charge("void_orphan", order_id, intent.id, f"is {intent.status}, but {order_id} does not answer for it")

    async def _left_of(self, intent: Intent) -> int:
        """What is left of a charge after its refunds, in minor units."""
        if not intent.amount_received:
            return 0
        return _left(intent, await self._gateway.refunds(intent.id))

    # --------------------------------------------------------------------------------------------------------- refunds

    @activity.defn
    async def find_refunds(self, limit: int) -> Sequence[str]:
        """The orders with a refund that is not final, or that may still fail; those last looked at longest ago."""
        async with self._database.transaction() as connection:
            return [row["order_id"] for row in await connection.fetch(FIND_REFUNDS, self._after, limit)]

    @activity.defn
    async def follow_refunds(self, order_id: str) -> Sequence[str]:
        """Bring the refunds of an order up to date, also those made by hand: what changed, in words."""
        async with self._database.transaction() as connection:
            payments = [row["payment_intent_id"] for row in await connection.fetch(FIND_REFUNDED, order_id)]
        changed: list[str] = []
        for intent_id in payments:
            refunds = await self._gateway.refunds(intent_id)
            async with self._database.transaction() as connection:
                changed += await keep_refunds(connection, order_id, intent_id, refunds)
        return [f"order {order_id}: {what}" for what in changed]

    @activity.defn
    async def find_stuck_refunds(self, limit: int) -> Sequence[Problem]:
        """Refunds that wait for the customer or for a bank that has had its time, and those of orphans that failed."""
        async with self._database.transaction() as connection:
            found = await connection.fetch(FIND_STUCK_REFUNDS, limit)
        return [
            Problem(
                key=each["key"],
                order_id=each["order_id"],
                text=f"the refund {each['id']} of order {each['order_id']} over "
                f"{show(each['amount'], each['currency'])} {_state(each['status'])}",
            )
            for each in found
        ]

    # ---------------------------------------------------------------------------------------------------------- people

    @activity.defn
    async def note_event(self, event: OrderEvent) -> None:
        """Write down what was done for an order, once."""
        async with self._database.transaction() as connection:
            await write_event_once(connection, event.order_id, event.why)

    @activity.defn
    async def unreported_problems(self, problems: Sequence[Problem]) -> Sequence[str]:
        """The keys of those that nobody was told of within a day."""
        async with self._database.transaction() as connection:
            return [row["key"] for row in await connection.fetch(TAKE_DUE, [problem.key for problem in problems])]

    @activity.defn
    async def mark_alerted(self, key: str) -> None:
        """A person was told."""
        async with self._database.transaction() as connection:
            await connection.execute(REMIND, key)


def _left(intent: Intent, refunds: Sequence[stripe.Refund]) -> int:
    return intent.amount_received - sum(each.amount for each in refunds if each.status in STANDING_REFUNDS)


def _state(refund_status: str) -> str:
    return refund_status if refund_status in ("failed", "canceled") else f"is still {refund_status}"


def _charge(remedy: Remedy, order_id: str, intent_id: str, what: str) -> Charge:
    text = f"the payment {intent_id} {what}"
    return Charge(order_id=order_id, payment_intent_id=intent_id, remedy=remedy, description=text)
