"""Refunds that somebody makes in the dashboard: what they mean for an order, and who hears of one that fails."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from activities.inventory import Inventory
from activities.order_state import OrderState
from activities.payments import Payments
from activities.reconciliation import Reconciliation
from activities.refunds import Refunds
from gateways.gauge_store import read_numbers
from gateways.stripe import StripeGateway
from orders.errors import Permanent
from orders.models import Refund
from tests.integration.activities.test_refunds import by_hand, claimed, finish, make, refund_of, refunded, resolve
from tests.support.activity_bench import ActivityBench, order_of
from tests.support.shop import eventually


async def test_how_an_operator_paid_a_part_fails_later(bench: ActivityBench) -> None:
    """It is reported until the money is refunded again, also once a cancel has refunded what was owed beside it."""
    refund = await claimed(bench, paymentMethodId="pm_refund_failed")
    await pay_in_dashboard(bench, refund, 2999)
    assert await stuck(bench) == []
    await fail_last(bench)
    assert [text.endswith("over 29.99 usd failed") for text in await stuck(bench)] == [True]
    assert await failed_refunds(bench) == 1

    await cancel(bench)
    assert refunded(bench) == [(2999, "failed"), (2999, "failed"), (2999, "succeeded")]
    assert len(await stuck(bench)) == 1
    await by_hand(bench, 2999)
    await bench.do(Reconciliation.follow_refunds, "o1")
    assert (await stuck(bench), await failed_refunds(bench)) == ([], 0)


async def test_how_an_operator_paid_a_part_of_a_closed_order_fails_later(bench: ActivityBench) -> None:
    """What is left of its payment is no more than the operator says is paid: only the refund tells."""
    refund = await claimed(bench, refund_of(amount=Decimal("36.00")), paymentMethodId="pm_refund_failed")
    await pay_in_dashboard(bench, refund, 3600)
    await cancel(bench)
    await bench.do(Inventory.release_stock, "o1")
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '30 days'")
    await fail(bench, 1)

    assert (await bench.do(Reconciliation.check_payments, "")).found == ()
    assert [text.endswith("over 36.00 usd failed") for text in await stuck(bench)] == [True]


async def test_how_an_operator_paid_a_whole_order_fails_later(bench: ActivityBench) -> None:
    """What the operator said of the payment meant that refund."""
    await bench.bring(order_of(paymentMethodId="pm_refund_failed"), "finalize")
    await bench.do(OrderState.claim_cancellation, "o1")
    with pytest.raises(Permanent):
        await bench.do(Payments.void_payment, "o1")
    await mend_bank(bench)
    await by_hand(bench)
    await resolve(bench, "resolved", "void_payment")
    await bench.do(Payments.void_payment, "o1")
    await bench.do(Inventory.release_stock, "o1")
    await bench.do(Reconciliation.follow_refunds, "o1")
    assert (await stuck(bench), await failed_refunds(bench)) == ([], 0)
    await fail_last(bench)
    assert (len(await stuck(bench)), await failed_refunds(bench)) == (1, 1)


async def test_a_goodwill_of_a_kept_order_fails_later(bench: ActivityBench) -> None:
    """It is reported until an operator settles it, or until a cancel has refunded everything."""
    await goodwill(bench, 1000)
    await fail_last(bench)
    assert (len(await stuck(bench)), await failed_refunds(bench)) == (1, 1)
    (refund,) = bench.world.stripe.account.refunds
    await resolve(bench, "resolved", f"refund:{refund}")
    assert (await stuck(bench), await failed_refunds(bench)) == ([], 0)
    await bench.pool.execute("DELETE FROM resolutions")

    await cancel(bench)
    assert refunded(bench) == [(1000, "failed"), (5998, "succeeded")]
    assert (await stuck(bench), await failed_refunds(bench)) == ([], 0)


async def test_another_part_does_not_make_up_for_a_refund_by_hand(bench: ActivityBench) -> None:
    """It was owed beside it."""
    await goodwill(bench, 2999)
    await fail_last(bench)
    await bench.do(Refunds.claim_refund, refund_of())
    await make(bench, refund_of())
    assert (len(await stuck(bench)), await failed_refunds(bench)) == (1, 1)


async def test_a_closed_order_is_refunded_where_the_dashboard_failed(bench: ActivityBench) -> None:
    """Nobody says that it is paid, so the undo does it: an alert would ask for money that comes by itself."""
    await bench.bring(order_of(), "finalize")
    await by_hand(bench)
    await cancel(bench)
    await bench.do(Inventory.release_stock, "o1")
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '30 days'")
    await fail_last(bench)

    assert await stuck(bench) == []
    (found,) = (await bench.do(Reconciliation.check_payments, "")).found
    assert found.remedy == "void_payment"
    await bench.do(Payments.void_payment, "o1")
    assert refunded(bench) == [(5998, "failed"), (5998, "succeeded")]
    assert await failed_refunds(bench) == 0


async def test_a_cancel_after_everything_was_paid_by_other_means(bench: ActivityBench) -> None:
    """That the dashboard failed too, before the operator paid otherwise, is no failure of the cancel."""
    refund = await claimed(bench, refund_of(amount=Decimal("59.98")), paymentMethodId="pm_refund_failed")
    with pytest.raises(Permanent):
        await make(bench, refund)
    await by_hand(bench, 5998)
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)
    await bench.do(OrderState.claim_cancellation, "o1")

    assert "paid back by hand" in (await bench.do(Payments.void_payment, "o1")).note
    assert refunded(bench) == [(5998, "failed"), (5998, "failed")]


async def test_a_failed_goodwill_is_no_failure_of_a_cancel(bench: ActivityBench) -> None:
    """Its own refund of all that is left was never tried."""
    await bench.bring(order_of(paymentMethodId="pm_refund_failed"), "finalize")
    await by_hand(bench, 100)
    await mend_bank(bench)
    await bench.do(OrderState.claim_cancellation, "o1")

    assert "refunded" in (await bench.do(Payments.void_payment, "o1")).note
    assert refunded(bench) == [(100, "failed"), (5998, "succeeded")]


async def test_all_of_a_part_that_an_operator_paid_in_the_dashboard_is_right(bench: ActivityBench) -> None:
    """Nothing is charged any more, and that is what the shop asked for; a goodwill of all of it is not."""
    refund = await claimed(bench, refund_of(amount=Decimal("59.98")), paymentMethodId="pm_refund_failed")
    await pay_in_dashboard(bench, refund, 5998)
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '30 days'")
    assert (await bench.do(Reconciliation.check_payments, "")).found == ()

    await bench.pool.execute("UPDATE order_refunds SET amount = 1000")
    await bench.pool.execute("UPDATE orders SET payment_checked_at = NULL")
    (found,) = (await bench.do(Reconciliation.check_payments, "")).found
    assert "has 0.00 usd charged" in found.description


async def test_a_refund_that_fails_while_its_order_is_checked(
    bench: ActivityBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order is not marked as correct: the next run finds what the check had read too early."""
    await bench.bring(order_of(paymentMethodId="pm_card_pendingRefund"), "finalize")
    await cancel(bench)
    await bench.do(Inventory.release_stock, "o1")
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '30 days'")
    ask = StripeGateway.refunds

    async def answered_too_early(*args: Any) -> Any:
        found = await ask(*args)
        monkeypatch.setattr(StripeGateway, "refunds", ask)
        await fail_last(bench)
        return found

    monkeypatch.setattr(StripeGateway, "refunds", answered_too_early)
    assert (await bench.do(Reconciliation.check_payments, "")).found == ()
    (found,) = (await bench.do(Reconciliation.check_payments, "")).found
    assert found.remedy == "void_payment"


async def test_a_refund_that_fails_while_its_order_is_marked(bench: ActivityBench) -> None:
    """The mark waits for the change, and is not made."""
    await bench.bring(order_of(), "finalize")
    await bench.pool.execute("UPDATE orders SET created_at = now() - interval '30 days'")
    async with bench.pool.acquire() as webhook:
        change = webhook.transaction()
        await change.start()
        await webhook.execute("UPDATE orders SET payment_checked_at = NULL")
        checking = asyncio.create_task(bench.do(Reconciliation.check_payments, ""))
        await eventually(lambda: is_waiting(bench), "the mark waits")
        await change.commit()
        await checking
    assert (await bench.row("o1"))["payment_checked_at"] is None


async def is_waiting(bench: ActivityBench) -> bool:
    waiting: bool = await bench.pool.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())"
    )
    return waiting


async def mend_bank(bench: ActivityBench) -> None:
    """From now on refunds succeed."""
    (intent,) = bench.world.stripe.account.intents.values()
    intent.payment_method = "pm_123"


async def pay_in_dashboard(bench: ActivityBench, refund: Refund, amount: int) -> None:
    """The refund of a part fails; an operator makes it in the dashboard, and says so."""
    with pytest.raises(Permanent):
        await make(bench, refund)
    await mend_bank(bench)
    await by_hand(bench, amount)
    await resolve(bench, "resolved")
    await make(bench, refund)
    await finish(bench, refund)


async def cancel(bench: ActivityBench) -> None:
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")


async def fail(bench: ActivityBench, number: int) -> None:
    """The bank returns a refund, days later; reconciliation reads it."""
    [*bench.world.stripe.account.refunds.values()][number].fail()
    await bench.do(Reconciliation.follow_refunds, "o1")


async def fail_last(bench: ActivityBench) -> None:
    await fail(bench, -1)


async def goodwill(bench: ActivityBench, amount: int) -> None:
    """A refund in the dashboard, which is known because a part was claimed before it, of which less is left now."""
    refund = await claimed(bench, refund_of("r0", lines=(), amount=Decimal("59.98")))
    await by_hand(bench, amount)
    assert (await make(bench, refund)).status == "withdrawn"


async def stuck(bench: ActivityBench) -> list[str]:
    return [problem.text for problem in await bench.do(Reconciliation.find_stuck_refunds, 100)]


async def failed_refunds(bench: ActivityBench) -> int:
    return (await read_numbers(bench.database)).failed_refunds
