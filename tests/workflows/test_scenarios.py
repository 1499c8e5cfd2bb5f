"""What the shop makes of the faults and test values that docs/sandbox.md offers, by the requests of that page."""

from datetime import timedelta
from typing import Any, Final

import httpx
import pytest

from saga import Resolution
from sandbox.actions import ALWAYS
from tests.support.invariants import assert_invariants
from tests.support.shop import Shop, an_order, eventually

O = "o1"  # noqa: E741 (the one order of each test)

NEEDS_3DS: Final = an_order(paymentMethodId="pm_card_threeDSecure2Required")


async def act(shop: Shop, action: str, **fields: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{shop.sandbox.url}/actions/{action}", data=fields)
    assert answer.status_code == 303, answer.text


@pytest.mark.parametrize(
    "scenario",
    [
        "stripe-down",
        "stripe-busy",
        "confirm-lost",
        "capture-lost",
        "capture-saved-error",
        "warehouse-down",
        "warehouse-slow",
        "warehouse-answer-lost",
        "email-500",
        "analytics-500",
    ],
)
async def test_one_fault_of_a_service_is_not_noticed(shop: Shop, scenario: str) -> None:
    """The order is placed once, paid once and confirmed once."""
    await act(shop, "break", scenario=scenario)
    outcome = await shop.place(order_id=O)
    assert outcome.success

    async def is_over() -> bool:
        events = shop.world.inbox.events
        return bool(shop.world.inbox.emails and events) and not shop.world.faults.pending()

    await eventually(is_over, "the fault has hit, and both notifications are out")
    await assert_invariants(shop, O)


async def test_a_refused_shipment_undoes_the_order(shop: Shop) -> None:
    """The payment is voided, and the caller learns why."""
    await act(shop, "break", scenario="shipment-refused")
    assert (await shop.place(order_id=O)).error_code == "fulfillment_refused"
    await assert_invariants(shop, O)


@pytest.mark.parametrize(
    ("scenario", "step"), [("refund-refused", "void_payment"), ("cancel-refused", "cancel_fulfillment")]
)
async def test_a_refused_undo_of_a_paid_order_parks(shop: Shop, scenario: str, step: str) -> None:
    """The refund or the cancel of the shipment waits for an operator; a retry succeeds, as the fault is used up."""
    await shop.place(order_id=O)
    await act(shop, "break", scenario=scenario, order=O)
    cancel = await shop.start_cancel(O)
    await is_parked(shop, cancel, step)
    assert not shop.world.faults.pending()
    await retry(cancel, step)
    assert (await cancel.result()).refunded
    await assert_invariants(shop, O)


async def test_a_refused_void_parks_an_order_that_is_being_placed(shop: Shop) -> None:
    """The warehouse refuses, and Stripe refuses the undo."""
    for scenario in ("shipment-refused", "void-refused"):
        await act(shop, "break", scenario=scenario, order=O)
    run = await shop.start(order_id=O)
    await is_parked(shop, run, "void_payment")
    await retry(run, "void_payment")
    assert (await run.result()).error_code == "fulfillment_refused"
    await assert_invariants(shop, O)


async def test_a_refused_email_is_given_up(shop: Shop) -> None:
    """The order stands, and operators are alerted."""
    await act(shop, "break", scenario="email-refused", times=ALWAYS, order=O)
    assert (await shop.place(order_id=O)).success

    async def is_alerted() -> bool:
        return any(O in alert.text for alert in shop.world.inbox.alerts)

    await eventually(is_alerted, "operators are alerted")
    assert await shop.status(O) == "processing"


@pytest.mark.parametrize(("outcome", "code"), [("succeed", None), ("fail", "authentication_failed")])
async def test_the_customer_authenticates_or_fails_to(shop: Shop, outcome: str, code: str | None) -> None:
    """The run waits for 3DS, and reads later what the customer has decided."""
    run = await shop.start(NEEDS_3DS, O)

    async def waits() -> bool:
        return any(each.status == "requires_action" for each in shop.world.stripe.account.intents.values())

    await eventually(waits, "the payment waits for 3DS")
    await act(shop, "authenticate", order=O, outcome=outcome)
    await shop.advance(run, timedelta(minutes=1))
    assert (await run.result()).error_code == code
    await assert_invariants(shop, O)


async def test_a_forgotten_shipment_parks_its_cancel(shop: Shop) -> None:
    """The warehouse does not know what it accepted: only an operator can tell where the goods are."""
    await shop.place(order_id=O)
    await act(shop, "forget", order=O)
    cancel = await shop.start_cancel(O)
    await is_parked(shop, cancel, "cancel_fulfillment")
    await cancel.terminate()


async def is_parked(shop: Shop, run: Any, step: str) -> None:
    async def is_stuck() -> bool:
        return bool((await run.query("status", result_type=dict))["parked"])

    await eventually(is_stuck, f"{step} is parked")
    assert (await shop.row(O))["parked_step"] == step


async def retry(run: Any, step: str) -> None:
    await run.execute_update("resolve", Resolution(step=step, action="retry", reason="the fault is used up"))
