"""The refund of a part of an order: claimed on its row, then made at Stripe. The stock follows: see Inventory."""

from collections.abc import Sequence
from typing import Final

import stripe
from temporalio import activity

from gateways import order_refunds
from gateways.order_store import count_retries, existing_row, read_resolution, read_row
from gateways.postgres import Database
from gateways.refund_store import keep_refunds, left_of, read_standing, refund_failed, refuse_unknown
from gateways.stripe import StripeGateway, attempt_of, part_of
from orders.errors import Permanent, Unavailable
from orders.models import OrderRow, Refund, RefundClaim, RefundKey, RefundReason
from orders.money import show
from orders.names import refund_step
from orders.refunds import FAILED, STANDING

SKIPPED: Final = "skip"


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
            return await order_refunds.claim(connection, await existing_row(connection, refund.order_id), refund)

    @activity.defn
    async def make_refund(self, key: RefundKey) -> RefundClaim:
        """Refund the claimed amount at Stripe, unless that is done. Less is left than that: the claim is withdrawn.

        Raises:
            Permanent: the refund failed, or Stripe refuses it; an operator must decide.
        """
        async with self._database.transaction() as connection:
            row = await existing_row(connection, key.order_id)
            claim = await order_refunds.existing_claim(connection, key)
            resolution = await read_resolution(connection, key.order_id, refund_step(key.refund_id))
            attempt = 1 + await count_retries(connection, key.order_id, refund_step(key.refund_id))
        if claim.status != "claimed":
            return claim
        if resolution and resolution.startswith(SKIPPED):
            return await self._withdraw(key, RefundReason.SETTLED_BY_HAND)
        if resolution or not claim.amount:
            return claim
        return await self._refund(row, key, claim, attempt)

    async def _refund(self, row: OrderRow, key: RefundKey, claim: RefundClaim, attempt: int) -> RefundClaim:
        if row.payment_intent_id is None:
            raise Permanent(f"order {row.id} has no payment", type="payment_absent")
        async with self._database.transaction() as connection:
            standing = await read_standing(connection, row.payment_intent_id)
        intent = await self._gateway.retrieve(row.payment_intent_id)
        refunds = await self._gateway.refunds(intent.id)
        if not any(part_of(each) == key.refund_id and each.status not in FAILED for each in refunds):
            # An operator who has settled the payment of the whole order has settled that of its parts.
            left = 0 if row.settled_by_hand else left_of(intent, refunds)
            if left < claim.amount:
                return await self._withdraw_late(key, intent.id, refunds, left)
            refuse_unknown(standing, refunds)
            await self._check_attempt(key, intent.id, refunds, attempt)
            try:
                refunds = await self._gateway.refund_part(key, intent.id, claim.amount, attempt=attempt, known=refunds)
            except Permanent:
                # Not a bug if somebody has refunded more meanwhile: the next attempt reads how much.
                if left_of(intent, await self._gateway.refunds(intent.id)) >= claim.amount:
                    raise
                raise _less_is_left(claim) from None
        await self._keep(key.order_id, intent.id, refunds)
        latest = next(each for each in refunds if part_of(each) == key.refund_id)
        if latest.status not in STANDING:
            raise refund_failed(latest)
        return claim.model_copy(update={"stripe_status": latest.status})

    async def _check_attempt(
        self, key: RefundKey, intent_id: str, refunds: Sequence[stripe.Refund], attempt: int
    ) -> None:
        """Return only if the attempt is the first one, or allowed by an operator. Each failure takes a resolution.

        Raises:
            Permanent: it is not.
        """
        failed = [each for each in refunds if part_of(each) == key.refund_id]
        if len(failed) >= attempt or attempt in map(attempt_of, failed):
            await self._keep(key.order_id, intent_id, refunds)
            raise refund_failed(failed[0])

    async def _withdraw_late(
        self, key: RefundKey, intent_id: str, refunds: Sequence[stripe.Refund], left: int
    ) -> RefundClaim:
        """Somebody was faster: a cancel, or a refund by hand."""
        await self._keep(key.order_id, intent_id, refunds)
        return await self._withdraw(key, RefundReason.MORE_THAN_LEFT if left > 0 else RefundReason.NOTHING_LEFT)

    async def _withdraw(self, key: RefundKey, refusal: RefundReason) -> RefundClaim:
        async with self._database.transaction() as connection:
            await existing_row(connection, key.order_id)
            await order_refunds.withdraw(connection, key, refusal)
            return await order_refunds.existing_claim(connection, key)

    async def _keep(self, order_id: str, intent_id: str, refunds: Sequence[stripe.Refund]) -> None:
        async with self._database.transaction() as connection:
            await keep_refunds(connection, await existing_row(connection, order_id), intent_id, refunds)


def _less_is_left(claim: RefundClaim) -> Unavailable:
    amount = show(claim.amount, claim.currency or "")
    return Unavailable(f"stripe: less than {amount} is left of the payment", type="payment_changing")
