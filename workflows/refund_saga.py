"""The refund of a part of an order, made as the payment of a whole one is undone: retried, parked, resolved."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.refunds import Refunds
    from orders.models import OrderRow, RefundClaim, RefundKey
    from orders.names import refund_step
    from workflows.order_saga import OrderSaga
    from workflows.timeline import OrderTimeline


class RefundSaga(OrderSaga):
    """A saga of one undo. Its park is in the run alone: the order goes on, and may even be cancelled."""

    def __init__(self, key: RefundKey, amount: str, timeline: OrderTimeline) -> None:
        """`amount` is what operators are told is at stake."""
        super().__init__(key.order_id, timeline, steps=())
        self._key = key
        self._amount = amount
        self._name = refund_step(key.refund_id)
        self._made: RefundClaim | None = None

    async def make_refund(self) -> RefundClaim:
        """Refund what is claimed, however long it takes, until the claim is withdrawn, or until an operator decides."""
        await self.carry_out(self._name, self._attempt)
        self._timeline.needs_no_more_attention(self._name)
        if self._made:
            return self._made
        summary = "do what the operator decided"
        return await self._timeline.retry_until_done(Refunds.make_refund, self._key, summary, may_fail=False)

    async def _attempt(self) -> str:
        claim = self._made = await self._timeline.retry_until_done(
            Refunds.make_refund, self._key, "refund the payment", may_fail=True, what=self._name
        )
        note = f"{self._amount} {claim.stripe_status or claim.refusal or 'refunded'}"
        self._timeline.note(note)
        return note

    def at_stake(self, row: OrderRow) -> str:  # noqa: ARG002 (the rest of the order is not)
        """The amount of the refund."""
        return self._amount

    def _is_independent(self, name: str) -> bool:  # noqa: ARG002 (there is one)
        return True
