"""process-order as a client sees it; the first two tests are those of the document that it replaces."""

from datetime import date
from typing import Any

import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata

from orders.models import Stage
from orders.names import CUSTOMER_ID
from tests.support.invariants import assert_invariants
from tests.support.scenarios import emails_to_customer, ending_of, look, marks, shown_outcome, until_stage
from tests.support.shop import Payload, Shop, an_order, eventually

# The payloads of the reference, as they stand there.
REFERENCE: Any = {
    "customerId": "cus_123",
    "customerEmail": "customer@example.com",
    "items": [{"productId": "1", "quantity": 2, "price": 29.99}],
    "paymentMethodId": "pm_123",
    "shippingAddress": {"street": "123 Main St", "city": "San Francisco", "state": "CA", "zip": "94102"},
}
REFERENCE_ROLLBACK: Any = {"customerId": "cus_123", "items": [{"productId": "1", "quantity": 2}]}


async def test_should_process_order_successfully(shop: Shop) -> None:
    """The money is captured once, the stock sold, the goods requested, customer and analytics notified."""
    run = await shop.start(REFERENCE, "o1")
    outcome = await run.result()

    row = await shop.row("o1")
    assert outcome.success
    assert outcome.payment_intent == row["payment_intent_id"]
    assert outcome.fulfillment_id == row["fulfillment_id"] == shop.world.fulfillment.shipments["o1"].id
    assert shop.world.provider_records()["orders"]["o1"]["captured"] == 5998
    assert await shop.events("o1") == ["pending", "capturing", "processing"]
    assert await shop.stock() == (98, 0)
    assert emails_to_customer(shop, "o1") == ["order_confirmation"]
    assert [event.event for event in shop.world.inbox.events] == ["order_placed"]
    assert await marks(run) == ("completed", None)
    await assert_invariants(shop, "o1")


async def test_should_rollback_on_payment_failure(shop: Shop) -> None:
    """Without a card and an address nothing is even begun: a completed run that names every missing field."""
    outcome = await shop.place(REFERENCE_ROLLBACK, "o1")

    assert not outcome.success
    assert outcome.error_code == "invalid_order"
    assert outcome.error is not None
    for field in ("customerEmail", "paymentMethodId", "shippingAddress"):
        assert f"{field}: is required" in outcome.error
    assert await shop.status("o1") is None
    assert await shop.stock() == (100, 0)


async def test_should_rollback_on_payment_failure_with_a_declining_card(shop: Shop) -> None:
    """The same cart with a card that is declined: the stock was held, and is back."""
    payload = an_order(paymentMethodId="pm_card_chargeDeclined") | {"items": REFERENCE_ROLLBACK["items"]}
    run = await shop.start(payload, "o1")
    ending = await ending_of(run)

    assert (ending.how, ending.code) == ("completed", "card_declined")
    assert await shop.events("o1") == ["pending", "undoing", "rejected"]
    assert await marks(run) == ("rejected", None)
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, "o1")


async def test_lists_show_where_an_order_stands(shop: Shop) -> None:
    """Also while the order waits: for its customer, and then for the warehouse. No other change is an event."""
    held = shop.hooks.hold("request_fulfillment", "before")
    run = await shop.start(an_order(paymentMethodId="pm_card_authenticationRequired"), "o1")
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    assert await marks(run) == ("awaiting_customer", None)
    shop.world.stripe.account.authenticate((await shop.row("o1"))["payment_intent_id"], succeeds=True)
    await run.signal("payment-updated")
    await held.reached.wait()
    assert await marks(run) == ("placing", None)
    assert (await look(run)).stage == "fulfilling"
    held.let_go()
    await run.result()

    assert await marks(run) == ("completed", None)
    assert (await run.describe()).typed_search_attributes.get(CUSTOMER_ID) == "cus_123"
    updates = [
        list(event.upsert_workflow_search_attributes_event_attributes.search_attributes.indexed_fields)
        for event in (await run.fetch_history()).events
        if event.HasField("upsert_workflow_search_attributes_event_attributes")
    ]
    assert [sorted(each) for each in updates if each != ["TemporalChangeVersion"]] == [  # that of a guard
        ["CustomerId", "OrderStage"],
        ["OrderStage"],
        ["OrderStage"],
        ["OrderOutcome", "OrderStage"],
    ]


@pytest.mark.parametrize(
    ("payload", "shown", "told"),
    [
        (an_order(), "placed", "the order is placed"),
        ({"customerId": "cus_123"}, "rejected: invalid_order", "rejected: paymentMethodId: is required"),
        (
            an_order(items=[{"productId": "5", "quantity": 2}]),
            "rejected: out_of_stock",
            "rejected: product 5: 2 wanted, 1 available",
        ),
    ],
    ids=["placed", "invalid", "refused"],
)
async def test_a_refused_order_does_not_look_like_a_success(
    shop: Shop, payload: Payload, shown: str, told: str
) -> None:
    """Its run is completed: the list of runs tells the outcome, and so does the last line of the current details."""
    run = await shop.start(payload, "o1")
    await run.result()

    assert await shown_outcome(run) == shown
    details = (await run.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)).current_details
    assert details.rpartition("\n")[2].partition(" ")[2].partition(" ")[2].startswith(told)


async def test_orders_are_listed_by_their_outcome(shop: Shop) -> None:
    """As the Web UI's filter does: by the outcome in full, and by its beginning."""
    run = await shop.start(an_order(paymentMethodId="pm_card_chargeDeclined"), "o1")
    await run.result()

    async def listed(condition: str) -> bool:
        query = f"TaskQueue = '{shop.task_queue}' AND OrderOutcome {condition}"
        return run.result_run_id in [found.run_id async for found in shop.client.list_workflows(query)]

    await eventually(lambda: listed("= 'rejected: card_declined'"), "the run is listed")
    assert await listed("STARTS_WITH 'rejected'")
    assert not await listed("= 'placed'")


async def test_the_status_query_tells_where_the_order_stands(shop: Shop) -> None:
    """Stage, reservation, payment and shipment, and never the PaymentIntent's client secret."""
    held = shop.hooks.hold("request_fulfillment", "before")
    run = await shop.start(order_id="o1")
    await held.reached.wait()
    before = await look(run)
    held.let_go()
    await run.result()
    after = await look(run)

    assert (before.stage, before.inventory_reserved, before.payment_processed) == ("fulfilling", True, False)
    assert (after.stage, after.payment_processed, after.fulfillment_status) == ("completed", True, "accepted")
    assert before.payment_intent == after.payment_intent == (await shop.row("o1"))["payment_intent_id"]
    assert "secret" not in after.model_dump_json()


async def test_the_lines_of_a_product_are_merged(shop: Shop) -> None:
    """The same product twice in a cart is one line of the order, in stock, money and shipment."""
    items = [{"productId": "1", "quantity": 1}, {"productId": "3", "quantity": 1}, {"productId": "1", "quantity": 2}]
    assert (await shop.place(an_order(items=items), "o1")).success

    shipped = shop.world.fulfillment.shipments["o1"].order.items
    assert [(item.product_id, item.quantity) for item in shipped] == [("1", 3), ("3", 1)]
    assert (await shop.row("o1"))["total"] == 3 * 2999 + 1450
    await assert_invariants(shop, "o1")


async def test_the_confirmation_names_a_delivery_date_by_priority(shop: Shop) -> None:
    """Business days from the day of the order: the sooner, the higher the priority."""
    dates = {}
    for priority in ("overnight", "express", "standard"):
        await shop.place(an_order(priority=priority), priority)
        dates[priority] = date.fromisoformat(str(shop.world.inbox.emails[-1].data["estimatedDelivery"]))

    assert dates["overnight"] < dates["express"] < dates["standard"]
    assert all(day.isoweekday() <= 5 for day in dates.values())
