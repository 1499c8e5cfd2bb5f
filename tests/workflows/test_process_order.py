"""process-order as a client sees it."""

from tests.shop import Shop, an_order


async def test_an_order_is_placed(shop: Shop) -> None:
    """The money is captured once, the stock sold, the goods requested, the customer told."""
    outcome = await shop.place(order_id="o1")

    assert outcome.success
    assert (await shop.row("o1"))["payment_intent_id"] == outcome.payment_intent
    assert await shop.events("o1") == ["pending", "capturing", "processing"]
    assert await shop.stock() == (98, 0)


async def test_a_declined_card_leaves_nothing_held(shop: Shop) -> None:
    """The reference's rollback: a completed run with success=false, and the stock is back."""
    outcome = await shop.place(an_order(paymentMethodId="pm_card_chargeDeclined"), order_id="o1")

    assert not outcome.success
    assert outcome.error_code == "card_declined"
    assert await shop.events("o1") == ["pending", "undoing", "rejected"]
    assert await shop.stock() == (100, 0)
