"""What a saga cannot see: payments that contradict their orders, and refunds that fail days later.

These activities find the problems. The activities of the sagas correct them, or operators are alerted.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import stripe
from temporalio import activity

from activities import order_checks
from activities.order_checks import check_orders, raise_outage
from gateways import refund_store, reminders
from gateways.order_store import lock_row, read_rows, write_event_once
from gateways.postgres import Database
from gateways.reminders import not_alerted_today
from gateways.stripe import Intent, StripeGateway, is_by_hand, order_of, part_of, shop_id_of
from gateways.warning_store import find_warnings
from orders.commands import command_line
from orders.errors import Permanent, Unavailable
from orders.models import CLOSED, GONE, PAID, SETTLED, OrderRow, Status, UndoResult
from orders.money import show
from orders.reconciliation import OrderEvent, Problem, Remedy, StrayPayment, StrayPayments, Warned
from orders.refunds import FAILED, STANDING

if TYPE_CHECKING:
    import asyncpg

PAGE: Final = 100

NOT_GONE: Final = {Status.PENDING, Status.CAPTURING, Status.PROCESSING}

OVER: Final = {"canceled", "processing"}  # nothing to return, or nothing that can be returned yet

FIND_UNCHECKED: Final = f"""
    SELECT id FROM orders o
    WHERE payment_intent_id IS NOT NULL AND payment_checked_at IS NULL
      AND status = ANY($4::text[])
      AND created_at < now() - $1::interval AND id > $2
      AND {not_alerted_today("'payment:' || o.payment_intent_id")}
    ORDER BY id LIMIT $3
"""  # noqa: S608 (a constant of ours)


class Reconciliation:
    """Compares orders with their payments and refunds at Stripe.

    Raises, in all activities:
        Unavailable: PostgreSQL or Stripe.
    """

    def __init__(self, database: Database, gateway: StripeGateway, after: timedelta, window: timedelta) -> None:
        """Checks orders and payments that are older than `after`; lists payments that are younger than `window`."""
        self._database = database
        self._gateway = gateway
        self._after = after
        self._window = window

    # -------------------------------------------------------------------------------------------------------- payments

    @activity.defn
    async def check_payments(self, after: str) -> StrayPayments:
        """Compare a page of settled orders with their payments, by the stored id. Correct ones are checked once."""
        async with self._database.transaction() as connection:
            due = await connection.fetch(FIND_UNCHECKED, self._after, after, order_checks.PAGE, SETTLED)
            rows = await read_rows(connection, [row["id"] for row in due])

        def unread(row: OrderRow, error: Permanent | Unavailable) -> StrayPayment:
            return _unread(row.id, row.payment_intent_id or "", error)

        page = [rows[each["id"]] for each in due]
        found, next_after = await check_orders(self._database, page, self._check, unread, "payment_checked_at")
        return StrayPayments(found=found, after=next_after)

    @activity.defn
    async def find_orphans(self, after: str) -> StrayPayments:
        """Compare a page of recent payments with the orders that they name, to find orphan payments."""
        now = datetime.now(UTC)
        first, last = now - self._window, now - self._after
        intents = await self._gateway.list_between(first, last, after=after or None, limit=PAGE)
        claimed = {intent.id: order for intent in intents if (order := order_of(intent))}
        async with self._database.transaction() as connection:
            rows = await read_rows(connection, claimed.values())
            kept = await refund_store.find_kept(connection, claimed)
        found: list[StrayPayment] = []
        errors: dict[str, Permanent | Unavailable] = {}
        for intent in intents:
            order_id = claimed.get(intent.id)
            if order_id is None:
                continue
            try:
                stray = await self._orphan(intent, order_id, rows.get(order_id), is_kept=intent.id in kept)
            except (Permanent, Unavailable) as error:
                errors[intent.id] = error
                stray = _unread(order_id, intent.id, error)
            if stray:
                found.append(stray)
        raise_outage(errors.values(), len(claimed))
        return StrayPayments(found=tuple(found), after=intents[-1].id if len(intents) == PAGE else None)

    @activity.defn
    async def void_orphan(self, stray: StrayPayment) -> UndoResult:
        """Void an orphan payment, or refund what is left of it.

        Raises:
            Permanent: an earlier refund failed, or the order does not exist; an operator must decide.
        """
        intent = await self._gateway.void(stray.order_id, stray.payment_intent_id, attempt=1)
        if intent.status == "succeeded":
            await self._refund_orphan(stray.order_id, intent)
        note = f"the orphan payment {intent.id} is {'refunded' if intent.status == 'succeeded' else 'voided'}"
        async with self._database.transaction() as connection:
            await write_event_once(connection, stray.order_id, note)
        return UndoResult(note=note)

    async def _refund_orphan(self, order_id: str, intent: Intent) -> None:
        """Refund what is left, and keep the refunds under the order that the payment names: they may fail later."""
        async with self._database.transaction() as connection:
            await lock_row(connection, order_id)  # a payment for an order that does not exist is an operator's case
            standing = await refund_store.read_standing(connection, intent.id)
        refunds = await self._gateway.refunds(intent.id)
        refund_store.refuse_unknown(standing, refunds)
        if refund_store.left_of(intent, refunds) > 0:
            for refund in refunds:
                if refund.status not in STANDING and not is_by_hand(refund):
                    raise refund_store.refund_failed(refund)
            refunds = await self._gateway.refund(order_id, intent.id, attempt=1, known=refunds)
        await refund_store.save_refunds(self._database, order_id, intent.id, refunds)

    async def _check(self, row: OrderRow) -> StrayPayment | None:
        """What is wrong with the payment of a settled order; None if nothing is."""
        intent_id = row.payment_intent_id or ""
        intent = await self._gateway.find(intent_id)
        if intent is None:
            return _stray("alert", row.id, intent_id, f"of order {row.id} is not known to Stripe")
        refunds = await self._gateway.refunds(intent.id) if intent.amount_received else []
        left = refund_store.left_of(intent, refunds)
        if row.status in CLOSED:
            gone = intent.status == "canceled" or (
                intent.status == "succeeded" and left <= await self._paid_elsewhere(row, refunds)
            )
            if gone or row.settled_by_hand:
                return None
            text = f"of order {row.id}, which is {row.status}, is {intent.status}"
            return _stray("void_payment", row.id, intent_id, text)
        # A manual refund is the shop's own decision: a part of the payment, or all of it for goods that came back. So
        # is every refund of a part, also of all that was left, and also if an operator made it in the dashboard.
        is_kept = left or row.status in GONE or await self._is_of_a_part(row, refunds)
        if intent.amount_received == row.total and is_kept:
            return None
        paid = show(left, row.currency)
        text = f"of order {row.id} over {show(row.total, row.currency)} has {paid} charged"
        return _stray("alert", row.id, intent_id, text)

    async def _is_of_a_part(self, row: OrderRow, refunds: Sequence[stripe.Refund]) -> bool:
        """Whether the latest refund that has not failed is of a part, or is how an operator paid one."""
        standing = [refund for refund in refunds if refund.status not in FAILED]
        if not standing or part_of(standing[0]):
            return bool(standing)
        before = await self._paid_elsewhere(row, standing[1:])
        return before - await self._paid_elsewhere(row, standing) == standing[0].amount

    async def _paid_elsewhere(self, row: OrderRow, refunds: Sequence[stripe.Refund]) -> int:
        async with self._database.transaction() as connection:
            return await refund_store.read_paid_elsewhere(connection, row.id, refunds)

    async def _orphan(
        self, intent: Intent, order_id: str, row: OrderRow | None, *, is_kept: bool
    ) -> StrayPayment | None:
        """What to do with a payment that names an order; None if its id is on that order's row, or may still get there.

        Only payments that this shop created are returned. A payment without a shop that names one of our orders was
        made by hand, so operators are alerted. All others belong to other users of the Stripe account. A refunded
        payment is found until its refund `is_kept`.
        """
        if row and (row.payment_intent_id == intent.id or row.status not in CLOSED | PAID):
            return None
        made_by, shop_id = shop_id_of(intent), self._gateway.shop_id
        if made_by not in ((None, shop_id) if row else (shop_id,)):
            return None
        captured = intent.status == "succeeded"
        is_refunded = captured and not await self._left_of(intent)
        if intent.status in OVER or (is_refunded and (row is None or made_by is None or is_kept)):
            return None
        if made_by is None:
            return _stray("alert", order_id, intent.id, f"of order {order_id} was made by hand, and is {intent.status}")
        if row is None and captured:
            return _stray("alert", order_id, intent.id, f"was captured for {order_id}, which is no order")
        return _stray("void_orphan", order_id, intent.id, f"is {intent.status}, but is not the payment of {order_id}")

    async def _left_of(self, intent: Intent) -> int:
        """What is left of a payment after its refunds, in minor units."""
        if not intent.amount_received:
            return 0
        return refund_store.left_of(intent, await self._gateway.refunds(intent.id))

    # --------------------------------------------------------------------------------------------------------- refunds

    @activity.defn
    async def find_refunds(self, limit: int) -> Sequence[str]:
        """The orders with a refund whose status may change; those that were read longest ago come first."""
        async with self._database.transaction() as connection:
            return await refund_store.find_changeable(connection, self._after, limit)

    @activity.defn
    async def follow_refunds(self, order_id: str) -> Sequence[str]:
        """Read the refunds of an order at Stripe, also those made by hand. Returns what changed, as text."""
        async with self._database.transaction() as connection:
            payments = await refund_store.find_payments(connection, order_id)
        changed: list[str] = []
        for intent_id in payments:
            refunds = await self._gateway.refunds(intent_id)
            changed += await refund_store.save_refunds(self._database, order_id, intent_id, refunds)
        return [f"order {order_id}: {text}" for text in changed]

    @activity.defn
    async def find_stuck_refunds(self, limit: int) -> Sequence[Problem]:
        """Refunds that wait for the customer, or too long for a bank, and failed ones that nothing else reports."""
        async with self._database.transaction() as connection:
            found = await refund_store.find_stuck(connection, limit)
        return [
            Problem(
                key=each["key"],
                order_id=each["order_id"],
                text=f"the refund {_refund_name(each)} of order {each['order_id']} over "
                f"{show(each['amount'], each['currency'])} {_state(each['status'])}",
            )
            for each in found
        ]

    @activity.defn
    async def find_payment_warnings(self, limit: int) -> Sequence[Warned]:
        """Disputes, early fraud warnings and reviews that are open, or whose end was not reported."""
        async with self._database.transaction() as connection:
            found = await find_warnings(connection, limit)
        return [
            Warned(
                key=f"warning:{each['id']}:{each['status']}",
                order_id=each["order_id"],
                text=_warning_text(each),
                is_open=each["open"],
                is_reported=each["reported"],
            )
            for each in found
        ]

    # --------------------------------------------------------------------------------------------------------- reports

    @activity.defn
    async def note_event(self, event: OrderEvent) -> None:
        """Write what was done for an order to its events, once."""
        async with self._database.transaction() as connection:
            await write_event_once(connection, event.order_id, event.why)

    @activity.defn
    async def unreported_problems(self, keys: Sequence[str]) -> Sequence[str]:
        """Those of the keys of problems that operators were not alerted of within a day."""
        async with self._database.transaction() as connection:
            return await reminders.find_unreported(connection, keys)

    @activity.defn
    async def mark_alerted(self, key: str) -> None:
        """Record that operators were alerted of the problem."""
        async with self._database.transaction() as connection:
            await reminders.mark_alerted(connection, key)


def _warning_text(each: "asyncpg.Record") -> str:
    amount = f" over {show(each['amount'], each['currency'])}" if each["amount"] else ""
    text = f"{each['kind']} {each['id']} of order {each['order_id']}{amount} is {each['status']} ({each['reason']})"
    if each["open"] and each["order_status"] in NOT_GONE:
        text += f"; the goods have not left: `{command_line('cancel-order', each['order_id'])}` stops them"
    return text


def _refund_name(each: "asyncpg.Record") -> str:
    """By Stripe's id, and the shop's if it is of a part."""
    return f"{each['refund_id']} ({each['id']})" if each["refund_id"] else str(each["id"])


def _state(refund_status: str) -> str:
    return refund_status if refund_status in FAILED else f"is still {refund_status}"


def _unread(order_id: str, intent_id: str, error: Permanent | Unavailable) -> StrayPayment:
    return _stray("alert", order_id, intent_id, f"of order {order_id} could not be read: {error.message}")


def _stray(remedy: Remedy, order_id: str, intent_id: str, what: str) -> StrayPayment:
    text = f"the payment {intent_id} {what}"
    return StrayPayment(order_id=order_id, payment_intent_id=intent_id, remedy=remedy, description=text)
