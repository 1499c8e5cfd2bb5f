"""Another card on the command line and from a program: what they say while the order waits, and what comes of it."""

import json
from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from orders.names import TASK_QUEUE
from tests.integration.cli.conftest import Starter
from tests.integration.cli.test_starter import NOBODY
from tests.support.shop import Shop, an_order, new_order_id, open_shop


@pytest.fixture
async def shop(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """On the queue `orders`, where an order waits for another card."""
    async with open_shop(database_url, temporal, TASK_QUEUE, payment_retry_seconds=600) as opened:
        yield opened


async def test_an_order_is_paid_with_another_card(shop: Shop, starter: Starter) -> None:
    """Each answer is that of now, with the command that comes next."""
    order_id = new_order_id()
    order = json.dumps(an_order(paymentMethodId="pm_card_chargeDeclinedInsufficientFunds"))
    said = await starter("process-order", "-", "--order-id", order_id, stdin=order)
    assert said.status == 1, said
    assert f"{order_id} is not placed: payment required" in said.out
    assert f"pay {order_id} --payment-method" in said.out
    assert "insufficient_funds" in said.out

    refused = await starter("pay", order_id, "--payment-method", "pm_card_chargeDeclinedExpiredCard", "--json")
    assert (refused.status, refused.json["errorCode"]) == (1, "payment_required")
    again = await starter("process-order", "-", "--order-id", order_id, "--json", stdin=order)
    assert again.json["error"] == refused.json["error"]
    status = await starter("status", order_id, DATABASE_URL=shop.database_url)
    assert "awaiting payment" in status.out
    assert "expired_card" in status.out

    paid = await starter("pay", order_id, "--payment-method", "pm_card_visa")
    assert paid.status == 0, paid
    assert f"{order_id} is placed" in paid.out
    placed = await starter("process-order", "-", "--order-id", order_id, "--json", stdin=order)
    assert placed.json["success"]
    late = await starter("pay", order_id, "--payment-method", "pm_card_visa")
    assert late.status == 1
    assert f"{order_id} takes no payment method" in late.err


async def test_what_is_no_payment_method_is_refused_before_anything_is_connected(starter: Starter) -> None:
    """A card number is not repeated."""
    said = await starter("pay", "o1", "--payment-method", "4242424242424242", TEMPORAL_ADDRESS=NOBODY)
    assert said.status == 2
    assert "paymentMethodId" in said.err
    assert "4242" not in said.err


async def test_an_order_that_nobody_knows(shop: Shop, starter: Starter) -> None:
    """Temporal has no run of it."""
    said = await starter("pay", new_order_id(), "--payment-method", "pm_card_visa")
    assert said.status == 1, said
    assert "Temporal has no run" in said.err
    assert await shop.status("o1") is None
