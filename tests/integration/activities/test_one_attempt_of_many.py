"""What an attempt must not take for its own or for done: refunds, resolutions and answers that mean something else."""

from collections.abc import AsyncIterator

import pytest

from activities.fulfillment import Fulfillment
from activities.order_state import OrderState, ResolutionRecord
from activities.payments import Payments
from activities.reconciliation import Reconciliation
from deploy.local.postgres import Postgres
from orders.errors import Permanent, Unavailable
from orders.models import Order, Park
from saga import Resolution
from sandbox.server import serve
from sandbox.stripe import PaymentIntent
from sandbox.stripe_params import CreateRefund
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients, order_of
from tests.support.servers import copy_database
from tests.support.shop import settings_for

CREATE, REFUND = "POST /orders", "POST /v1/refunds"


@pytest.fixture
async def forgetful(postgres: Postgres) -> AsyncIterator[ActivityBench]:
    """A bench whose warehouse forgets cancels."""
    async with copy_database(postgres) as url, serve() as sandbox:
        sandbox.world.fulfillment.forgets_cancels = True
        settings = settings_for(url, sandbox, fulfillment_remembers_cancels=False)
        async with open_clients(settings) as clients, open_activity_bench(settings, sandbox, clients) as bench:
            yield bench


async def test_an_unknown_order_is_not_believed_within_a_minute(forgetful: ActivityBench) -> None:
    """The request to ship may take as long as its attempt, and a warehouse that forgets cancels would accept it."""
    order = order_of()
    await forgetful.bring(order, "authorize")
    forgetful.fault("fulfillment", "reset_before", CREATE)
    with pytest.raises(Unavailable):
        await forgetful.fulfill(order)
    await forgetful.claim_undo(order)
    await forgetful.pool.execute("UPDATE orders SET fulfillment_requested_at = now() - interval '1 minute'")

    with pytest.raises(Unavailable):
        await forgetful.do(Fulfillment.cancel_fulfillment, order.id)


async def test_an_earlier_refund_is_not_taken_for_ours(bench: ActivityBench) -> None:
    """An operator refunded a part. The refund of the rest fails, and is not taken for the one that exists."""
    order = await paid(bench)
    by_hand = {"payment_intent": intent_of(bench).id, "amount": 1000}
    bench.world.stripe.account.create_refund(CreateRefund.model_validate(by_hand))
    bench.fault("stripe", "saved", REFUND, effect=False)
    await void_at_last(bench, order)

    assert sum(each.amount for each in bench.world.stripe.account.refunds.values()) == 5998


async def test_a_retry_of_another_step_allows_no_refund(bench: ActivityBench) -> None:
    """A resolution counts for the step that it names."""
    order = await paid(bench, "pm_refund_failed")
    with pytest.raises(Permanent, match="the refund failed"):
        await bench.do(Payments.void_payment, order.id)
    await resolve(bench, order, "cancel_fulfillment", "retry")

    with pytest.raises(Permanent, match="the refund failed"):
        await bench.do(Payments.void_payment, order.id)
    assert len(bench.calls("stripe", "/v1/refunds")) == 1


async def test_a_skip_of_another_step_ends_no_undo(bench: ActivityBench) -> None:
    """The payment is refunded although the shipment's undo was skipped."""
    order = await paid(bench)
    await resolve(bench, order, "cancel_fulfillment", "skip")
    await bench.do(Payments.void_payment, order.id)

    assert bench.world.provider_records()["orders"][order.id]["refunded"] == 5998


async def test_a_refund_that_waits_for_the_customer_stands(bench: ActivityBench) -> None:
    """It is under way: it is no failure, and nothing else is refunded."""
    order = await paid(bench, "pm_card_pendingRefund")
    await bench.do(Payments.void_payment, order.id)
    (refund,) = bench.world.stripe.account.refunds.values()
    refund.status, refund.pending_reason = "requires_action", None

    assert (await bench.do(Payments.void_payment, order.id)).note.endswith("requires_action")
    assert len(bench.calls("stripe", "/v1/refunds")) == 1


async def test_a_part_of_the_price_is_reported(bench: ActivityBench) -> None:
    """A paid order is compared with the amount that Stripe has captured, not only with a status."""
    order = await paid(bench, undone=False)
    intent_of(bench).amount_received = 100
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '1 day'")
    charges = await bench.do(Reconciliation.check_payments, "")

    assert [(each.order_id, each.remedy) for each in charges.found] == [(order.id, "alert")]


async def paid(bench: ActivityBench, card: str = "pm_123", *, undone: bool = True) -> Order:
    """A paid order, claimed for its cancellation unless it is not `undone`."""
    order = order_of(paymentMethodId=card)
    await bench.bring(order, "finalize")
    if undone:
        await bench.do(OrderState.claim_cancellation, order.id)
    return order


async def void_at_last(bench: ActivityBench, order: Order) -> None:
    """The attempt that meets the fault may fail; the next one must not."""
    try:
        await bench.do(Payments.void_payment, order.id)
    except Unavailable:
        await bench.do(Payments.void_payment, order.id)


async def resolve(bench: ActivityBench, order: Order, step: str, action: str) -> None:
    await bench.do(OrderState.park_order, Park(order_id=order.id, step=step, reason="stuck", workflow_id="w"))
    resolution = Resolution.model_validate({"step": step, "action": action, "reason": "looked at it", "by": "ann"})
    await bench.do(OrderState.record_resolution, ResolutionRecord(order_id=order.id, key="1", resolution=resolution))


def intent_of(bench: ActivityBench) -> PaymentIntent:
    (intent,) = bench.world.stripe.account.intents.values()
    return intent
