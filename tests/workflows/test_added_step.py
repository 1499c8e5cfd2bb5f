"""A step that a shop adds, declared independent: its undo holds up no other undo of the order, and is never lost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker, WorkerConfig

from orders.models import ErrorCode
from tests.support.invariants import assert_invariants
from tests.support.reviewed_order import Fraud, ReviewedOrder
from tests.support.scenarios import (
    REFUSED_ADDRESS,
    ending_of,
    final_error,
    is_running,
    marks,
    outage,
    resolve,
    until_attempts,
    until_stuck,
)
from tests.support.shop import Shop, an_order, eventually, open_shop
from tests.support.split_worker import config_in_place_of
from workflows.order_saga import STEPS
from workflows.process_order import ProcessOrder

O = "o1"  # noqa: E741 (the one order of each test)


class ReviewedShop:
    """A shop whose worker runs process-order with the fraud review."""

    def __init__(self) -> None:
        self.fraud = Fraud()

    @asynccontextmanager
    async def running(self, whole: Worker) -> AsyncIterator[None]:
        """Run the changed worker in place of the shop's; see tests.support.shop.open_shop."""
        config = await config_in_place_of(whole)
        changes: WorkerConfig = {
            "activities": [*config["activities"], self.fraud.open_review, self.fraud.close_review],
            "workflows": [each for each in config["workflows"] if each is not ProcessOrder] + [ReviewedOrder],
        }
        async with Worker(**config | changes):
            yield


@pytest.fixture
def reviewed() -> ReviewedShop:
    return ReviewedShop()


@pytest.fixture
async def shop(database_url: str, temporal: WorkflowEnvironment, reviewed: ReviewedShop) -> AsyncIterator[Shop]:
    async with open_shop(database_url, temporal, run=reviewed.running) as opened:
        yield opened


async def test_an_added_step_happens_and_stays(shop: Shop, reviewed: ReviewedShop) -> None:
    """The order is placed, and its review is not closed."""
    assert (await shop.place(order_id=O)).success
    assert list(reviewed.fraud.open) == [O]
    await assert_invariants(shop, O)


async def test_an_added_step_may_refuse(shop: Shop, reviewed: ReviewedShop) -> None:
    """The refusal undoes everything, and the run completes with its code."""
    reviewed.fraud.refuses = True
    assert (await shop.place(order_id=O)).error_code is ErrorCode.PAYMENT_REFUSED
    assert await shop.events(O) == ["pending", "undoing", "rejected"]
    assert not reviewed.fraud.open
    await assert_invariants(shop, O)


async def test_its_service_is_out_for_an_hour(shop: Shop, reviewed: ReviewedShop) -> None:
    """The payment is voided and the stock released at once; the undo of the review follows when its service is back."""
    shop.hooks.fail("close_review", outage(), times=None)
    run = await shop.start(an_order(shippingAddress=REFUSED_ADDRESS), O)
    await until_attempts(shop, "close_review", 1)
    await eventually(lambda: is_closed(shop), "the order is closed")
    assert list(reviewed.fraud.open) == [O]
    await assert_invariants(shop, O)

    await shop.advance(run, timedelta(hours=1))
    assert await is_running(run)
    shop.hooks.clear()
    await shop.advance(run, timedelta(hours=1))
    assert (await ending_of(run)).code is ErrorCode.FULFILLMENT_REFUSED
    assert not reviewed.fraud.open


@pytest.mark.parametrize("action", ["retry", "skip", "resolved"])
async def test_its_undo_parks(shop: Shop, reviewed: ReviewedShop, action: str) -> None:
    """It holds up no other undo, waits for an operator although the order is closed, and its resolution is kept."""
    shop.hooks.fail("close_review", final_error())
    run = await shop.start(an_order(shippingAddress=REFUSED_ADDRESS), O)
    assert await until_stuck(run) == ("close_review",)
    await eventually(lambda: is_closed(shop), "the order is closed")
    assert await marks(run) == ("parked", "close_review")

    await resolve(run, "close_review", action)
    assert (await ending_of(run)).code is ErrorCode.FULFILLMENT_REFUSED
    assert await marks(run) == ("rejected", None)
    kept = await shop.pool.fetchrow("SELECT step, action FROM resolutions WHERE order_id = $1", O)
    assert kept is not None
    assert tuple(kept) == ("close_review", action)
    assert bool(reviewed.fraud.open) is (action != "retry")
    await assert_invariants(shop, O)


async def test_the_order_goes_forward_while_its_service_is_out(shop: Shop, reviewed: ReviewedShop) -> None:
    """Goods that have left are captured; the undo that still waits for its service is given up: the review stays."""
    shop.hooks.fail("close_review", outage(), times=None)
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shipping = shop.hooks.hold("cancel_fulfillment")
    run = await shop.start(order_id=O)
    await shipping.reached.wait()
    await until_attempts(shop, "close_review", 2)
    await shop.ship(O)
    shipping.let_go()

    assert (await ending_of(run)).outcome == (await shop.place(order_id=O))
    assert await shop.events(O) == ["pending", "undoing", "capturing", "processing"]
    assert await marks(run) == ("completed", None)
    assert list(reviewed.fraud.open) == [O]
    await assert_invariants(shop, O)


def test_no_undo_of_an_order_itself_is_independent() -> None:
    """Void and release wait for the warehouse's cancel: goods that have left must be paid for, and are not in stock."""
    assert [step.name for step in STEPS if step.independent] == []


async def is_closed(shop: Shop) -> bool:
    return await shop.status(O) == "rejected"
