"""Refunds of parts of orders whose run is gone, or that fail days later, are made all the same, and once."""

from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from orders.names import RECONCILE_ORDERS, refund_order_id
from orders.reconciliation import ReconcileReport
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants
from tests.support.manual_actions import refund_by_hand
from tests.support.sample import before_and_after
from tests.support.scenarios import Run, is_running, resolve
from tests.support.servers import copy_database
from tests.support.shop import Shop, an_order, eventually, open_shop

O = "o1"  # noqa: E741 (the one order of each test)

RUN: Final = refund_order_id(O, "r1")
NOTHING: Final = ReconcileReport()
PENDING: Final = an_order(paymentMethodId="pm_card_pendingRefund")
UNIT: Final = {"productId": "1", "quantity": 1}

READ_CLAIMS: Final = "SELECT status FROM order_refunds ORDER BY order_id, refund_id"
A_DAY_LATER: Final = "UPDATE refunds SET checked_at = now() - interval '2 days'"


@pytest.fixture(scope="module")
async def reconciling_shop(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with copy_database(postgres) as url, open_shop(url, temporal, reconcile_after_seconds=0) as opened:
        yield opened


@pytest.fixture
async def shop(reconciling_shop: Shop) -> Shop:
    """A shop in which nothing is too young to be looked at, with a paid order of two units."""
    await reconciling_shop.clear()
    return reconciling_shop


@pytest.mark.parametrize(("at", "moment"), before_and_after(["make_refund", "return_stock"]))
async def test_a_refund_terminated_on_its_way_is_made(shop: Shop, at: str, moment: Moment) -> None:
    """refund-order is started again with its first input, and the attempt left behind changes nothing."""
    await shop.place(order_id=O)
    held = shop.hooks.hold(at, moment, RUN)
    run = await shop.start_refund(O, "r1")
    await held.reached.wait()
    await run.terminate()
    report = await reconcile(shop)
    held.let_go()
    is_made = (at, moment) == ("return_stock", "after")
    restarted = f"refund r1 of order {O}, claimed without a run: refund-order started again"
    assert list(report.restarted) == ([] if is_made else [restarted])
    if not is_made:
        assert (await shop.client.get_workflow_handle(RUN).result())["refunded"]
        assert "order_refunded" in [email.template for email in shop.world.inbox.emails]

    await assert_made(shop, 2999)
    assert await reconcile(shop) == NOTHING


async def test_a_refund_whose_input_is_gone_is_made_from_its_rows(shop: Shop) -> None:
    """Lines, charges, amount and reason are on the rows; the address is not, so nobody is written to."""
    await shop.place(order_id=O)
    held = shop.hooks.hold("make_refund", "before", "a run that Temporal does not find")
    asked: dict[str, Any] = {"lines": [UNIT, UNIT | {"restock": True}], "amount": 12.5, "reason": "too small"}
    run = await shop.start_refund(O, "r1", "a run that Temporal does not find", **asked)
    await held.reached.wait()
    await run.terminate()
    await reconcile(shop)
    held.let_go()
    assert (await shop.client.get_workflow_handle(RUN).result())["refundAmount"] == 12.5

    await assert_made(shop, 1250)
    assert "order_refunded" not in [email.template for email in shop.world.inbox.emails]


@pytest.mark.prove
async def test_a_refund_that_is_parked_is_left_to_its_run(shop: Shop) -> None:
    """It is claimed, and its run waits for an operator; once that is gone, another one waits."""
    await shop.place(an_order(paymentMethodId="pm_refund_failed"), O)
    run = await shop.start_refund(O, "r1")
    await until_parked(run)
    assert (await reconcile(shop)).restarted == ()
    await run.terminate()
    assert len((await reconcile(shop)).restarted) == 1
    await until_parked(shop.client.get_workflow_handle(RUN))


@pytest.mark.prove
async def test_a_refund_that_fails_days_later_is_made_again(shop: Shop) -> None:
    """Its claim is open again, and waits for an operator. The goods, which are back, do not come back twice."""
    await shop.place(PENDING, O)
    assert (await shop.refund(O, "r1")).status == "pending"
    assert await shop.stock() == (99, 0)
    await fail_refund(shop)

    report = await reconcile(shop)
    assert len(report.refunds) == 1
    assert len(report.restarted) == 1
    run = shop.client.get_workflow_handle(RUN)
    await until_parked(run)
    assert await claims(shop) == ["claimed"]

    await resolve(run, "refund:r1", "retry")
    assert (await run.result())["refunded"]
    assert await shop.stock() == (99, 0)
    await assert_made(shop, 2999)
    assert await reconcile(shop) == NOTHING


@pytest.mark.prove
@pytest.mark.parametrize(("action", "claim"), [("skip", "withdrawn"), ("resolved", "made")])
async def test_a_refund_that_failed_later_is_settled(shop: Shop, action: str, claim: str) -> None:
    """Its goods are back, and do not come back once more, whether or not the customer got the money otherwise."""
    await shop.place(PENDING, O)
    await shop.refund(O, "r1")
    await fail_refund(shop)
    await reconcile(shop)
    run = shop.client.get_workflow_handle(RUN)
    await until_parked(run)
    await resolve(run, "refund:r1", action)
    await run.result()

    assert await claims(shop) == [claim]
    assert (await shop.refund(O, "r2", lines=[UNIT | {"quantity": 2, "restock": True}])).reason == "more_than_ordered"
    assert await shop.stock() == (99, 0)
    await assert_invariants(shop, O)
    await shop.pool.execute(A_DAY_LATER)
    assert await reconcile(shop) == NOTHING


async def test_the_refund_of_a_part_of_a_cancelled_order_fails_later(shop: Shop) -> None:
    """What it leaves is refunded with the whole order, at once: nobody needs to decide about the part."""
    await shop.place(PENDING, O)
    await shop.refund(O, "r1")
    assert (await shop.cancel(O)).cancelled
    await fail_refund(shop)

    report = await reconcile(shop)
    assert report.restarted == ()
    assert len(report.payments) == 1
    assert await claims(shop) == ["withdrawn"]
    assert [each.amount for each in shop.world.stripe.account.refunds.values() if each.stands] == [2999, 2999]
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, O)


@pytest.mark.prove
async def test_an_order_whose_parts_are_all_refunded_is_right(shop: Shop) -> None:
    """Nothing is charged any more, and that is what the shop asked for."""
    await shop.place(order_id=O)
    await shop.refund(O, "r1")
    assert await reconcile(shop) == NOTHING
    await shop.refund(O, "r2")
    assert await reconcile(shop) == NOTHING
    await assert_invariants(shop, O)


async def test_the_rest_of_a_paid_order_that_is_refunded_by_hand_is_told(shop: Shop) -> None:
    """The goods have not left: somebody must cancel the order."""
    await shop.place(order_id=O)
    await shop.refund(O, "r1")
    [payment] = shop.world.stripe.account.intents
    await refund_by_hand(shop, payment)
    [alert] = (await reconcile(shop)).alerted
    assert "59.98 usd has 0.00 usd charged" in alert


async def test_a_refund_of_a_part_that_does_not_arrive_is_told(shop: Shop) -> None:
    """By the name that the shop gave it."""
    await shop.place(PENDING, O)
    await shop.refund(O, "r1")
    await shop.pool.execute("UPDATE refunds SET at = now() - interval '8 days'")
    [alert] = (await reconcile(shop)).alerted
    assert "the refund r1 (re_" in alert
    assert "still pending" in alert


async def until_parked(run: Run) -> None:
    async def is_parked() -> bool:
        return bool((await run.query("status"))["parked"] == ["refund:r1"])

    await eventually(is_parked, "the refund is parked")


async def fail_refund(shop: Shop) -> None:
    """The bank refuses the oldest refund, days after it was made."""
    refund = next(iter(shop.world.stripe.account.refunds.values()))
    shop.world.stripe.account.settle(refund.id, succeeds=False)
    await shop.pool.execute(A_DAY_LATER)


async def reconcile(shop: Shop) -> ReconcileReport:
    report: ReconcileReport = await shop.client.execute_workflow(
        RECONCILE_ORDERS, id=f"{RECONCILE_ORDERS}:refunds", task_queue=shop.task_queue, result_type=ReconcileReport
    )
    return report


async def claims(shop: Shop) -> list[str]:
    return [row["status"] for row in await shop.pool.fetch(READ_CLAIMS)]


async def assert_made(shop: Shop, amount: int) -> None:
    """The one refund is made, of this amount, and one unit is back."""

    async def is_over() -> bool:
        return not await is_running(shop.client.get_workflow_handle(RUN))

    await eventually(is_over, "the run is over")
    assert await claims(shop) == ["made"]
    assert [each.amount for each in shop.world.stripe.account.refunds.values() if each.stands] == [amount]
    assert await shop.stock() == (99, 0)
    await assert_invariants(shop, O)
