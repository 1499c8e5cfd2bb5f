"""Check the invariants in operation, some orders at a time, by what the external services say. Changes nothing."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client

from activities.order_checks import raise_outage
from audit.evidence import (
    DatabaseSnapshot,
    Evidence,
    OrderEntry,
    PaymentEntry,
    ProviderRecords,
    RefundEntry,
    ShipmentEntry,
    read_runs,
    read_schedules,
    read_snapshot,
)
from audit.invariants import IN_OPERATION, describe, violations
from gateways.postgres import Database
from gateways.stripe import StripeGateway, is_by_hand, made_at, part_of
from gateways.warehouse import Warehouse
from orders.models import UNFINISHED
from orders.refunds import UNDER_WAY
from orders.verification import CheckResult
from saga import reason

AT_ONCE: Final = 4  # orders that the external services are asked about at the same time: Stripe has limits

# What these activities check, for the report: names of invariants and their texts.
RULES: Final[Mapping[str, str]] = {rule.__name__: describe(rule) for rule in IN_OPERATION}

# Each part reads an index. One condition for both parts would read all orders.
FIND_ORDERS: Final = """
    SELECT id FROM (
        (
            SELECT 1 AS turn, created_at, id FROM orders WHERE status = ANY($3::text[])
            ORDER BY created_at DESC, id LIMIT $2
        ) UNION ALL (
            SELECT 2, created_at, id FROM orders WHERE status <> ALL($3::text[]) AND created_at > now() - $1::interval
            ORDER BY created_at DESC, id LIMIT $2
        )
    ) found
    ORDER BY turn, created_at DESC, id LIMIT $2
"""


class Verification:
    """Checks orders by their row, their payment, their shipment and their runs.

    Raises, in all activities:
        Unavailable: PostgreSQL, Temporal, Stripe or the warehouse.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (one for each external service)
        self,
        database: Database,
        client: Client,
        gateway: StripeGateway,
        warehouse: Warehouse,
        window: timedelta,
        patience: timedelta,
    ) -> None:
        """Checks the orders of the last `window` and all unfinished ones. An order may be unfinished for `patience`."""
        self._database = database
        self._client = client
        self._gateway = gateway
        self._warehouse = warehouse
        self._window = window
        self._patience = patience

    @activity.defn
    async def find_verifiable(self, limit: int) -> Sequence[str]:
        """The orders to check: the unfinished ones, then the others, the newest first."""
        async with self._database.transaction() as connection:
            return [row["id"] for row in await connection.fetch(FIND_ORDERS, self._window, limit, UNFINISHED)]

    @activity.defn
    async def check_orders(self, orders: Sequence[str]) -> CheckResult:
        """What is wrong with these orders. The next run checks those that change during the check."""
        before = await self._read(orders)
        records, odd = await self._ask(before)
        runs = await read_runs(self._client, orders, before.claimed)
        known = {order.id: order.changes for order in before.orders}
        after = await self._read(orders)
        still = tuple(order for order in after.orders if order.changes == known.get(order.id) and order.id not in odd)
        snapshot = after.model_copy(update={"orders": still, "asked": tuple(order.id for order in still)})
        found = violations(Evidence(snapshot, records, runs=runs, patience=self._patience.total_seconds()))
        return CheckResult(checked=len(still), violations=tuple(found), unverified=tuple(odd.values()))

    @activity.defn
    async def check_stock(self, limit: int) -> CheckResult:
        """What is wrong with the stock of all products, compared with all reservations; at most `limit` violations."""
        async with self._database.transaction() as connection:
            snapshot = await read_snapshot(connection, [])
        found = violations(Evidence(snapshot, ProviderRecords(payments=(), fulfillment=())))
        return CheckResult(checked=len(snapshot.stock), violations=tuple(found[:limit]))

    @activity.defn
    async def check_schedules(self, limit: int) -> CheckResult:
        """What is wrong with the Schedules; at most `limit` violations."""
        nothing = DatabaseSnapshot(orders=(), reservations=(), stock=())
        schedules = await read_schedules(self._client)
        found = violations(Evidence(nothing, ProviderRecords(payments=(), fulfillment=()), schedules=schedules))
        return CheckResult(checked=len(schedules), violations=tuple(found[:limit]))

    async def _read(self, orders: Sequence[str]) -> DatabaseSnapshot:
        async with self._database.transaction() as connection:
            return await read_snapshot(connection, orders, stock=False)

    async def _ask(self, snapshot: DatabaseSnapshot) -> tuple[ProviderRecords, dict[str, str]]:
        """What the external services say of the orders that have a payment, or that were to be shipped.

        Also the orders of which they say nothing that can be read, with the reasons.
        """
        turn = asyncio.Semaphore(AT_ONCE)

        async def look(order: OrderEntry) -> tuple[PaymentEntry | None, ShipmentEntry | None]:
            async with turn:
                return await self._payment(order), await self._shipment(order)

        asked = [order for order in snapshot.orders if order.payment_intent_id or order.requested]
        answers = await asyncio.gather(*(look(order) for order in asked), return_exceptions=True)
        found = [answer for answer in answers if not isinstance(answer, BaseException)]
        errors = {
            order.id: answer for order, answer in zip(asked, answers, strict=True) if isinstance(answer, BaseException)
        }
        raise_outage(errors.values(), len(asked))
        records = ProviderRecords(
            payments=tuple(payment for payment, _ in found if payment),
            fulfillment=tuple(shipment for _, shipment in found if shipment),
        )
        return records, {order_id: f"the order {order_id}: {reason(error)}" for order_id, error in errors.items()}

    async def _payment(self, order: OrderEntry) -> PaymentEntry | None:
        """The payment with the stored id; None if there is none, or if Stripe does not know it."""
        intent = await self._gateway.find(order.payment_intent_id) if order.payment_intent_id else None
        if intent is None:
            return None
        refunds = await self._gateway.refunds(intent.id) if intent.amount_received else []
        return PaymentEntry(
            id=intent.id,
            order=order.id,
            status=intent.status,
            currency=intent.currency,
            authorized=intent.amount_capturable,
            captured=intent.amount_received,
            refunded=sum(refund.amount for refund in refunds if refund.status == "succeeded"),
            refund_pending=sum(refund.amount for refund in refunds if refund.status in UNDER_WAY),
            refunds=tuple(
                RefundEntry(
                    id=each.id,
                    refund_id=part_of(each),
                    status=each.status or "unknown",
                    amount=each.amount,
                    by_hand=is_by_hand(each),
                    created=made_at(each),
                )
                for each in refunds
            ),
        )

    async def _shipment(self, order: OrderEntry) -> ShipmentEntry | None:
        found = await self._warehouse.read_shipment(order.id)
        return ShipmentEntry(order_id=order.id, status=found.status) if found else None
