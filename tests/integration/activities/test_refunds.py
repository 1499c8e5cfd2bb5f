"""The refund of a part: claimed once, made once at Stripe, and what a cancel and a refund by hand leave of it."""

from decimal import Decimal
from typing import Any

import pytest

from activities.inventory import Inventory
from activities.order_state import OrderState, ResolutionRecord
from activities.payments import Payments
from activities.reconciliation import Reconciliation
from activities.refunds import Refunds
from gateways.stripe import StripeGateway
from orders.errors import Permanent, Unavailable
from orders.models import Refund, RefundClaim, RefundLine
from saga import Resolution
from sandbox.stripe_params import CreateRefund
from tests.proof.second_opinion import count_units, stock_findings
from tests.support.activity_bench import ActivityBench, order_of

ONE = (RefundLine(product_id="1", quantity=1, restock=1),)
LOST = (RefundLine(product_id="1", quantity=1),)
REFUND = "POST /v1/refunds"


def refund_of(refund_id: str = "r1", **changes: Any) -> Refund:
    return Refund.model_validate({"order_id": "o1", "refund_id": refund_id, "lines": ONE} | changes)


async def claimed(bench: ActivityBench, refund: Refund | None = None, **order: Any) -> Refund:
    """A refund that is claimed of a paid order."""
    await bench.bring(order_of(**order), "finalize")
    refund = refund or refund_of()
    claim = await bench.do(Refunds.claim_refund, refund)
    assert claim.status == "claimed", claim
    return refund


async def make(bench: ActivityBench, refund: Refund) -> RefundClaim:
    return await bench.do(Refunds.make_refund, refund.key)


async def cancel(bench: ActivityBench, *, pays: bool = True) -> None:
    """Cancel the paid order. It closes also if nothing is paid back, as after an operator's word."""
    await bench.do(OrderState.claim_cancellation, "o1")
    if pays:
        (intent,) = bench.world.stripe.account.intents.values()
        intent.payment_method = "pm_123"
        await bench.do(Payments.void_payment, "o1")
    await bench.do(Inventory.release_stock, "o1")


async def finish(bench: ActivityBench, refund: Refund) -> RefundClaim:
    return await bench.do(Inventory.return_stock, refund.key)


async def by_hand(bench: ActivityBench, amount: int | None = None) -> None:
    payment = (await bench.row("o1"))["payment_intent_id"]
    bench.world.stripe.account.create_refund(CreateRefund(payment_intent=payment, amount=amount))


def forestall(bench: ActivityBench, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Let somebody refund by hand before this method of the gateway asks Stripe."""
    ask = getattr(StripeGateway, method)

    async def forestalled(*args: Any, **options: Any) -> Any:
        await by_hand(bench, 3000)
        return await ask(*args, **options)

    monkeypatch.setattr(StripeGateway, method, forestalled)


def refunded(bench: ActivityBench) -> list[tuple[int, str]]:
    """What Stripe has refunded, oldest first."""
    return [(each.amount, each.status) for each in bench.world.stripe.account.refunds.values()]


async def totals(bench: ActivityBench) -> tuple[int, int]:
    (record,) = await bench.pool.fetch("SELECT held, sold FROM reservation_totals")
    return record["held"], record["sold"]


async def resolve(bench: ActivityBench, action: Any, step: str = "refund:r1") -> None:
    resolution = Resolution(step=step, action=action, reason="looked at it")
    record = ResolutionRecord(order_id="o1", key=f"{step}:{action}", resolution=resolution, marks_row=False)
    await bench.do(OrderState.record_resolution, record)


async def test_what_stripe_gets(bench: ActivityBench) -> None:
    """The amount, and metadata by which the refund is found again; the key names the refund and the attempt."""
    refund = await claimed(bench)
    await make(bench, refund)
    (post,) = bench.calls("stripe", "/refunds")

    shop_id = str(await bench.pool.fetchval("SELECT id FROM shop"))
    intent_id = (await bench.row("o1"))["payment_intent_id"]
    metadata = {"order_id": "o1", "refund_id": "r1", "attempt": "1"}
    assert post["body"] == {"payment_intent": intent_id, "amount": "2999", "metadata": metadata}
    assert post["headers"]["idempotency-key"] == f"{shop_id}:o1:{intent_id}:refund-part:r1:1:1"


async def test_every_activity_twice(bench: ActivityBench) -> None:
    """Each attempt finds what the one before has done."""
    refund = await claimed(bench)
    first = await bench.do(Refunds.claim_refund, refund)
    assert (first.status, first.amount, first.restock) == ("claimed", 2999, 1)
    assert await make(bench, refund) == await make(bench, refund)
    assert await finish(bench, refund) == await finish(bench, refund)

    claim = await bench.do(Refunds.claim_refund, refund)
    assert (claim.status, claim.stripe_status, claim.restocked) == ("made", "succeeded", True)
    assert await make(bench, refund) == claim
    assert refunded(bench) == [(2999, "succeeded")]
    assert await bench.stock() == (99, 0)
    assert await bench.pool.fetchval("SELECT sold FROM inventory WHERE product_id = '1'") == 1


@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
@pytest.mark.parametrize("keys", ["kept", "forgotten"])
async def test_a_lost_answer(bench: ActivityBench, kind: str, keys: str) -> None:
    """Also if Stripe has forgotten the key: the refund id in the metadata tells this refund from others."""
    refund = await claimed(bench)
    bench.fault("stripe", kind, REFUND)
    with pytest.raises(Unavailable):
        await make(bench, refund)
    if keys == "forgotten":
        bench.world.stripe.keys.clear()
    await by_hand(bench, 2999)

    assert (await make(bench, refund)).stripe_status == "succeeded"
    assert sorted(refunded(bench)) == [(2999, "succeeded"), (2999, "succeeded")]


async def test_a_refund_of_another_part_is_not_taken_for_this_one(bench: ActivityBench) -> None:
    """Two refunds of the same amount are two."""
    first = await claimed(bench)
    second = refund_of("r2")
    await bench.do(Refunds.claim_refund, second)
    await make(bench, first)
    await make(bench, second)

    kept = await bench.pool.fetch("SELECT refund_id, amount FROM refunds ORDER BY refund_id")
    assert [tuple(each) for each in kept] == [("r1", 2999), ("r2", 2999)]


@pytest.mark.parametrize(("amount", "refusal"), [(None, "nothing_left"), (3000, "more_than_left")])
async def test_less_is_left_than_was_claimed(bench: ActivityBench, amount: int | None, refusal: str) -> None:
    """Somebody has refunded by hand: the claim is withdrawn, and nothing comes back."""
    refund = await claimed(bench)
    await by_hand(bench, amount)

    claim = await make(bench, refund)
    assert (claim.status, claim.refusal) == ("withdrawn", refusal)
    assert await finish(bench, refund) == claim
    assert await bench.stock() == (98, 0)
    assert len(refunded(bench)) == 1


async def test_somebody_refunds_while_stripe_is_asked(bench: ActivityBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe refuses more than is left. That is no bug: the next attempt reads what is left."""
    refund = await claimed(bench)
    forestall(bench, monkeypatch, "refund_part")
    with pytest.raises(Unavailable, match="somebody has refunded meanwhile"):
        await make(bench, refund)

    assert (await make(bench, refund)).refusal == "more_than_left"


async def test_a_failed_refund_is_tried_again_only_after_a_retry(bench: ActivityBench) -> None:
    """Each retry is one more attempt at Stripe, under a key of its own."""
    refund = await claimed(bench, paymentMethodId="pm_refund_failed")
    for _ in range(2):
        with pytest.raises(Permanent, match="the refund failed"):
            await make(bench, refund)
    assert refunded(bench) == [(2999, "failed")]

    await resolve(bench, "retry")
    for _ in range(2):
        with pytest.raises(Permanent, match="the refund failed"):
            await make(bench, refund)
    assert refunded(bench) == [(2999, "failed")] * 2


async def test_a_retry_before_the_refund_failed_keeps_its_key(bench: ActivityBench) -> None:
    """The request whose answer is lost may still be under way: under another key there could be two refunds."""
    refund = await claimed(bench)
    bench.fault("stripe", "reset_before", REFUND)
    with pytest.raises(Unavailable):
        await make(bench, refund)
    await resolve(bench, "retry")
    await make(bench, refund)

    keys = [post["headers"]["idempotency-key"] for post in bench.calls("stripe", "/refunds")]
    assert [key.partition(":refund-part:")[2] for key in keys] == ["r1:1:1", "r1:1:1"]


@pytest.mark.parametrize("action", ["skip", "resolved"])
async def test_an_operator_does_not_see_that_the_refund_was_made(bench: ActivityBench, action: str) -> None:
    """Its answer was lost. It is made, whatever the operator said, and a cancel refunds the rest."""
    refund = await claimed(bench)
    bench.fault("stripe", "reset_after", REFUND)
    with pytest.raises(Unavailable):
        await make(bench, refund)
    await resolve(bench, action)

    claim = await make(bench, refund)
    assert (claim.status, claim.stripe_status, claim.paid_by_hand) == ("claimed", "succeeded", False)
    claim = await finish(bench, refund)
    assert (claim.status, claim.stripe_status, claim.paid_by_hand) == ("made", "succeeded", False)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    assert refunded(bench) == [(2999, "succeeded"), (2999, "succeeded")]


async def test_a_skipped_refund_that_was_made_fails_later(bench: ActivityBench) -> None:
    """The claim is open again; what the operator said holds now."""
    refund = await claimed(bench)
    bench.fault("stripe", "reset_after", REFUND)
    with pytest.raises(Unavailable):
        await make(bench, refund)
    await resolve(bench, "skip")
    await make(bench, refund)
    await finish(bench, refund)
    (made,) = bench.world.stripe.account.refunds.values()
    made.fail()
    await bench.do(Reconciliation.follow_refunds, "o1")

    claim = await make(bench, refund)
    assert (claim.status, claim.refusal) == ("withdrawn", "settled_by_hand")


async def test_a_late_refund_of_a_withdrawn_claim_is_spent(bench: ActivityBench) -> None:
    """Until reconciliation opens the claim again nobody else gets its money."""
    refund = await claimed(bench)
    await make(bench, refund)
    await bench.pool.execute("UPDATE order_refunds SET status = 'withdrawn', refusal = 'settled_by_hand'")

    claim = await bench.do(Refunds.claim_refund, refund_of("r2", lines=(), amount=Decimal("30.00")))
    assert claim.refusal == "more_than_left"


async def test_a_cancel_was_faster_than_an_operator(bench: ActivityBench) -> None:
    """It has refunded everything: the part was not paid a second time."""
    refund = await claimed(bench, paymentMethodId="pm_refund_failed")
    with pytest.raises(Permanent):
        await make(bench, refund)
    (intent,) = bench.world.stripe.account.intents.values()
    intent.payment_method = "pm_123"
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    await resolve(bench, "resolved")

    claim = await make(bench, refund)
    assert (claim.status, claim.refusal) == ("withdrawn", "nothing_left")


async def test_all_was_refunded_in_the_dashboard(bench: ActivityBench) -> None:
    """That is how the operator has paid: the refund is made, although nothing is left."""
    refund = await claimed(bench, refund_of(amount=Decimal("59.98")))
    await by_hand(bench)
    await resolve(bench, "resolved")

    assert (await make(bench, refund)).paid_by_hand
    assert (await finish(bench, refund)).status == "made"


async def test_a_refund_in_the_dashboard_before_the_claim_has_another_reason(bench: ActivityBench) -> None:
    """It is not the payment of the part that an operator resolved: both are gone."""
    await bench.bring(order_of(), "finalize")
    await by_hand(bench, 1000)
    (goodwill,) = bench.world.stripe.account.refunds.values()
    goodwill.created -= 60
    await bench.do(Refunds.claim_refund, refund := refund_of(amount=Decimal("20.00")))
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(Reconciliation.follow_refunds, "o1")

    later = refund_of("r2", lines=(), amount=Decimal("29.99"))
    assert (await bench.do(Refunds.claim_refund, later)).refusal == "more_than_left"
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    assert refunded(bench) == [(1000, "succeeded"), (2998, "succeeded")]


async def test_the_rest_that_fails_after_a_part_was_paid_in_the_dashboard(bench: ActivityBench) -> None:
    """Reconciliation does not take what is owed again for what the operator has paid."""
    refund = await claimed(bench, refund_of(amount=Decimal("36.00")))
    await by_hand(bench, 3600)
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    await bench.do(Inventory.release_stock, "o1")
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '30 days'")
    assert (await bench.do(Reconciliation.check_payments, "")).found == ()
    (_, rest) = bench.world.stripe.account.refunds.values()
    rest.fail()
    await bench.do(Reconciliation.follow_refunds, "o1")

    (found,) = (await bench.do(Reconciliation.check_payments, "")).found
    assert found.remedy == "void_payment"


async def test_a_failed_part_is_no_failure_of_the_rest(bench: ActivityBench) -> None:
    """A cancel makes its own refund of all that is left, without an operator: it may fail by itself."""
    refund = await claimed(bench, paymentMethodId="pm_refund_failed")
    with pytest.raises(Permanent):
        await make(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")

    with pytest.raises(Permanent, match="the refund failed"):
        await bench.do(Payments.void_payment, "o1")
    assert refunded(bench) == [(2999, "failed"), (5998, "failed")]


async def test_a_part_that_fails_after_the_rest_was_refunded(bench: ActivityBench) -> None:
    """What it leaves is refunded by one more attempt, under a key that Stripe has not seen."""
    refund = await claimed(bench)
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    (part, _) = bench.world.stripe.account.refunds.values()
    part.fail()

    assert "refunded" in (await bench.do(Payments.void_payment, "o1")).note
    assert refunded(bench) == [(2999, "failed"), (2999, "succeeded"), (2999, "succeeded")]


async def test_what_an_operator_has_paid_is_not_refunded_by_a_cancel(bench: ActivityBench) -> None:
    """The customer has it already: only the rest is refunded."""
    refund = await claimed(bench, refund_of(amount=Decimal("10.00")))
    await resolve(bench, "resolved")
    assert (await make(bench, refund)).paid_by_hand
    assert (await finish(bench, refund)).status == "made"
    await bench.do(OrderState.claim_cancellation, "o1")

    for _ in range(2):
        await bench.do(Payments.void_payment, "o1")
    assert refunded(bench) == [(4998, "succeeded")]


async def test_somebody_refunds_while_a_cancel_refunds_the_rest(
    bench: ActivityBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for an amount, because an operator has paid a part by other means; Stripe refuses more than is left."""
    refund = await claimed(bench, refund_of(amount=Decimal("10.00")))
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")
    forestall(bench, monkeypatch, "refund")
    with pytest.raises(Unavailable, match="somebody has refunded meanwhile"):
        await bench.do(Payments.void_payment, "o1")


async def test_what_an_operator_has_refunded_in_the_dashboard_counts_once(bench: ActivityBench) -> None:
    """Neither a later refund nor a cancel returns less because of it."""
    refund = await claimed(bench, refund_of(amount=Decimal("10.00")))
    await by_hand(bench, 1000)
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)
    later = refund_of("r2", lines=(), amount=Decimal("49.98"))
    await bench.do(Refunds.claim_refund, later)
    await bench.do(OrderState.claim_cancellation, "o1")

    await bench.do(Payments.void_payment, "o1")
    assert refunded(bench) == [(1000, "succeeded"), (4998, "succeeded")]


async def test_everything_was_paid_by_other_means(bench: ActivityBench) -> None:
    """Then a cancel refunds nothing."""
    refund = await claimed(bench, refund_of(amount=Decimal("59.98")))
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")

    assert "paid back by hand" in (await bench.do(Payments.void_payment, "o1")).note
    assert refunded(bench) == []


async def test_a_skipped_refund_counts_for_nothing(bench: ActivityBench) -> None:
    """Another one may have its units."""
    refund = await claimed(bench)
    await resolve(bench, "skip")

    claim = await make(bench, refund)
    assert (claim.status, claim.refusal) == ("withdrawn", "settled_by_hand")
    everything = (RefundLine(product_id="1", quantity=2, restock=2),)
    assert (await bench.do(Refunds.claim_refund, refund_of("r2", lines=everything))).status == "claimed"


async def test_a_restock_after_the_order_was_undone(bench: ActivityBench) -> None:
    """The undo has put everything back: nothing is added."""
    refund = await claimed(bench)
    await make(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    await bench.do(Inventory.release_stock, "o1")

    assert (await finish(bench, refund)).status == "made"
    assert await bench.stock() == (100, 0)


async def test_an_undo_after_a_restock(bench: ActivityBench) -> None:
    """It puts back what is not back yet, and the sums of the database agree."""
    refund = await claimed(bench)
    await make(bench, refund)
    await finish(bench, refund)
    assert await totals(bench) == (0, 1)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    await bench.do(Inventory.release_stock, "o1")

    assert await bench.stock() == (100, 0)
    assert await totals(bench) == (0, 0)


async def test_an_undo_after_units_were_lost(bench: ActivityBench) -> None:
    """Units that were refunded and not put back do not exist any more: the next customer cannot order them."""
    refund = await claimed(bench, refund_of(lines=(RefundLine(product_id="1", quantity=1),)))
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    for _ in range(2):
        await bench.do(Inventory.release_stock, "o1")

    assert await bench.stock() == (99, 0)
    assert await totals(bench) == (0, 1)
    assert await bench.pool.fetchval("SELECT sold FROM inventory WHERE product_id = '1'") == 1
    assert await bench.pool.fetchval("SELECT written_off FROM reservations") == 1


@pytest.mark.parametrize("how", ["nothing left", "skipped", "follows Stripe"])
async def test_units_of_a_refund_that_is_withdrawn_after_an_undo(bench: ActivityBench, how: str) -> None:
    """It was never made, and the cancel has refunded everything: its unit is back in stock, once."""
    units = await count_units(bench.pool)
    refund = await claimed(bench, refund_of(lines=LOST), paymentMethodId="pm_refund_failed")
    with pytest.raises(Permanent):
        await make(bench, refund)
    await cancel(bench)
    assert await bench.stock() == (99, 0)

    if how == "follows Stripe":
        await bench.do(Reconciliation.follow_refunds, "o1")
    else:
        await resolve(bench, "skip" if how == "skipped" else "retry")
    for _ in range(2):
        assert (await make(bench, refund)).status == "withdrawn"
    assert await bench.stock() == (100, 0)
    assert await totals(bench) == (0, 0)
    assert await stock_findings(bench.pool, units) == []


async def test_units_of_a_refund_that_fails_after_an_undo(bench: ActivityBench) -> None:
    """It was made and its unit is gone, whoever has the money now."""
    units = await count_units(bench.pool)
    refund = await claimed(bench, refund_of(lines=LOST), paymentMethodId="pm_card_pendingRefund")
    await make(bench, refund)
    await finish(bench, refund)
    await cancel(bench)
    (made, _) = bench.world.stripe.account.refunds.values()
    made.fail()
    await bench.do(Reconciliation.follow_refunds, "o1")

    assert await bench.pool.fetchval("SELECT status FROM order_refunds") == "withdrawn"
    assert await bench.stock() == (99, 0)
    assert await stock_findings(bench.pool, units) == []


@pytest.mark.parametrize(("left", "lost"), [(100, 1), (0, 0)], ids=["in stock", "sold meanwhile"])
async def test_a_withdrawn_refund_that_stands_after_all(bench: ActivityBench, left: int, lost: int) -> None:
    """A late attempt has made it: its unit is lost once more, as far as there is one."""
    refund = await claimed(bench, refund_of(lines=LOST))
    await cancel(bench, pays=False)
    await make(bench, refund)
    await bench.pool.execute("UPDATE order_refunds SET status = 'withdrawn', refusal = 'nothing_left'")
    await bench.pool.execute("UPDATE reservations SET written_off = 0")
    await bench.pool.execute("UPDATE inventory SET quantity = $1, sold = 0 WHERE product_id = '1'", left)

    await bench.do(Reconciliation.follow_refunds, "o1")
    assert await bench.pool.fetchval("SELECT status FROM order_refunds") == "claimed"
    assert await bench.stock() == (left - lost, 0)
    assert await totals(bench) == (0, lost)


async def test_a_refund_that_stripe_no_longer_knows(bench: ActivityBench) -> None:
    """One more might be one too many: an operator must decide."""
    refund = await claimed(bench)
    await make(bench, refund)
    bench.world.stripe.account.refunds.clear()

    with pytest.raises(Permanent, match="does not know the refund"):
        await make(bench, refund)
