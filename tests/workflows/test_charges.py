"""What an order costs beside its products; and orders that cost nothing."""

import pytest

from orders.models import ErrorCode
from tests.support.invariants import assert_invariants
from tests.support.sample import one_in
from tests.support.scenarios import REFUSED_ADDRESS, emails_to_customer, ending_of, look
from tests.support.shop import CHARGES, FREE, Shop, an_order

O = "o1"  # noqa: E741 (the one order of each test)


async def test_the_charges_are_charged(shop: Shop) -> None:
    """Stripe captures the total, the caller gets it, and the customer reads what it is made of."""
    outcome = await shop.place(an_order(charges=CHARGES), O)

    assert (outcome.success, outcome.total, outcome.currency) == (True, 69.84, "usd")
    assert shop.world.provider_records()["orders"][O]["captured"] == 6984
    (email,) = shop.world.inbox.emails
    assert email.data["charges"] == [charge | {"currency": "usd"} for charge in CHARGES]
    assert (email.data["subtotal"], email.data["total"], email.data["currency"]) == (59.98, 69.84, "usd")
    await assert_invariants(shop, O)


async def test_a_cancel_refunds_the_charges_too(shop: Shop) -> None:
    """All that was captured goes back."""
    await shop.place(an_order(charges=CHARGES), O)
    assert (await shop.cancel(O)).refunded

    assert shop.world.provider_records()["orders"][O]["refunded"] == 6984
    assert shop.world.inbox.emails[-1].data["refundAmount"] == 69.84
    await assert_invariants(shop, O)


@pytest.mark.parametrize("method", [None, "pm_card_chargeDeclined"])
async def test_a_free_order_is_placed_without_a_payment(shop: Shop, method: str | None) -> None:
    """The same statuses, the same messages; a payment method is not used."""
    run = await shop.start(FREE | {"paymentMethodId": method}, O)
    outcome = await run.result()

    assert (outcome.success, outcome.payment_intent, outcome.total) == (True, None, 0)
    assert outcome.fulfillment_id == shop.world.fulfillment.shipments[O].id
    assert await shop.events(O) == ["pending", "capturing", "processing"]
    assert await shop.stock() == (98, 0)
    assert emails_to_customer(shop, O) == ["order_confirmation"]
    assert [entry["path"] for entry in shop.world.journal.about(O) if entry["service"] == "stripe"] == []
    view = await look(run)
    assert (view.payment_processed, view.payment_intent) == (True, None)
    await assert_invariants(shop, O)


async def test_a_free_order_that_the_warehouse_refuses(shop: Shop) -> None:
    """It is undone like any other; the customer's bank has shown nothing, so only the caller is told."""
    ending = await ending_of(await shop.start(FREE | {"shippingAddress": REFUSED_ADDRESS}, O))

    assert (ending.how, ending.code) == ("completed", ErrorCode.FULFILLMENT_REFUSED)
    assert await shop.events(O) == ["pending", "undoing", "rejected"]
    assert await shop.stock() == (100, 0)
    assert emails_to_customer(shop, O) == []
    await assert_invariants(shop, O)


async def test_a_free_order_is_cancelled(shop: Shop) -> None:
    """The shipment is cancelled and the stock put back; there is nothing to refund."""
    await shop.place(FREE, O)
    answer = await shop.cancel(O)

    assert (answer.cancelled, answer.refunded, answer.reason) == (True, False, "not_charged")
    assert await shop.events(O) == ["pending", "capturing", "processing", "cancelling", "cancelled"]
    assert await shop.stock() == (100, 0)
    assert shop.world.inbox.emails[-1].data["refundAmount"] == 0
    await assert_invariants(shop, O)


@pytest.mark.parametrize("moment", one_in(3, ["capture_payment", "request_fulfillment", "finalize_order"]))
async def test_a_free_order_is_cancelled_at_any_moment(shop: Shop, moment: str) -> None:
    """Before the pivot it is undone, after it cancel-order has the last word; either way nothing is held or sent."""
    held = shop.hooks.hold(moment)
    run = await shop.start(FREE, O)
    await held.reached.wait()
    cancel = await shop.start_cancel(O)
    held.let_go()

    assert (await cancel.result()).reason == "not_charged"
    await ending_of(run)
    assert await shop.status(O) == "cancelled"
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, O)


async def test_what_nobody_can_pay_is_refused_by_name(shop: Shop) -> None:
    """Nothing is held and nobody is asked: the discount leaves 0.49 usd, and Stripe takes 0.50 at least."""
    discount = {"type": "discount", "amount": -59.49}
    outcome = await shop.place(an_order(charges=[discount]), O)

    assert outcome.error_code is ErrorCode.AMOUNT_TOO_SMALL
    assert outcome.error == "the total is 0.49 usd; the least that can be paid is 0.50 usd"
    assert await shop.stock() == (100, 0)
    assert list(shop.world.journal.about(O)) == []
    await assert_invariants(shop, O)
