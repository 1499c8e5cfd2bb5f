"""refund-order: refund a part of a paid order, once for each refund id, however often it is asked.

It claims what is refunded, returns the money, puts back the units that came back, and writes to the customer.
"""

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from activities.inventory import Inventory
    from activities.notifications import Notifications
    from activities.refunds import Refunds
    from orders.errors import InvalidInput
    from orders.metrics import REFUNDS
    from orders.models import (
        Notification,
        NotificationKind,
        Refund,
        RefundClaim,
        RefundOutcome,
        RefundReason,
        RefundView,
        Stage,
    )
    from orders.money import show, to_json_number
    from orders.names import REFUND_ORDER
    from orders.parsing import parse_refund, read_payload
    from saga import UNTIL_DONE, run_activity, shielded
    from workflows.notifications import deliver
    from workflows.order_saga import view_of
    from workflows.refund_saga import RefundSaga
    from workflows.timeline import OrderTimeline


@workflow.defn(name=REFUND_ORDER)
class RefundOrder:
    """The refund of a part of one order; its workflow id is `refund-order:<order id>:<refund id>`."""

    @workflow.init
    def __init__(self, raw: RawValue = None) -> None:  # type: ignore[assignment]
        self._raw = raw
        self._timeline = OrderTimeline(workflow.info().workflow_id)
        self._saga: RefundSaga | None = None
        self._outcome: RefundOutcome | None = None

    # -------------------------------------------------------------------------------------------------- the story

    @workflow.run
    async def run(self, _raw: RawValue = None) -> RefundOutcome:  # type: ignore[assignment]
        """Refund what the input names; see orders.parsing.RefundRequest. A refusal completes the run."""
        try:
            refund = parse_refund(read_payload(self._raw))
        except InvalidInput as invalid:
            refused = RefundClaim(status=None, refusal=RefundReason.INVALID_REQUEST, why=str(invalid))
            return self._end(refused, None)
        self._timeline = OrderTimeline(refund.order_id)
        # Once it has claimed the refund it must finish: a cancel of this run changes nothing.
        return await shielded(self._refund(refund))

    async def _refund(self, refund: Refund) -> RefundOutcome:
        self._timeline.enter(Stage.REFUNDING, "claiming the refund")
        claim = await run_activity(Refunds.claim_refund, refund, UNTIL_DONE, "claim the refund")
        if claim.status == "claimed":
            self._saga = RefundSaga(refund.key, _amount(claim), self._timeline)
            claim = await self._saga.make_refund()
        if claim.status == "claimed":
            claim = await self._timeline.retry_until_done(
                Inventory.return_stock, refund.key, "put the stock back", may_fail=False
            )
        outcome = self._end(claim, refund.refund_id)
        if outcome.refunded and refund.customer_email:
            await self._write_to_customer(refund, refund.customer_email, claim)
        await self._timeline.flush()
        await workflow.wait_condition(workflow.all_handlers_finished)
        return outcome

    def _end(self, claim: RefundClaim, refund_id: str | None) -> RefundOutcome:
        outcome = self._outcome = _outcome(claim, refund_id)
        if outcome.refunded:
            self._timeline.end(Stage.COMPLETED, "refunded", f"refunded: {_amount(claim)}")
        else:
            self._timeline.end(Stage.REJECTED, f"not refunded: {outcome.reason}", outcome.error or str(outcome.reason))
        REFUNDS.add(refunded=str(outcome.refunded).lower(), reason=outcome.reason or "refunded")
        return outcome

    async def _write_to_customer(self, refund: Refund, address: str, claim: RefundClaim) -> None:
        notification = Notification(
            order_id=refund.order_id, kind=NotificationKind.REFUNDED, about=refund.refund_id, to=address
        )
        await deliver(Notifications.send_email, notification, claim.notification_deadline, self._timeline)

    # ------------------------------------------------------------------------------------------------- the outside

    @workflow.query(description="Where the refund stands")
    def status(self) -> RefundView:
        """Where this refund stands."""
        return RefundView(**dict(view_of(self._timeline, self._saga)), outcome=self._outcome)


def _outcome(claim: RefundClaim, refund_id: str | None) -> RefundOutcome:
    if claim.status != "made" or claim.currency is None:
        return RefundOutcome(refunded=False, refund_id=refund_id, reason=claim.refusal, error=claim.why)
    return RefundOutcome(
        refunded=True,
        refund_id=refund_id,
        refund_amount=to_json_number(claim.amount, claim.currency),
        currency=claim.currency,
        status=None if claim.paid_by_hand else claim.stripe_status,
        restocked=claim.restock,
        reason=RefundReason.SETTLED_BY_HAND if claim.paid_by_hand else None,
    )


def _amount(claim: RefundClaim) -> str:
    return show(claim.amount, claim.currency or "")
