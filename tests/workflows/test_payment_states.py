"""Every state of a payment. What Stripe may do to one call: tests/proof/matrix/test_external_services.py."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from orders.models import Stage
from sandbox.faults import Fault, Kind
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in
from tests.support.scenarios import (
    REFUSED_ADDRESS,
    Run,
    emails_to_customer,
    ending_of,
    final_error,
    marks,
    resolve,
    seconds_to_retry,
    until_attempts,
    until_stage,
    until_stuck,
)
from tests.support.shop import Shop, an_order, open_shop

O = "o1"  # noqa: E741 (the one order of each test)

CREATE = "POST /v1/payment_intents"
CONFIRM = "POST /v1/payment_intents/*/confirm"
CAPTURE = "POST /v1/payment_intents/*/capture"
REFUND = "POST /v1/refunds"

THREE_D_SECURE = an_order(paymentMethodId="pm_card_authenticationRequired")


def refused(card: str = "pm_123") -> dict[str, Any]:
    """An order that the warehouse refuses after the payment."""
    return an_order(shippingAddress=REFUSED_ADDRESS, paymentMethodId=card)


async def check(shop: Shop, run: Run, how: str, code: str | None) -> None:
    ending = await ending_of(run)
    assert (ending.how, ending.code) == (how, code), ending
    await assert_invariants(shop, O)


# ------------------------------------------------------------------------------------------------------------------ 3DS


@pytest.fixture
async def waiting(shop: Shop) -> Run:
    """An order whose customer is asked to authenticate the payment."""
    run = await shop.start(THREE_D_SECURE, O)
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    return run


async def authenticate(shop: Shop, *, succeeds: bool = True) -> None:
    shop.world.stripe.account.authenticate((await shop.row(O))["payment_intent_id"], succeeds=succeeds)


async def test_authenticated_and_told_by_a_signal(shop: Shop, waiting: Run) -> None:
    """The webhook's signal is followed at once, by reading the payment."""
    await authenticate(shop)
    await waiting.signal("payment-updated")
    await check(shop, waiting, "completed", None)


async def test_authenticated_and_found_by_a_poll(shop: Shop, waiting: Run) -> None:
    """A signal that never comes is not needed."""
    await authenticate(shop)
    await shop.advance(waiting, timedelta(minutes=1))
    await check(shop, waiting, "completed", None)


async def test_a_signal_without_news_waits_on(shop: Shop, waiting: Run) -> None:
    """Signals are hints: the payment itself decides, however many there are."""
    for attempt in range(1, 4):
        await waiting.signal("payment-updated")
        await until_attempts(shop, "read_payment", attempt)
    await authenticate(shop)
    await waiting.signal("payment-updated")
    await check(shop, waiting, "completed", None)


async def test_authenticated_at_the_deadline(shop: Shop, waiting: Run) -> None:
    """After the last poll, before the deadline's own look: the payment is read once more, and the order is placed."""
    await shop.advance(waiting, timedelta(minutes=14))
    polls = shop.hooks.calls.count((O, "read_payment"))
    await authenticate(shop)
    await shop.advance(waiting, timedelta(minutes=2))
    await check(shop, waiting, "completed", None)
    assert shop.hooks.calls.count((O, "read_payment")) == polls + 1


async def test_never_authenticated(shop: Shop, waiting: Run) -> None:
    """At the deadline the payment is voided and the order rejected; a customer who never paid gets no e-mail."""
    await shop.advance(waiting, timedelta(minutes=16))
    await check(shop, waiting, "completed", "authentication_expired")
    assert shop.world.provider_records()["payments"][0]["status"] == "canceled"
    assert await shop.status(O) == "rejected"
    assert emails_to_customer(shop, O) == []


async def test_authentication_fails(shop: Shop, waiting: Run) -> None:
    """The bank could not authenticate the customer: a business refusal."""
    await authenticate(shop, succeeds=False)
    await waiting.signal("payment-updated")
    await check(shop, waiting, "completed", "authentication_failed")


async def test_authenticated_and_then_declined(shop: Shop) -> None:
    """The customer authenticates, and the card has no money: a decline, read from the payment."""
    card = "pm_card_authenticationRequiredChargeDeclinedInsufficientFunds"
    run = await shop.start(an_order(paymentMethodId=card), O)
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    await authenticate(shop)
    await run.signal("payment-updated")
    await check(shop, run, "completed", "card_declined")


async def test_cancelled_by_the_customer_while_waiting(shop: Shop, waiting: Run) -> None:
    """cancel-order ends the waiting at once; the payment is voided."""
    assert (await shop.cancel(O)).cancelled
    await check(shop, waiting, "completed", "cancelled")


async def test_cancelled_by_an_operator_while_waiting(shop: Shop, waiting: Run) -> None:
    """A Temporal cancel interrupts the timer; the payment is voided, the run cancelled."""
    await waiting.cancel()
    assert (await ending_of(waiting)).how == "cancelled"
    await assert_invariants(shop, O)


async def test_the_payment_is_cancelled_at_stripe_while_waiting(shop: Shop, waiting: Run) -> None:
    """The payment was canceled in the dashboard: the run fails, and the stock is back."""
    shop.world.stripe.account.intent((await shop.row(O))["payment_intent_id"]).status = "canceled"
    await waiting.signal("payment-updated")
    await check(shop, waiting, "failed", "authorization_expired")


# ------------------------------------------------------------------------------------------------------------- declines

DECLINES = {
    "pm_card_chargeDeclined": "generic_decline",
    "pm_card_chargeDeclinedInsufficientFunds": "insufficient_funds",
    "pm_card_chargeDeclinedExpiredCard": "expired_card",
    "pm_card_chargeDeclinedIncorrectCvc": "incorrect_cvc",
    "pm_card_chargeDeclinedProcessingError": "processing_error",
    "pm_card_chargeDeclinedVelocityLimitExceeded": "card_velocity_exceeded",
    "pm_card_chargeCustomerFail": "generic_decline",
    "pm_card_chargeDeclinedLostCard": None,
    "pm_card_chargeDeclinedStolenCard": None,
    "pm_card_chargeDeclinedFraudulent": None,
}


@pytest.mark.parametrize(("card", "reason"), DECLINES.items(), ids=DECLINES)
async def test_a_decline(shop: Shop, card: str, reason: str | None) -> None:
    """The run completes with the reason, unless the customer must not learn it; no e-mail, and nothing is held."""
    run = await shop.start(an_order(paymentMethodId=card), O)
    await check(shop, run, "completed", "card_declined")
    assert (await run.result()).error == ("the card was declined" + (f" ({reason})" if reason else ""))
    assert emails_to_customer(shop, O) == []


async def test_an_unknown_payment_method(shop: Shop) -> None:
    """What the customer chose does not exist: a business no, not a failure."""
    run = await shop.start(an_order(paymentMethodId="pm_nobody"), O)
    await check(shop, run, "completed", "payment_refused")


async def test_the_payment_is_cancelled_at_stripe_before_the_capture(shop: Shop) -> None:
    """The fulfillment is canceled, the stock is back, the run fails, and the customer gets an e-mail."""
    held = shop.hooks.hold("capture_payment")
    run = await shop.start(order_id=O)
    await held.reached.wait()
    shop.world.stripe.account.expire((await shop.row(O))["payment_intent_id"])
    held.let_go()
    await check(shop, run, "failed", "authorization_expired")
    assert emails_to_customer(shop, O) == ["order_failed"]


# ------------------------------------------------------------------------------------------------- silence, and a pause


@pytest.mark.prove
@pytest.mark.parametrize("kind", one_in(2, ["hang_after", "hang_before"]))
async def test_stripe_hangs_in_every_post(shop: Shop, kind: Kind) -> None:
    """The client gives up first, and asks again under the same key."""
    for route in (CREATE, CONFIRM, CAPTURE):
        shop.world.faults.add(Fault(service="stripe", route=route, kind=kind))
    run = await shop.start(order_id=O)
    await check(shop, run, "completed", None)
    assert not shop.world.faults.pending()


async def test_stripe_asks_for_time(shop: Shop) -> None:
    """A Retry-After is honored: the next attempt comes when Stripe said, and not before."""
    shop.world.faults.add(
        Fault(service="stripe", route=CONFIRM, kind="status", status=429, headers={"Retry-After": "60"})
    )
    run = await shop.start(order_id=O)
    assert await seconds_to_retry(run) == 60
    await shop.advance(run, timedelta(seconds=60))
    await check(shop, run, "completed", None)


# --------------------------------------------------------------------------------------------------- automatic capture


@pytest.fixture
async def charging(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """A shop that charges at the confirmation."""
    async with open_shop(database_url, temporal, payment_capture="automatic") as opened:
        yield opened


async def test_automatic_capture(charging: Shop) -> None:
    """The money is taken at the confirmation; there is no capture request."""
    run = await charging.start(order_id=O)
    await check(charging, run, "completed", None)
    assert not [entry for entry in charging.world.journal.about() if entry["path"].endswith("/capture")]


async def test_a_pending_refund_ends_the_undo(charging: Shop) -> None:
    """The bank takes its days; the order is closed, the refund written down as pending."""
    run = await charging.start(refused("pm_card_pendingRefund"), O)
    await check(charging, run, "completed", "fulfillment_refused")
    assert [tuple(each) for each in await refunds(charging)] == [("pending", 5998, 1)]


async def test_a_failed_refund_parks_until_a_person_asks_for_another(charging: Shop) -> None:
    """A second refund is a second business attempt: only after a resolution, and under a key of its own."""
    run = await charging.start(refused("pm_refund_failed"), O)
    assert await until_stuck(run) == ("void_payment",)
    assert await marks(run) == ("parked", "void_payment")
    intent = charging.world.stripe.account.intent((await charging.row(O))["payment_intent_id"])
    intent.payment_method = "pm_123"  # the customer's bank has mended the account
    await resolve(run, "void_payment", "retry")
    await check(charging, run, "completed", "fulfillment_refused")
    assert [tuple(each) for each in await refunds(charging)] == [("failed", 5998, 1), ("succeeded", 5998, 2)]


async def test_a_failed_refund_whose_answer_is_lost_is_not_tried_again(charging: Shop) -> None:
    """The next attempt finds that the refund failed, and leaves another refund to an operator."""
    charging.world.faults.add(Fault(service="stripe", route=REFUND, kind="reset_after"))
    run = await charging.start(refused("pm_refund_failed"), O)
    await until_stuck(run)
    assert len(charging.world.stripe.account.refunds) == 1
    await run.terminate()


async def test_a_refund_that_fails_again_parks_again(charging: Shop) -> None:
    """Each resolution allows one attempt; money that was given back otherwise is `resolved`."""
    run = await charging.start(refused("pm_refund_failed"), O)
    await until_stuck(run)
    await resolve(run, "void_payment", "retry")
    await until_stuck(run)
    assert len(await refunds(charging)) == 2
    await resolve(run, "void_payment", "resolved", "paid back by bank transfer")
    ending = await ending_of(run)
    assert (ending.how, ending.code) == ("completed", "fulfillment_refused")
    assert await charging.stock() == (100, 0)
    assert len(await refunds(charging)) == 2


async def test_a_technical_failure_after_the_charge(charging: Shop) -> None:
    """The charge is refunded before the run fails."""
    charging.hooks.fail("request_fulfillment", final_error(), "after")
    await check(charging, await charging.start(order_id=O), "failed", "failed")


async def refunds(shop: Shop) -> list[Any]:
    return await shop.pool.fetch("SELECT status, amount, attempt FROM refunds WHERE order_id = $1 ORDER BY attempt", O)
