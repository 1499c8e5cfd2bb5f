"""Notifications: no caller waits for them, none is sent twice, and one that was given up is recorded and alerted."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.common import WorkflowIDReusePolicy
from temporalio.testing import WorkflowEnvironment

from orders.models import OrderOutcome
from orders.parsing import parse_order, read_json
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.scenarios import (
    REFUSED_ADDRESS,
    Run,
    emails_to_customer,
    final_error,
    is_running,
    look,
    marks,
    outage,
    until_marked,
)
from tests.support.shop import CHARGES, Payload, Shop, an_order, eventually, open_shop

O = "o1"  # noqa: E741 (the one order of each test)


def out(service: str, status: int = 503) -> Fault:
    """An external service that is out until the fault is cleared."""
    return Fault(service=service, kind="status", status=status, times=None)


async def submit(run: Run, payload: Payload) -> OrderOutcome:
    """Wait for the outcome as starter.py does."""
    order = parse_order(run.id, read_json(json.dumps(payload)))
    outcome: OrderOutcome = await run.execute_update("submit", order.request_hash, result_type=OrderOutcome)
    return outcome


async def notifications(shop: Shop) -> dict[str, str]:
    return {
        row["kind"]: row["state"] for row in await shop.pool.fetch("SELECT * FROM notifications WHERE order_id = $1", O)
    }


@pytest.mark.parametrize("service", ["email", "analytics"])
async def test_the_caller_does_not_wait_for_notices(shop: Shop, service: str) -> None:
    """The answer comes while the service is out; the notification is delivered when it is back, and the run ends."""
    shop.world.faults.add(out(service))
    run = await shop.start(order_id=O)
    assert (await submit(run, an_order())).success
    assert await shop.status(O) == "processing"
    assert await is_running(run)
    shop.world.faults.clear()
    await shop.advance(run, timedelta(minutes=30))
    assert (await run.result()).success
    assert await notifications(shop) == {"order_confirmation": "sent", "order_placed": "sent"}
    assert emails_to_customer(shop, O) == ["order_confirmation"]


async def test_nothing_is_notified_before_the_order_is_finalized(shop: Shop) -> None:
    """No notification begins while the order may still read `capturing`; then each needs one attempt."""
    finalizing = shop.hooks.hold("finalize_order", "before", O)
    run = await shop.start(order_id=O)
    await finalizing.reached.wait()
    events = (await run.fetch_history()).events
    begun = {event.activity_task_scheduled_event_attributes.activity_type.name for event in events}
    assert "finalize_order" in begun
    assert not begun & {"send_email", "track_order"}

    finalizing.let_go()
    await run.result()
    names = [name for _, name in shop.hooks.calls]
    assert (names.count("send_email"), names.count("track_order")) == (1, 1)
    assert await notifications(shop) == {"order_confirmation": "sent", "order_placed": "sent"}


async def test_a_run_that_ends_between_finalize_and_its_notifications(shop: Shop) -> None:
    """The run that reconcile-orders would start finds a paid order, and confirms it once."""
    finalized = shop.hooks.hold("finalize_order", "after", O)
    run = await shop.start(order_id=O)
    await finalized.reached.wait()
    await run.terminate()
    finalized.let_go()
    assert await notifications(shop) == {}

    again = await shop.place(order_id=O, id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE)
    assert again.success
    assert await notifications(shop) == {"order_confirmation": "sent", "order_placed": "sent"}
    assert emails_to_customer(shop, O) == ["order_confirmation"]
    await assert_invariants(shop, O)


@pytest.fixture
async def impatient(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Shop]:
    """A shop that gives notifications up after ten minutes."""
    async with open_shop(database_url, temporal, notification_deadline_seconds=600) as opened:
        yield opened


@pytest.mark.parametrize(
    ("service", "kind"), [("email", "order_confirmation"), ("analytics", "order_placed")], ids=["email", "analytics"]
)
async def test_a_notice_is_given_up_in_plain_sight(impatient: Shop, service: str, kind: str) -> None:
    """The order stands; the notification is recorded as given up, the run is marked, and operators are alerted."""
    shop = impatient
    shop.world.faults.add(out(service))
    run = await shop.start(order_id=O)
    await submit(run, an_order())
    await shop.advance(run, timedelta(minutes=20))

    assert (await run.result()).success
    assert (await notifications(shop))[kind] == "given_up"
    assert await marks(run) == ("completed", f"notification:{kind}")
    [alert] = shop.world.inbox.alerts
    assert O in alert.text
    assert f"{kind} was not delivered: {service}: HTTP 503" in alert.text
    (attention,) = (await look(run)).attention
    assert attention.reason.startswith(f"{service}: HTTP 503")
    assert await shop.status(O) == "processing"
    await assert_invariants(shop, O)


async def test_a_message_that_is_refused_is_given_up_at_once(shop: Shop) -> None:
    """An address that the e-mail service does not take will not be taken tomorrow either."""
    shop.world.faults.add(out("email", status=422))
    run = await shop.start(order_id=O)
    assert (await run.result()).success
    assert (await notifications(shop))["order_confirmation"] == "given_up"
    assert await marks(run) == ("completed", "notification:order_confirmation")


@pytest.mark.prove
async def test_slack_is_waited_for_by_nobody(impatient: Shop) -> None:
    """The caller has its answer while the alert cannot be posted, and the run ends without it in the end."""
    shop = impatient
    shop.world.faults.add(out("email", status=422))
    shop.world.faults.add(out("slack"))
    run = await shop.start(order_id=O)
    assert (await submit(run, an_order())).success
    await until_marked(run, "notification:order_confirmation")
    await shop.advance(run, timedelta(hours=2))
    assert (await run.result()).success
    assert shop.world.inbox.alerts == []


async def test_an_undo_does_not_wait_for_slack(shop: Shop) -> None:
    """An order whose step keeps failing goes on when the step does, alert or no alert."""
    shop.world.faults.add(out("slack"))
    shop.hooks.fail("finalize_order", final_error())
    run = await shop.start(order_id=O)
    await until_marked(run, "finalize_order")
    answer = asyncio.create_task(submit(run, an_order()))
    await shop.advance(run, timedelta(minutes=2))
    assert (await answer).success


@pytest.mark.parametrize("lost", ["our own", "the external service's"])
async def test_a_confirmation_whose_answer_is_lost_is_sent_once(shop: Shop, lost: str) -> None:
    """By our record where we know of it, else by the key that the receiver honors."""
    if lost == "our own":
        shop.hooks.fail("send_email", outage(), "after")
    else:
        shop.world.faults.add(Fault(service="email", kind="reset_after"))
    assert (await shop.place(order_id=O)).success
    sent = [entry for entry in shop.world.journal.about(O) if entry["service"] == "email"]
    assert len({entry["headers"]["idempotency-key"] for entry in sent}) == 1
    assert emails_to_customer(shop, O) == ["order_confirmation"]


async def test_amounts_are_exact_json_numbers(shop: Shop) -> None:
    """3 x 29.99 is 89.97 and not 89.97000000000001, in the confirmation, in analytics and in the refund e-mail."""
    items = [{"productId": "1", "quantity": 3}, {"productId": "3", "quantity": 1}]
    await shop.place(an_order(items=items), O)
    confirmation = shop.world.inbox.emails[0].data
    assert confirmation["total"] == 104.47
    assert [item["price"] for item in confirmation["items"]] == [29.99, 14.5]  # type: ignore[union-attr,call-overload,index]
    assert shop.world.inbox.events[0].properties == {
        "orderId": O,
        "subtotal": 104.47,
        "total": 104.47,
        "currency": "usd",
        "items": 2,
    }

    await shop.cancel(O)
    assert shop.world.inbox.emails[-1].data == {"orderNumber": O, "refundAmount": 104.47, "currency": "usd"}


async def test_every_amount_has_its_currency(shop: Shop) -> None:
    """Beside it, in each JSON object that an external service gets: 29.99 says nothing by itself."""
    await shop.pool.execute("UPDATE products SET currency = 'jpy' WHERE id = '4'")
    await shop.place(an_order(charges=CHARGES), O)
    await shop.place(an_order(items=[{"productId": "4", "quantity": 2}], currency="JPY"), "in-yen")
    for order_id in (O, "in-yen"):
        await shop.cancel(order_id)
    bodies = [entry["body"] for entry in shop.world.journal.about() if entry["service"] != "stripe"]
    amounts = [each for body in bodies for each in objects_of(body) if each.keys() & AMOUNTS]
    assert {name for each in amounts for name in each.keys() & AMOUNTS} == AMOUNTS
    assert {each.get("currency") for each in amounts} == {"usd", "jpy"}
    others = [each for body in bodies for each in objects_of(body) if not each.keys() & AMOUNTS]
    assert not [each for each in others if any(isinstance(value, float) for value in each.values())]


AMOUNTS = {"price", "amount", "subtotal", "total", "refundAmount"}


def objects_of(body: Any) -> Iterator[dict[str, Any]]:
    if isinstance(body, dict):
        yield body
    for each in body.values() if isinstance(body, dict) else body if isinstance(body, list) else ():
        yield from objects_of(each)


async def test_analytics_is_told_in_the_reference_shape(shop: Shop) -> None:
    """Event, customer and properties, once."""
    await shop.place(order_id=O)
    [event] = shop.world.inbox.events
    assert (event.event, event.user_id) == ("order_placed", "cus_123")
    price = {"subtotal": 59.98, "total": 59.98, "currency": "usd"}
    assert event.properties == {"orderId": O, **price, "items": 1}


@pytest.mark.parametrize(
    ("payload", "email"),
    [
        (an_order(paymentMethodId="pm_card_chargeDeclined"), []),
        (an_order(items=[{"productId": "5", "quantity": 2}]), []),
        (an_order(shippingAddress=REFUSED_ADDRESS), ["order_failed"]),
    ],
    ids=["declined", "out of stock", "refused by the warehouse"],
)
async def test_who_is_written_to(shop: Shop, payload: Payload, email: list[str]) -> None:
    """Only a customer whose card was asked for money hears of it by e-mail; the others have their answer."""
    await shop.place(payload, O)
    assert emails_to_customer(shop, O) == email
    assert shop.world.inbox.events == []


async def test_a_cancel_overtakes_a_confirmation_that_waits(shop: Shop) -> None:
    """E-mail was out; when it is back the order is cancelled: its confirmation is dropped, and recorded so."""
    shop.world.faults.add(out("email"))
    run = await shop.start(order_id=O)
    await submit(run, an_order())
    cancel = await shop.start_cancel(O)

    async def cancelled() -> bool:
        return await shop.status(O) == "cancelled"

    await eventually(cancelled, "the order is cancelled")
    shop.world.faults.clear()
    await shop.advance(run, timedelta(minutes=30))
    await run.result()
    await cancel.result()
    assert (await notifications(shop))["order_confirmation"] == "dropped"
    assert emails_to_customer(shop, O) == ["order_cancelled"]
