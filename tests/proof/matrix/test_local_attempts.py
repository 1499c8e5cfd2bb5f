"""Steps inside the workflow task: what a cancel, a lost answer or a slow service comes to while nobody is heard."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from tests.proof.matrix.endings import PLACED, TOTAL, End, O, check_end, has_looked
from tests.support.activity_hooks import Moment
from tests.support.sample import sampled
from tests.support.scenarios import outage
from tests.support.servers import copy_database
from tests.support.shop import Shop, eventually, open_shop

CANCELLED = End("completed", "cancelled", "cancelled")
CANCELLED_AND_REFUNDED = End("completed", None, "cancelled", captured=TOTAL, refunded=TOTAL)


@dataclass(frozen=True)
class AtStep:
    """A step whose local attempt is under way, and how a customer's cancel then ends the order; None: no row yet."""

    step: str
    moment: Moment
    customers: End | None


STEPS = (
    AtStep("reserve_stock", "before", None),
    AtStep("reserve_stock", "after", CANCELLED),
    AtStep("authorize_payment", "before", CANCELLED),
    AtStep("authorize_payment", "after", CANCELLED),
    AtStep("request_fulfillment", "before", CANCELLED),
    AtStep("request_fulfillment", "after", CANCELLED),
    AtStep("capture_payment", "before", CANCELLED),
    AtStep("capture_payment", "after", CANCELLED_AND_REFUNDED),
    AtStep("finalize_order", "before", CANCELLED_AND_REFUNDED),
    AtStep("finalize_order", "after", CANCELLED_AND_REFUNDED),
)
CANCELLABLE = [at for at in STEPS if at.customers]


def name(at: AtStep) -> str:
    return f"{at.moment} {at.step}"


@pytest.fixture(scope="module")
async def module_shop(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    async with copy_database(postgres) as url, open_shop(url, temporal, step_execution="local-first") as opened:
        yield opened


@pytest.fixture
async def shop(module_shop: Shop) -> Shop:
    await module_shop.clear()
    return module_shop


@pytest.mark.parametrize("at", sampled(CANCELLABLE, lambda at: at is CANCELLABLE[-3]), ids=name)
async def test_a_customer_cancels(shop: Shop, at: AtStep) -> None:
    """cancel-order claims the row meanwhile: the next step finds it claimed, though no signal has been heard."""
    held = shop.hooks.hold_local(at.step, at.moment, O)
    run = await shop.start(order_id=O)
    await held.reached.wait()
    cancel = await shop.start_cancel(O)
    await eventually(lambda: has_looked(shop, cancel), "cancel-order has looked at the row")
    held.let_go()
    assert (await cancel.result()).cancelled
    assert at.customers
    await check_end(shop, run, at.customers)


@pytest.mark.parametrize("at", sampled(STEPS, lambda at: at is STEPS[4]), ids=name)
async def test_an_operators_cancel_is_heard_when_the_steps_are_done(shop: Shop, at: AtStep) -> None:
    """Then it changes nothing: the order is placed."""
    held = shop.hooks.hold_local(at.step, at.moment, O)
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await run.cancel()
    held.let_go()
    await check_end(shop, run, PLACED)


@pytest.mark.prove
@pytest.mark.parametrize("at", sampled(STEPS, lambda at: at is STEPS[3]), ids=name)
async def test_a_slow_step_goes_on_as_a_regular_activity(shop: Shop, at: AtStep) -> None:
    """The local attempt is ended by its time-out, whatever it has done; a late one is stopped by the row."""
    held = shop.hooks.hold_local(at.step, at.moment, O)
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await check_end(shop, run, PLACED)
    assert [step for _, step in shop.hooks.calls].count(at.step) == 2


@pytest.mark.parametrize("at", sampled(STEPS, lambda at: at is STEPS[7]), ids=name)
async def test_a_failed_step_goes_on_as_a_regular_activity(shop: Shop, at: AtStep) -> None:
    """Whether it took effect or not: the order is placed, its effects once."""
    shop.hooks.fail(at.step, outage(), at.moment)
    await check_end(shop, await shop.start(order_id=O), PLACED)
    assert [step for _, step in shop.hooks.calls].count(at.step) == 2
