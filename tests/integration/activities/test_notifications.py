"""Each notification arrives once, if the order's status calls for it; its failure is not the order's."""

import re
from datetime import date
from typing import Any

import pytest

from activities.notifications import Notifications
from activities.order_state import OrderState
from activities.payments import Payments
from audit.invariants import violations
from orders.errors import Permanent, Unavailable
from orders.models import Alert, Delivery, ErrorCode, Notification, NotificationKind, Park, Priority
from tests.support.activity_bench import ActivityBench, order_of
from tests.support.invariants import collect_evidence
from tests.support.shop import CHARGES

CONFIRMATION = Notification(
    order_id="o1",
    kind=NotificationKind.CONFIRMATION,
    to="customer@example.com",
    delivery=Delivery(ordered=date(2026, 11, 19), priority=Priority.STANDARD, country="US"),
)
ANALYTICS = Notification(order_id="o1", kind=NotificationKind.ANALYTICS)
CANCELLED = Notification(order_id="o1", kind=NotificationKind.CANCELLED, to="customer@example.com")
FAILED = Notification(order_id="o1", kind=NotificationKind.FAILED, to="customer@example.com")


async def test_the_confirmation_is_sent_once(bench: ActivityBench) -> None:
    """In the names of the reference, under the order's key; the second attempt makes no call."""
    await bench.bring(order_of(charges=CHARGES), "finalize")
    answers = [await bench.do(Notifications.send_email, CONFIRMATION) for _ in range(2)]

    assert answers == ["sent", "sent"]
    (call,) = bench.calls("email")
    shop_id = await bench.pool.fetchval("SELECT id FROM shop")
    assert call["headers"]["idempotency-key"] == f"{shop_id}:o1:order_confirmation"
    assert call["body"] == {
        "to": "customer@example.com",
        "template": "order_confirmation",
        "data": {
            "orderNumber": "o1",
            "items": [{"productId": "1", "quantity": 2, "price": 29.99, "currency": "usd"}],
            "charges": [charge | {"currency": "usd"} for charge in CHARGES],
            "subtotal": 59.98,
            "total": 69.84,
            "currency": "usd",
            "estimatedDelivery": "2026-11-27",
            "businessDays": 5,
        },
    }


async def test_a_confirmation_without_a_date(bench: ActivityBench) -> None:
    """Where the holidays of the destination are not known, only the number of business days is promised."""
    await bench.bring(order_of(), "finalize")
    delivery = Delivery(ordered=date(2026, 11, 19), priority=Priority.EXPRESS, country="AC")
    await bench.do(Notifications.send_email, CONFIRMATION.model_copy(update={"delivery": delivery}))

    (email,) = bench.world.provider_records()["emails"]
    assert (email["data"]["estimatedDelivery"], email["data"]["businessDays"]) == (None, 2)


async def test_analytics_get_the_order_once(bench: ActivityBench) -> None:
    """One event, without an e-mail address."""
    tips = {"type": "fee", "amount": 1.01}
    await bench.bring(order_of(charges=[*CHARGES, tips]), "finalize")
    for _ in range(2):
        assert await bench.do(Notifications.track_order, ANALYTICS) == "sent"

    (event,) = bench.world.provider_records()["events"]
    assert event == {
        "event": "order_placed",
        "userId": "cus_123",
        "properties": {
            "orderId": "o1",
            "subtotal": 59.98,
            "shipping": 12.5,
            "tax": 5.12,
            "fee": 3.25,
            "discount": -10,
            "total": 70.85,
            "currency": "usd",
            "items": 1,
        },
    }


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["reset_after", "hang_after"])
async def test_a_lost_answer_delivers_no_second_email(bench: ActivityBench, kind: str) -> None:
    """The receiver knows the idempotency key."""
    await bench.bring(order_of(), "finalize")
    bench.fault("email", kind)
    with pytest.raises(Unavailable):
        await bench.do(Notifications.send_email, CONFIRMATION)

    assert await bench.do(Notifications.send_email, CONFIRMATION) == "sent"
    assert emails(bench) == ["order_confirmation"]


async def test_an_email_that_was_not_accepted_is_sent_again(bench: ActivityBench) -> None:
    """It is marked as sent only after the receiver has accepted it."""
    await bench.bring(order_of(), "finalize")
    bench.fault("email", "status")
    with pytest.raises(Unavailable):
        await bench.do(Notifications.send_email, CONFIRMATION)

    assert await bench.do(Notifications.send_email, CONFIRMATION) == "sent"
    assert violations(await collect_evidence(bench, "o1")) == []


@pytest.mark.parametrize("last", ["reserve", "capture", "claim_undo", "cancelling"])
async def test_the_confirmation_waits_until_the_order_is_settled(bench: ActivityBench, last: str) -> None:
    """Until then each attempt fails and is retried."""
    await undecided(bench, last)
    with pytest.raises(Unavailable) as wait:
        await bench.do(Notifications.send_email, CONFIRMATION)

    assert wait.value.type == "order_undecided"
    assert emails(bench) == []


@pytest.mark.parametrize("why", ["closed", "parked"])
async def test_the_confirmation_of_a_closed_or_parked_order_is_dropped(bench: ActivityBench, why: str) -> None:
    """The drop is recorded, and no later attempt sends the message."""
    order = order_of()
    await undecided(bench, "claim_undo")
    if why == "parked":
        await bench.do(OrderState.park_order, Park(order_id="o1", step="void_payment", reason="stuck", workflow_id="w"))
    else:
        await bench.pool.execute("UPDATE orders SET status = 'failed' WHERE id = $1", order.id)

    for _ in range(2):
        assert await bench.do(Notifications.send_email, CONFIRMATION) == "dropped"
    assert emails(bench) == []
    assert await bench.pool.fetchval("SELECT state FROM notifications") == "dropped"


@pytest.mark.parametrize(("last", "amount"), [("authorize", 0), ("finalize", 59.98)])
async def test_the_email_about_a_cancel_names_the_refund(bench: ActivityBench, last: str, amount: float) -> None:
    """The amount is 0 after a void, and the total after a refund."""
    await bench.bring(order_of(), last)
    await bench.do(OrderState.claim_cancellation, "o1")
    await bench.do(Payments.void_payment, "o1")
    await bench.do(Notifications.send_email, CANCELLED)

    (email,) = bench.world.provider_records()["emails"]
    assert email["data"] == {"orderNumber": "o1", "refundAmount": amount, "currency": "usd"}


@pytest.mark.parametrize("code", [*ErrorCode])
async def test_the_email_about_a_failure_is_for_the_customer(bench: ActivityBench, code: ErrorCode) -> None:
    """Its reason is a sentence of its own: the row's text names external services and their codes."""
    order = order_of()
    await bench.bring(order, "authorize")
    await bench.claim_undo(order)
    await bench.pool.execute("UPDATE orders SET error_code = $1, error = 'stripe: InvalidRequestError'", code)
    await bench.do(Notifications.send_email, FAILED)

    (email,) = bench.world.provider_records()["emails"]
    assert email["data"]["orderNumber"] == "o1"
    assert re.fullmatch(r"[a-z][a-z ]{20,}", email["data"]["reason"])


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Permanent),
        (413, Permanent),
        (422, Permanent),
        (302, Unavailable),
        (401, Unavailable),
        (404, Unavailable),
        (409, Unavailable),
        (429, Unavailable),
        (503, Unavailable),
    ],
)
async def test_errors_of_a_receiver(bench: ActivityBench, status: int, error: type[Exception]) -> None:
    """A refusal is final, anything else is retried; no error quotes the address."""
    await bench.bring(order_of(), "finalize")
    bench.fault("email", "status", status=status, body={"error": "customer@example.com is unknown"})
    with pytest.raises(error) as raised:
        await bench.do(Notifications.send_email, CONFIRMATION)

    assert "customer@example.com" not in repr(raised.value) + str(raised.value)
    assert await bench.pool.fetchval("SELECT count(*) FROM notifications") == 0


async def test_a_notification_that_was_given_up_is_recorded(bench: ActivityBench) -> None:
    """A later run may still deliver it, once."""
    await bench.bring(order_of(), "finalize")
    await bench.do(Notifications.give_up_notification, CONFIRMATION)
    assert await bench.pool.fetchval("SELECT state FROM notifications") == "given_up"

    await bench.do(Notifications.send_email, CONFIRMATION)
    assert await bench.pool.fetchval("SELECT state FROM notifications") == "sent"
    await bench.do(Notifications.give_up_notification, CONFIRMATION)
    assert await bench.pool.fetchval("SELECT state FROM notifications") == "sent"


async def test_an_alert_is_posted(bench: ActivityBench) -> None:
    """Slack gets the text, the command, and the page of the run that it is about, or else of the run that posts it."""
    await bench.do(Notifications.post_alert, Alert(order_id="o1", key="k1", text="o1: it is stuck"))
    about = Alert(order_id="o1", key="k2", text="1 < 2", run="cancel-order:o1", command="starter.py status o1")
    await bench.do(Notifications.post_alert, about)

    pages = "http://127.0.0.1:8233/namespaces/default/workflows"
    assert [each["text"] for each in bench.world.provider_records()["alerts"]] == [
        f":warning: o1: it is stuck\n{pages}/bench",
        f":warning: 1 &lt; 2\n`starter.py status o1`\n{pages}/cancel-order:o1",
    ]


@pytest.mark.parametrize("status", [404, 410])
async def test_an_alert_is_retried_while_the_webhook_does_not_exist(bench: ActivityBench, status: int) -> None:
    """The webhook may be back before the alert is given up."""
    bench.fault("slack", "status", status=status)
    with pytest.raises(Unavailable):
        await bench.do(Notifications.post_alert, Alert(order_id="o1", key="k", text="o1: it is stuck"))


NO_ACCEPTANCE: dict[str, Any] = {
    "a page": "<html><h1>Sign in</h1></html>",
    "a denial": {"ok": False, "error": "channel_not_found"},
    "a failure": {"success": False},
    "an error": {"error": {"message": "quota"}},
    "no id": {"id": None},
    "an empty id": {"id": ""},
    "a list": [],
    "another word": "accepted?",
}


@pytest.mark.parametrize("body", NO_ACCEPTANCE.values(), ids=NO_ACCEPTANCE)
async def test_an_email_or_event_is_sent_only_if_the_answer_says_so(bench: ActivityBench, body: Any) -> None:
    """A 200 with another answer is an outage: the message is sent again, under its key."""
    await bench.bring(order_of(), "finalize")
    for service, send, message in (
        ("email", Notifications.send_email, CONFIRMATION),
        ("analytics", Notifications.track_order, ANALYTICS),
    ):
        bench.fault(service, "status", status=200, body=body)
        with pytest.raises(Unavailable, match=f"{service}: HTTP 200, but its answer is no acceptance"):
            await bench.do(send, message)
        assert await bench.pool.fetchval("SELECT count(*) FROM notifications WHERE kind = $1", message.kind) == 0
        assert await bench.do(send, message) == "sent"


@pytest.mark.parametrize("answer", ["", "OK\n", {}, {"success": True}, {"id": 7, "error": None}])
async def test_an_acceptance_has_many_forms(bench: ActivityBench, answer: Any) -> None:
    """None of them is taken for a failure, which would send the message again."""
    await bench.bring(order_of(), "finalize")
    bench.fault("email", "status", status=202, body=answer)

    assert await bench.do(Notifications.send_email, CONFIRMATION) == "sent"


AN_ALERT = Alert(order_id="o1", key="k", text="o1: it is stuck")


@pytest.mark.parametrize("body", ["", {}, *NO_ACCEPTANCE.values()], ids=["empty", "an object", *NO_ACCEPTANCE])
async def test_an_alert_is_posted_only_if_slack_says_so(bench: ActivityBench, body: Any) -> None:
    """Slack's webhook answers `ok`; anything else is an outage."""
    bench.fault("slack", "status", status=200, body=body)
    with pytest.raises(Unavailable, match="slack: HTTP 200, but its answer is no acceptance"):
        await bench.do(Notifications.post_alert, AN_ALERT)

    bench.fault("slack", "status", status=200, body={"ok": True})
    await bench.do(Notifications.post_alert, AN_ALERT)


async def undecided(bench: ActivityBench, last: str) -> None:
    order = order_of()
    await bench.bring(order, {"claim_undo": "reserve", "cancelling": "finalize"}.get(last, last))
    if last == "capture":
        await bench.do(Payments.capture_payment, order.id)
    if last == "claim_undo":
        await bench.claim_undo(order)
    if last == "cancelling":
        await bench.do(OrderState.claim_cancellation, order.id)


def emails(bench: ActivityBench) -> list[Any]:
    return [email["template"] for email in bench.world.provider_records()["emails"]]
