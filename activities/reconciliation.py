"""What sagas alone cannot see: orders whose run is gone, payments that no order answers for, refunds that fail late.

Everything here finds; what is found is mended by the same idempotent activities as the sagas use, or told to a person.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import RawValue, WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.service import RPCError, RPCStatusCode

from activities.database import Database
from activities.order_rows import existing_row, write_event
from activities.payments import keep_refunds
from activities.stripe_gateway import Intent, StripeGateway, order_of
from orders.errors import InvalidInput, Permanent, Unavailable
from orders.intake import parse_order, read_payload
from orders.models import CLOSED, PAID, OrderRow, Status, Undone
from orders.money import show
from orders.reconciliation import Charge, Charges, Page, Problem, Remedy, Revival, Stranded, StrandedPage
from orders.temporal import CANCEL_ORDER, PROCESS_ORDER, cancel_order_id

if TYPE_CHECKING:
    from activities.database import Connection

PAGE: Final = 100
CHECKED: Final = 20  # payments in one attempt, each with two calls

STANDING: Final = {"succeeded", "pending", "requires_action"}
OVER: Final = {"canceled", "processing"}  # nothing to give back, or nothing that can be given back yet

FIND_UNFINISHED: Final = """
    SELECT id, created_at, status, parked_step, parked_reason FROM orders
    WHERE status IN ('pending', 'capturing', 'undoing', 'cancelling')
      AND created_at < now() - $1::interval AND (created_at, id) > ($2, $3)
    ORDER BY created_at, id LIMIT $4
"""

FIND_UNCHECKED: Final = """
    SELECT id FROM orders
    WHERE payment_intent_id IS NOT NULL AND payment_checked_at IS NULL
      AND status IN ('processing', 'shipped', 'delivered', 'rejected', 'failed', 'cancelled')
      AND created_at < now() - $1::interval AND id > $2
    ORDER BY id LIMIT $3
"""

READ_ACCOUNTS: Final = """
    SELECT o.id, o.status, o.total, o.currency, o.payment_intent_id,
           coalesce((SELECT sum(r.amount) FROM refunds r
                     WHERE r.order_id = o.id AND r.status IN ('succeeded', 'pending', 'requires_action')), 0)::bigint
               AS refunded,
           EXISTS (SELECT 1 FROM resolutions s
                   WHERE s.order_id = o.id AND s.step = 'void_payment' AND s.action <> 'retry') AS settled_by_hand
    FROM orders o WHERE o.id = ANY($1::text[])
"""

MARK_CHECKED: Final = "UPDATE orders SET payment_checked_at = now() WHERE id = ANY($1::text[])"

FIND_REFUNDS: Final = """
    SELECT order_id FROM refunds
    WHERE (status IN ('pending', 'requires_action') AND checked_at < now() - $1::interval)
       OR (status = 'succeeded' AND checked_at < now() - interval '1 day' AND at > now() - interval '30 days')
    GROUP BY order_id ORDER BY min(checked_at) LIMIT $2
"""

TAKE_DUE: Final = """
    SELECT key FROM unnest($1::text[]) AS p (key)
    WHERE NOT EXISTS (SELECT 1 FROM reminders r WHERE r.key = p.key AND r.at > now() - interval '1 day')
"""

REMIND: Final = "INSERT INTO reminders (key) VALUES ($1) ON CONFLICT (key) DO UPDATE SET at = now()"


class Account(NamedTuple):
    """What an order row says of its payment; amounts in minor units, `refunded` with what is under way."""

    id: str
    status: Status
    total: int
    currency: str
    payment_intent_id: str | None
    refunded: int
    settled_by_hand: bool


class Reconciliation:
    """Compares orders with Temporal and with the payment provider.

    Raises, in all activities:
        Unavailable: PostgreSQL, Temporal or Stripe.
    """

    def __init__(
        self, database: Database, client: Client, gateway: StripeGateway, after: timedelta, window: timedelta
    ) -> None:
        """Orders and payments are looked at `after` they began; payments of unknown orders for one `window`."""
        self._database = database
        self._client = client
        self._gateway = gateway
        self._after = after
        self._window = window

    # --------------------------------------------------------------------------------------------- orders without a run

    @activity.defn
    async def find_stranded(self, page: Page) -> StrandedPage:
        """A page of old unfinished orders: those that are parked, and those that no open run drives."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch(FIND_UNFINISHED, self._after, page.at, page.id, PAGE)
        orders = [
            Stranded(
                order_id=row["id"],
                status=row["status"],
                parked=f"{row['parked_step']}: {row['parked_reason']}" if row["parked_step"] else None,
            )
            for row in rows
        ]
        driven = await asyncio.gather(*(self._is_driven(order) for order in orders))
        return StrandedPage(
            orders=tuple(each for each, is_driven in zip(orders, driven, strict=True) if each.parked or not is_driven),
            next=Page(at=rows[-1]["created_at"], id=rows[-1]["id"]) if len(rows) == PAGE else None,
        )

    @activity.defn
    async def revive_order(self, stranded: Stranded) -> Revival:
        """Start the run that drives the order from where its row is, with what it was asked for first.

        An order whose request is past Temporal's retention is cancelled; one that may be paid cannot be, and goes
        forward without its run.
        """
        order_id = stranded.order_id
        async with self._database.transaction() as connection:
            row = await existing_row(connection, order_id)
        if row.status is not Status.CANCELLING:
            if request := await self._request_of(row):
                await self._start(PROCESS_ORDER, order_id, request)
                return await self._revived(order_id, PROCESS_ORDER)
            if row.status is Status.CAPTURING:
                return Revival(started=None)
        request = await self._last_request(CANCEL_ORDER, cancel_order_id(order_id))
        await self._start(CANCEL_ORDER, cancel_order_id(order_id), request or {"orderId": order_id})
        return await self._revived(order_id, CANCEL_ORDER)

    async def _revived(self, order_id: str, workflow: str) -> Revival:
        async with self._database.transaction() as connection:
            await write_event(connection, order_id, f"no run drove it: started {workflow} again")
        return Revival(started=workflow)

    async def _is_driven(self, order: Stranded) -> bool:
        """By either run; but only cancel-order finishes what it has begun with a paid order."""
        if await self._is_open(cancel_order_id(order.order_id)):
            return True
        return order.status is not Status.CANCELLING and await self._is_open(order.order_id)

    async def _is_open(self, workflow_id: str) -> bool:
        try:
            description = await self._client.get_workflow_handle(workflow_id).describe()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise _temporal(error) from None
        return description.status is WorkflowExecutionStatus.RUNNING

    async def _request_of(self, row: OrderRow) -> RawValue | None:
        """The payload that the row was written for; a later run may have been refused with another one."""
        try:
            async for run in self._client.list_workflows(f"WorkflowId = '{row.id}'"):
                request = await self._request_in(PROCESS_ORDER, run.id, run.run_id)
                if request and _hash_of(row.id, request) == row.request_hash:
                    return request
        except RPCError as error:
            raise _temporal(error) from None
        return None

    async def _last_request(self, workflow: str, workflow_id: str) -> RawValue | None:
        try:
            return await self._request_in(workflow, workflow_id, None)
        except RPCError as error:
            raise _temporal(error) from None

    async def _request_in(self, workflow: str, workflow_id: str, run_id: str | None) -> RawValue | None:
        """The input in the first event of a run; None if Temporal no longer has it."""
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        try:
            async for event in handle.fetch_history_events(page_size=1):
                started = event.workflow_execution_started_event_attributes
                if started.workflow_type.name == workflow and started.input.payloads:
                    return RawValue(started.input.payloads[0])
                break
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        return None

    async def _start(self, workflow: str, workflow_id: str, request: object) -> None:
        try:
            await self._client.start_workflow(
                workflow,
                request,
                id=workflow_id,
                task_queue=activity.info().task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary="started again by reconcile-orders",
            )
        except RPCError as error:
            raise _temporal(error) from None

    # -------------------------------------------------------------------------------------------------------- payments

    @activity.defn
    async def check_charges(self, after: str) -> Charges:
        """From settled orders to their payments, by the stored id: a page of those not found in order so far."""
        async with self._database.transaction() as connection:
            ids = [row["id"] for row in await connection.fetch(FIND_UNCHECKED, self._after, after, CHECKED)]
            accounts = await _accounts(connection, ids)
        found = [charge for account in accounts.values() if (charge := await self._check(account))]
        async with self._database.transaction() as connection:
            wrong = {charge.order_id for charge in found}
            await connection.execute(MARK_CHECKED, [order_id for order_id in accounts if order_id not in wrong])
        return Charges(found=tuple(found), after=ids[-1] if len(ids) == CHECKED else None)

    @activity.defn
    async def find_orphans(self, after: str) -> Charges:
        """From payments to their orders, by listing the recent ones: a page of those that no order answers for."""
        now = datetime.now(UTC)
        first, last = now - self._window, now - self._after
        intents = await self._gateway.list_between(first, last, after=after or None, limit=PAGE)
        claimed = {intent.id: order for intent in intents if (order := order_of(intent))}
        async with self._database.transaction() as connection:
            accounts = await _accounts(connection, claimed.values())
        found: list[Charge] = []
        for intent in intents:
            order_id = claimed.get(intent.id)
            if order_id and (charge := await self._orphan(intent, order_id, accounts.get(order_id))):
                found.append(charge)
        return Charges(found=tuple(found), after=intents[-1].id if len(intents) == PAGE else None)

    @activity.defn
    async def void_orphan(self, charge: Charge) -> Undone:
        """Give back a payment that is not its order's: void it, or refund what is left of it."""
        key = f"{charge.order_id}:{charge.payment_intent_id}"
        intent = await self._gateway.retrieve(charge.payment_intent_id)
        if intent.status not in {*OVER, "succeeded"}:
            intent = await self._gateway.void(key, intent.id)
        if intent.status == "succeeded" and await self._left_of(intent):
            refunds = await self._gateway.refunds(intent.id)
            if not all(refund.status in STANDING for refund in refunds):
                raise Permanent(f"a refund of {intent.id} failed", type="refund_failed")
            await self._gateway.refund(key, intent.id, attempt=1, known=len(refunds))
        note = f"the payment {intent.id}, which the order does not answer for, is {intent.status} and given back"
        async with self._database.transaction() as connection:
            await write_event(connection, charge.order_id, note)
        return Undone(note=note)

    async def _check(self, account: Account) -> Charge | None:
        """What is wrong with the payment of a settled order."""
        intent_id = account.payment_intent_id or ""
        try:
            intent = await self._gateway.retrieve(intent_id)
        except Permanent:
            return _charge("alert", account.id, intent_id, f"of order {account.id} is not known to Stripe")
        left = await self._left_of(intent)
        if account.status in CLOSED:
            gone = intent.status == "canceled" or (intent.status == "succeeded" and not left)
            if gone or account.settled_by_hand:
                return None
            words = f"of order {account.id}, which is {account.status}, is {intent.status}"
            return _charge("void_payment", account.id, intent_id, words)
        if intent.amount_received == account.total and left:  # what was refunded by hand is the shop's own affair
            return None
        paid = show(left, account.currency)
        words = f"of order {account.id} over {show(account.total, account.currency)} has {paid} charged"
        return _charge("alert", account.id, intent_id, words)

    async def _orphan(self, intent: Intent, order_id: str, account: Account | None) -> Charge | None:
        """What is to become of a payment that names an order; None if that order answers for it, or may yet."""
        if account and (account.payment_intent_id == intent.id or account.status not in CLOSED | PAID):
            return None
        captured = intent.status == "succeeded"
        if intent.status in OVER or (captured and not await self._left_of(intent)):
            return None
        if account is None and captured:
            return _charge("alert", order_id, intent.id, f"was captured for {order_id}, which is no order")
        return _charge("void_orphan", order_id, intent.id, f"is {intent.status}, but {order_id} does not answer for it")

    async def _left_of(self, intent: Intent) -> int:
        """What is left of a charge after its refunds, in minor units."""
        if not intent.amount_received:
            return 0
        refunds = await self._gateway.refunds(intent.id)
        return intent.amount_received - sum(each.amount for each in refunds if each.status in STANDING)

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
            row = await existing_row(connection, order_id)
        refunds = await self._gateway.refunds(row.payment_intent_id or "")
        async with self._database.transaction() as connection:
            changed = await keep_refunds(connection, order_id, refunds)
        return [f"order {order_id}: {what}" for what in changed]

    # ---------------------------------------------------------------------------------------------------------- people

    @activity.defn
    async def due_problems(self, problems: Sequence[Problem]) -> Sequence[str]:
        """The keys of those that nobody was told of within a day."""
        async with self._database.transaction() as connection:
            return [row["key"] for row in await connection.fetch(TAKE_DUE, [problem.key for problem in problems])]

    @activity.defn
    async def mark_told(self, key: str) -> None:
        """A person was told."""
        async with self._database.transaction() as connection:
            await connection.execute(REMIND, key)


async def _accounts(connection: "Connection", order_ids: Iterable[str]) -> Mapping[str, Account]:
    records = await connection.fetch(READ_ACCOUNTS, list(order_ids))
    return {record["id"]: Account(**record) for record in records}


def _charge(remedy: Remedy, order_id: str, intent_id: str, what: str) -> Charge:
    words = f"the payment {intent_id} {what}"
    return Charge(order_id=order_id, payment_intent_id=intent_id, remedy=remedy, words=words)


def _hash_of(order_id: str, request: RawValue) -> str | None:
    with suppress(InvalidInput):
        return parse_order(order_id, read_payload(request)).request_hash
    return None


def _temporal(error: RPCError) -> Unavailable:
    return Unavailable(f"temporal: {error.status.name}", type="temporal_unavailable")
