"""The fault matrix, another card: everything that can come between a refused payment and the end of its order."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.client import WorkflowUpdateFailedError, WorkflowUpdateHandle, WorkflowUpdateStage
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from activities.payments import Payments
from deploy.local.postgres import Postgres
from orders.models import OrderOutcome, PaymentRequest, Stage
from tests.proof.matrix.endings import PLACED, TOTAL, End, O, check_end, has_looked, reconcile, strike
from tests.support.activity_bench import ActivityBench, open_activity_bench, open_clients
from tests.support.activity_hooks import Moment
from tests.support.sample import EXECUTIONS, one_in
from tests.support.scenarios import Run, look, outage, until_stage
from tests.support.servers import copy_database
from tests.support.shop import Shop, an_order, eventually, open_shop

DECLINED: Final = "pm_card_chargeDeclinedInsufficientFunds"
ASKS: Final = "pm_card_authenticationRequired"
GOOD: Final = "pm_card_visa"
UNKNOWN: Final = "pm_unknown"
CONFIRM: Final = "POST /v1/payment_intents/*/confirm"

REJECTED: Final = End("completed", "card_declined", "rejected")
CANCELLED: Final = End("completed", "cancelled", "cancelled")
DEADLINE: Final = timedelta(minutes=10)


@pytest.fixture(scope="module", params=EXECUTIONS)
async def shops(
    postgres: Postgres, temporal: WorkflowEnvironment, request: pytest.FixtureRequest
) -> AsyncIterator[Mapping[str, Shop]]:
    """One that captures when the warehouse has accepted, and one that charges at once."""
    shared: dict[str, Any] = {
        "reconcile_after_seconds": 0,
        "step_execution": request.param,
        "payment_retry_seconds": int(DEADLINE.total_seconds()),
    }
    async with (
        copy_database(postgres) as url,
        open_shop(url, temporal, **shared) as manual,
        open_shop(url, temporal, payment_capture="automatic", **shared) as automatic,
    ):
        yield {"manual": manual, "automatic": automatic}


@pytest.fixture(params=one_in(2, ("manual", "automatic")))
async def shop(shops: Mapping[str, Shop], request: pytest.FixtureRequest) -> Shop:
    await shops[request.param].clear()
    return shops[request.param]


async def wait_for_card(shop: Shop, card: str = DECLINED) -> Run:
    """An order that waits for another payment method."""
    run = await shop.start(an_order(paymentMethodId=card), O)
    await until_stage(run, Stage.AWAITING_PAYMENT)
    return run


async def begin(run: Run, card: str, **options: Any) -> WorkflowUpdateHandle[OrderOutcome]:
    return await run.start_update(
        "pay",
        {"paymentMethodId": card},
        wait_for_stage=WorkflowUpdateStage.ACCEPTED,
        result_type=OrderOutcome,
        **options,
    )


async def pay(run: Run, card: str, **options: Any) -> OrderOutcome:
    return await (await begin(run, card, **options)).result()


async def submit(run: Run) -> OrderOutcome:
    answer: OrderOutcome = await run.execute_update("submit", result_type=OrderOutcome)
    return answer


async def refusal(asked: Awaitable[Any]) -> str | None:
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await asked
    assert isinstance(caught.value.cause, ApplicationError)
    return caught.value.cause.type


def charged(shop: Shop, end: End) -> End:
    """What a shop that charges at once has taken before the undo gave it back."""
    at_once = shop.settings.payment_capture == "automatic"
    return replace(end, captured=TOTAL, refunded=TOTAL) if at_once else end


def authorizations(shop: Shop) -> list[tuple[str, int]]:
    """The payments of the order: status, and what each holds or has taken."""
    payments = shop.world.provider_records()["payments"]
    return [(each["status"], each["authorized"] + each["captured"]) for each in payments]


async def test_another_card_pays(shop: Shop) -> None:
    """The stock stays held, `submit` says what is missing, and the second card pays on the same PaymentIntent."""
    run = await wait_for_card(shop)
    assert await shop.stock() == (98, 2)
    said = await submit(run)
    assert said.error_code == "payment_required"
    assert said.error
    assert "insufficient_funds" in said.error
    assert (await look(run)).payment_required == said
    again = await pay(run, "pm_card_chargeDeclinedExpiredCard")
    assert again.error_code == "payment_required"
    assert again.error
    assert "expired_card" in again.error
    assert (await submit(run)).error == again.error
    assert (await pay(run, GOOD)).success
    assert (await submit(run)).success
    await check_end(shop, run, PLACED)
    assert len(authorizations(shop)) == 1


async def test_no_card_until_the_deadline(shop: Shop) -> None:
    """One timer ends the wait: the stock goes back, and the order is rejected with the last refusal."""
    run = await wait_for_card(shop)
    assert (await pay(run, UNKNOWN)).error_code == "payment_required"
    await shop.advance(run, DEADLINE)
    await check_end(shop, run, replace(REJECTED, code="payment_refused"))


@pytest.mark.prove
async def test_a_card_that_stripe_does_not_know(shop: Shop) -> None:
    """No PaymentIntent was created: the next try creates it, under a key of its own."""
    run = await wait_for_card(shop, UNKNOWN)
    assert authorizations(shop) == []
    assert (await pay(run, "pm_unknown_too")).error_code == "payment_required"
    assert (await pay(run, GOOD)).success
    await check_end(shop, run, PLACED)
    assert len(authorizations(shop)) == 1


@pytest.mark.prove
async def test_the_second_card_asks_the_customer(shop: Shop) -> None:
    """`pay` says so at once; a third card may be tried instead; whoever pays first ends the wait."""
    run = await wait_for_card(shop)
    assert (await pay(run, ASKS)).error_code == "authentication_required"
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    assert (await pay(run, DECLINED)).error_code == "payment_required"
    assert (await pay(run, ASKS)).error_code == "authentication_required"
    intent = (await shop.row(O))["payment_intent_id"]
    shop.world.stripe.account.authenticate(intent, succeeds=False)
    await run.signal("payment-updated")
    await until_stage(run, Stage.AWAITING_PAYMENT)
    assert "authentication_failed" in str((await submit(run)).error)
    assert (await pay(run, ASKS)).error_code == "authentication_required"
    shop.world.stripe.account.authenticate(intent, succeeds=True)
    await run.signal("payment-updated")
    await check_end(shop, run, PLACED)


@pytest.mark.prove
async def test_the_first_card_is_authenticated_after_all(shop: Shop) -> None:
    """Its time is over, and the order waits for another card: the customer's bank settles it all the same."""
    run = await shop.start(an_order(paymentMethodId=ASKS), O)
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    await shop.advance(run, timedelta(minutes=16))
    await until_stage(run, Stage.AWAITING_PAYMENT)
    assert "authentication_expired" in str((await submit(run)).error)
    shop.world.stripe.account.authenticate((await shop.row(O))["payment_intent_id"], succeeds=True)
    await run.signal("payment-updated")
    await check_end(shop, run, PLACED)


@pytest.mark.prove
async def test_authenticated_at_the_deadline(shop: Shop) -> None:
    """The payment is read once more before the order is undone."""
    run = await wait_for_card(shop)
    assert (await pay(run, ASKS)).error_code == "authentication_required"
    shop.world.stripe.account.authenticate((await shop.row(O))["payment_intent_id"], succeeds=True)
    await shop.advance(run, DEADLINE)
    await check_end(shop, run, PLACED)


@pytest.mark.prove
async def test_the_deadline_comes_while_a_card_is_tried(shop: Shop) -> None:
    """What began in time is carried out; one that is refused then gets the outcome of the order."""
    run = await wait_for_card(shop)
    held = shop.hooks.hold("authorize_payment", "before", O)
    asked = await begin(run, "pm_card_chargeDeclinedExpiredCard")
    await held.reached.wait()
    shop.hooks.hold("claim_undo", "before", O).let_go()
    await shop.env.fast_forward(run, DEADLINE)
    held.let_go()
    answer = await asked.result()
    assert answer.error_code in {"card_declined", "payment_required"}
    await check_end(shop, run, REJECTED)


async def test_who_may_pay(shop: Shop) -> None:
    """Nobody before the order waits or after it has ended, and one at a time; what is no payment method is named."""
    run = await wait_for_card(shop)
    wrong: tuple[list[Any], ...] = (
        [],
        [None],
        ["pm_card_visa"],
        [{}],
        [{"paymentMethodId": 7}],
        [{"paymentMethodId": GOOD}, 1],
    )
    for arguments in wrong:
        assert await refusal(run.execute_update("pay", args=arguments)) == "invalid_payment"
    numbered = run.execute_update("pay", {"paymentMethodId": "4242424242424242"})
    assert await refusal(numbered) == "invalid_payment"
    held = shop.hooks.hold("authorize_payment", "after", O)
    first = await begin(run, DECLINED)
    await held.reached.wait()
    assert await refusal(pay(run, GOOD)) == "payment_under_way"
    held.let_go()
    assert (await first.result()).error_code == "payment_required"
    held = shop.hooks.hold("capture_payment", "before", O)
    last = await begin(run, GOOD)
    await held.reached.wait()
    assert await refusal(pay(run, GOOD)) == "not_waiting_for_payment"
    held.let_go()
    assert (await last.result()).success
    await check_end(shop, run, PLACED)


async def test_a_card_comes_while_the_payment_is_read(shop: Shop) -> None:
    """A signal made the run look: the `pay` is tried afterwards."""
    run = await wait_for_card(shop)
    held = shop.hooks.hold("read_payment", "after", O)
    await run.signal("payment-updated")
    await held.reached.wait()
    asked = await begin(run, GOOD)
    held.let_go()
    assert (await asked.result()).success
    await check_end(shop, run, PLACED)


MOMENTS: Final[tuple[Moment, ...]] = ("before", "after")


@pytest.mark.parametrize("moment", one_in(2, MOMENTS))
@pytest.mark.parametrize("who", one_in(3, ("customer", "operator", "terminated")))
async def test_while_a_card_is_tried(shop: Shop, who: str, moment: Moment) -> None:
    """The order is called off, or its run is gone: nothing stays held, or what was authorized places the order."""
    run = await wait_for_card(shop)
    held = shop.hooks.hold("authorize_payment", moment, O)
    asked = await begin(run, GOOD)
    await held.reached.wait()
    if who == "terminated":  # its attempt lives on
        await run.terminate()
        held.let_go()
        await eventually(lambda: has_paid_late(shop), "the late attempt has paid")
        await reconcile(shop)
        again = shop.client.get_workflow_handle(O, result_type=OrderOutcome)
        await check_end(shop, again, PLACED)
        return
    await call_off(shop, run, who)
    held.let_go()
    # The undo of a canceled run waits for the attempt in flight; a customer's cancel has claimed the row already.
    end = charged(shop, CANCELLED) if moment == "after" or who == "operator" else CANCELLED
    await check_end(shop, run, replace(end, how="cancelled", code=None) if who == "operator" else end)
    assert not (await asked.result()).success


@pytest.mark.parametrize("who", one_in(2, ("customer", "operator")))
async def test_called_off_while_it_waits(shop: Shop, who: str) -> None:
    """Nothing is held any more; no e-mail about money that never moved."""
    run = await wait_for_card(shop)
    await call_off(shop, run, who)
    await check_end(shop, run, replace(CANCELLED, how="cancelled", code=None) if who == "operator" else CANCELLED)


@pytest.mark.prove
async def test_terminated_while_it_waits(shop: Shop) -> None:
    """reconcile-orders restarts it: it asks no bank again, waits anew, and numbers the next card after the last one."""
    run = await wait_for_card(shop)
    assert (await pay(run, "pm_card_chargeDeclinedExpiredCard", id="first")).error_code == "payment_required"
    confirms = len(confirmations(shop))
    await run.terminate()
    await reconcile(shop)
    again = shop.client.get_workflow_handle(O, result_type=OrderOutcome)
    await until_stage(again, Stage.AWAITING_PAYMENT)
    assert len(confirmations(shop)) == confirms
    assert (await pay(again, GOOD, id="first")).success
    await check_end(shop, again, PLACED)
    assert len(authorizations(shop)) == 1


@pytest.mark.prove
async def test_the_answer_of_a_try_is_lost(shop: Shop) -> None:
    """The activity repeats the request under the same key: the bank is asked once."""
    run = await wait_for_card(shop)
    strike(shop, "stripe", CONFIRM, {"kind": "reset_after"})
    assert (await pay(run, GOOD)).success
    await check_end(shop, run, PLACED)
    assert authorizations(shop) == [("succeeded", TOTAL)]


@pytest.mark.prove
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_worker_fails_while_a_card_is_tried(shop: Shop, moment: Moment) -> None:
    """Before or after its effect: the next attempt is the same try."""
    run = await wait_for_card(shop)
    shop.hooks.fail("authorize_payment", outage(), moment, times=2)
    assert (await pay(run, GOOD)).success
    await check_end(shop, run, PLACED)
    assert len(await tries(shop)) == 1


LATE: Final[Mapping[str, Callable[[Shop], Awaitable[PaymentRequest]]]] = {
    "of the first card": lambda shop: request_of(shop, None),
    "of an earlier try": lambda shop: request_of(shop, 2),
}


@pytest.mark.parametrize("late", one_in(2, LATE.values()), ids=LATE)
@pytest.mark.parametrize("forgotten", one_in(2, (True, False)))
async def test_a_late_attempt(
    shop: Shop, late: Callable[[Shop], Awaitable[PaymentRequest]], *, forgotten: bool
) -> None:
    """It asks no bank: while the order waits, and after it is paid; also when Stripe has forgotten its keys."""
    run = await wait_for_card(shop)
    assert (await pay(run, DECLINED)).error_code == "payment_required"
    assert (await pay(run, DECLINED)).error_code == "payment_required"
    if forgotten:
        shop.world.stripe.keys.clear()
    before = len(confirmations(shop))
    async with a_bench(shop) as bench:
        await bench.do(Payments.authorize_payment, await late(shop))
        assert len(confirmations(shop)) == before
        assert (await look(run)).stage is Stage.AWAITING_PAYMENT
        assert (await pay(run, GOOD)).success
        await bench.do(Payments.authorize_payment, await late(shop))
    assert len(confirmations(shop)) == before + 1
    await check_end(shop, run, PLACED)


# --------------------------------------------------------------------------------------------------------------- parts


@asynccontextmanager
async def a_bench(shop: Shop) -> AsyncIterator[ActivityBench]:
    """Where attempts are executed of which the worker knows nothing any more."""
    async with (
        open_clients(shop.settings) as clients,
        open_activity_bench(shop.settings, shop.sandbox, clients) as bench,
    ):
        yield bench


async def call_off(shop: Shop, run: Run, who: str) -> None:
    if who == "operator":
        await run.cancel()
        return
    cancel = await shop.start_cancel(O)
    await eventually(lambda: has_looked(shop, cancel), "cancel-order has looked at the row")


async def request_of(shop: Shop, number: int | None) -> PaymentRequest:
    """What an attempt of this try was given; None: of the order's own card, which would be approved by now."""
    key = None if number is None else (await tries(shop))[number]
    return PaymentRequest(order_id=O, payment_method_id=GOOD, pay=key)


async def tries(shop: Shop) -> dict[int, str]:
    rows = await shop.pool.fetch("SELECT number, key FROM payment_tries WHERE order_id = $1", O)
    return {row["number"]: row["key"] for row in rows}


async def has_paid_late(shop: Shop) -> bool:
    return [amount for _, amount in authorizations(shop)] == [TOTAL]


def confirmations(shop: Shop) -> list[dict[str, Any]]:
    """The requests that asked a bank, save those that Stripe answered from its memory."""
    return [each for each in shop.world.journal.about() if each["path"].endswith("/confirm")]
