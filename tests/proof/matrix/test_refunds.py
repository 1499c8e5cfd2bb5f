"""The fault matrix, refunds of parts: what refund-order needs lets it down in every way that is known."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from orders.models import RefundOutcome
from tests.proof.matrix.endings import TOTAL, O, reconcile, strike, without_pauses
from tests.proof.matrix.test_external_services import FAULTS, PATIENCE, REFUND
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in
from tests.support.scenarios import Run, until_attempts, until_marked
from tests.support.servers import copy_database
from tests.support.shop import Shop, an_order, open_shop

PART: Final = 2999  # one of the two units of the order

# Calls that only read, and those that are made before and after the refund.
READS: Final = ("GET /v1/payment_intents/*", "GET /v1/refunds")


@pytest.fixture(scope="module")
async def shops(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with (
        copy_database(postgres) as url,
        open_shop(url, temporal, http_timeout_seconds=PATIENCE, reconcile_after_seconds=0) as shop,
    ):
        yield shop


@pytest.fixture
async def shop(shops: Shop) -> Shop:
    """As new, with one paid order."""
    await shops.clear()
    await shops.place(order_id=O)
    return shops


async def check_refunded(shop: Shop, run: Run) -> None:
    """The refund is made once, one unit is back, the customer is told once, and the books agree."""
    outcome = RefundOutcome.model_validate(await without_pauses(shop, run, run.result()))
    assert (outcome.refunded, outcome.refund_amount, outcome.restocked) == (True, 29.99, 1), outcome
    refunds = await shop.pool.fetch("SELECT status, amount, refund_id FROM refunds WHERE order_id = $1", O)
    assert [tuple(each) for each in refunds] == [("succeeded", PART, "r1")]
    assert shop.world.provider_records()["orders"][O]["refunded"] == PART
    assert await shop.stock() == (99, 0)
    assert [each.template for each in shop.world.inbox.emails].count("order_refunded") == 1
    await assert_invariants(shop, O)


@pytest.mark.parametrize("fault", one_in(3, FAULTS.values()), ids=FAULTS)
async def test_stripe_lets_the_refund_down(shop: Shop, fault: dict[str, Any]) -> None:
    """Whether the POST took effect or not: the part is refunded once."""
    strike(shop, "stripe", REFUND, fault)
    await check_refunded(shop, await shop.start_refund(O, "r1"))
    assert not shop.world.faults.pending()


@pytest.mark.parametrize("route", READS)
@pytest.mark.parametrize("kind", one_in(2, ["reset_before", "hang_after", "status"]))
async def test_stripe_lets_a_read_down(shop: Shop, route: str, kind: str) -> None:
    """It is read again; nothing is refunded by what is not known."""
    strike(shop, "stripe", route, {"kind": kind, "times": 2})
    await check_refunded(shop, await shop.start_refund(O, "r1"))


async def test_stripe_forgets_the_key_of_a_lost_answer(shop: Shop) -> None:
    """More than a day lies between two attempts: the second one finds the refund by its refund id."""

    async def first() -> None:
        strike(shop, "stripe", REFUND, {"kind": "reset_after"})

    async def second() -> None:
        shop.world.stripe.keys.clear()

    shop.hooks.when("make_refund", first)
    shop.hooks.when("make_refund", second)
    await check_refunded(shop, await shop.start_refund(O, "r1"))
    assert [name for _, name in shop.hooks.calls].count("make_refund") > 1


async def test_stripe_is_out_for_hours(shop: Shop) -> None:
    """The refund outlasts the outage, and calls for attention meanwhile."""
    strike(shop, "stripe", "*", {"kind": "status", "status": 503, "times": None})
    run = await shop.start_refund(O, "r1")
    await until_attempts(shop, "make_refund", 1)
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "refund:r1")
    shop.world.faults.clear()
    await check_refunded(shop, run)


async def test_the_mail_is_lost(shop: Shop) -> None:
    """It is sent again under the key of this refund, which another refund's mail does not have."""
    strike(shop, "email", "*", {"kind": "reset_after"})
    await check_refunded(shop, await shop.start_refund(O, "r1"))
    await shop.refund(O, "r2")
    mails = [each.data["refundId"] for each in shop.world.inbox.emails if each.template == "order_refunded"]
    assert mails == ["r1", "r2"]


@pytest.mark.parametrize(
    ("activity", "moment"),
    [(each, moment) for each in ("claim_refund", "make_refund", "return_stock") for moment in ("before", "after")],
)
async def test_the_answer_of_an_activity_is_lost(shop: Shop, activity: str, moment: Moment) -> None:
    """The next attempt finds what the first has done."""
    shop.hooks.fail(activity, ConnectionError("lost"), moment)
    await check_refunded(shop, await shop.start_refund(O, "r1"))


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
async def test_a_pending_refund_ends_later(shops: Shop, outcome: str) -> None:
    """What comes of it is followed, whether it arrives or not."""
    await shops.clear()
    await shops.place(an_order(paymentMethodId="pm_card_pendingRefund"), O)
    assert (await shops.refund(O, "r1")).status == "pending"
    (refund,) = shops.world.stripe.account.refunds
    shops.world.stripe.account.settle(refund, succeeds=outcome == "succeed")
    await reconcile(shops)
    kept = await shops.pool.fetchval("SELECT status FROM refunds WHERE refund_id = 'r1'")
    assert kept == {"succeed": "succeeded", "fail": "failed"}[outcome]


async def test_the_order_is_charged_once_more_than_its_refunds(shop: Shop) -> None:
    """Refunds of both units, one after the other, return what was paid, and no more."""
    await check_refunded(shop, await shop.start_refund(O, "r1"))
    assert (await shop.refund(O, "r2")).refunded
    assert shop.world.provider_records()["orders"][O]["refunded"] == TOTAL
    assert (await shop.refund(O, "r3", amount=0.01)).reason == "nothing_left"
