"""The refund of a part of an order: claimed on its row, then made at Stripe. The stock follows: see Inventory."""

from collections.abc import Sequence

import stripe
from temporalio import activity

from gateways import order_refunds
from gateways.order_store import FinalResolution, lock_row, read_resolution, read_row
from gateways.postgres import Database
from gateways.refund_store import (
    left_of,
    read_paid_elsewhere,
    read_standing,
    refund_failed,
    refuse_unknown,
    save_refunds,
    take_attempt,
)
from gateways.shortage_store import reopen_shortage
from gateways.stripe import Intent, StripeGateway, part_of
from orders.errors import Permanent
from orders.models import OrderRow, Refund, RefundClaim, RefundKey, RefundReason
from orders.names import refund_step
from orders.refunds import FAILED, STANDING


class Refunds:
    """Claim and make refunds of parts. No attempt refunds a second time, or more than was claimed.

    Raises, in all activities:
        Unavailable: Stripe or PostgreSQL; what was asked for may have happened.
    """

    def __init__(self, database: Database, gateway: StripeGateway) -> None:
        self._database = database
        self._gateway = gateway

    @activity.defn
    async def claim_refund(self, refund: Refund) -> RefundClaim:
        """Claim what is refunded, or refuse it by name. The same refund again gets the claim that there is."""
        async with self._database.transaction() as connection:
            if await read_row(connection, refund.order_id) is None:
                return RefundClaim(status=None, refusal=RefundReason.UNKNOWN_ORDER, why="there is no such order")
            return await order_refunds.claim(connection, await lock_row(connection, refund.order_id), refund)

    @activity.defn
    async def make_refund(self, key: RefundKey) -> RefundClaim:
        """Refund the claimed amount at Stripe, unless that is done, or an operator has decided about it.

        Less is left than that: the claim is withdrawn.

        Raises:
            Permanent: the refund failed, or Stripe refuses it; an operator must decide.
        """
        async with self._database.transaction() as connection:
            row = await lock_row(connection, key.order_id)
            claim = await order_refunds.existing_claim(connection, key)
            resolution = await read_resolution(connection, key.order_id, refund_step(key.refund_id))
        if claim.status != "claimed":
            return claim
        intent = await self._gateway.find(row.payment_intent_id) if claim.amount and row.payment_intent_id else None
        if intent is not None:
            return await self._refund(row, key, claim, intent, resolution)
        if claim.amount and not resolution:
            raise Permanent(f"Stripe knows no payment of order {row.id}", type="payment_absent")
        return await self._withdraw(key, RefundReason.SETTLED_BY_HAND) if _is_skip(resolution) else claim

    async def _refund(
        self, row: OrderRow, key: RefundKey, claim: RefundClaim, intent: Intent, resolution: FinalResolution | None
    ) -> RefundClaim:
        """A refund that stands is made, whatever an operator decided who did not see it: its answer may be lost."""
        async with self._database.transaction() as connection:
            standing = await read_standing(connection, intent.id)
        refunds = await self._gateway.refunds(intent.id)
        if not _may_stand(key, refunds):
            if _is_skip(resolution):
                return await self._withdraw(key, RefundReason.SETTLED_BY_HAND)
            left = await self._left(row, intent, refunds)
            if left < (0 if resolution else claim.amount):
                return await self._withdraw_late(key, intent.id, refunds, left)
            if resolution:
                await save_refunds(self._database, key.order_id, intent.id, refunds)
                return claim
            refuse_unknown(standing, refunds)
            attempt = await take_attempt(self._database, key.order_id, intent.id, refunds, of=key.refund_id)
            refunds = await self._gateway.refund_part(key, intent.id, claim.amount, attempt=attempt, known=refunds)
        await save_refunds(self._database, key.order_id, intent.id, refunds)
        latest = next(each for each in refunds if part_of(each) == key.refund_id)
        if latest.status not in STANDING and not resolution:
            raise refund_failed(latest)
        return claim.model_copy(update={"stripe_status": latest.status, "paid_by_hand": False})

    async def _left(self, row: OrderRow, intent: Intent, refunds: Sequence[stripe.Refund]) -> int:
        """What the customer has not got back yet, at Stripe or by other means; below zero: a part was given back twice.

        An operator who has settled the payment of the whole order has settled that of its parts.
        """
        async with self._database.transaction() as connection:
            elsewhere = await read_paid_elsewhere(connection, row.id, refunds)
        return (0 if row.settled_by_hand else left_of(intent, refunds)) - elsewhere

    async def _withdraw_late(
        self, key: RefundKey, intent_id: str, refunds: Sequence[stripe.Refund], left: int
    ) -> RefundClaim:
        """Somebody was faster: a cancel, or a refund by hand."""
        await save_refunds(self._database, key.order_id, intent_id, refunds)
        return await self._withdraw(key, RefundReason.MORE_THAN_LEFT if left > 0 else RefundReason.NOTHING_LEFT)

    async def _withdraw(self, key: RefundKey, refusal: RefundReason) -> RefundClaim:
        async with self._database.transaction() as connection:
            await lock_row(connection, key.order_id)
            await order_refunds.withdraw(connection, key, refusal)
            await reopen_shortage(connection, key)
            return await order_refunds.existing_claim(connection, key)


def _may_stand(key: RefundKey, refunds: Sequence[stripe.Refund]) -> bool:
    """Whether Stripe has a refund of the part that has not failed; one of unknown status may have moved the money."""
    return any(part_of(each) == key.refund_id and each.status not in FAILED for each in refunds)


def _is_skip(resolution: FinalResolution | None) -> bool:
    return resolution is not None and resolution.action == "skip"
