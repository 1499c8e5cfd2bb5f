"""One PaymentIntent for an order, with its id on the row before it is confirmed; one charge and one refund."""

import logging
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import stripe

from activities.order_state import OrderState, ResolutionRecord
from activities.payments import Payments
from config.settings import SANDBOX_STRIPE_KEY
from gateways.http import open_http
from gateways.payment_tries import FIRST_TRY
from gateways.stripe import stripe_client
from orders.errors import Permanent, Unavailable
from orders.models import Order, Park
from saga import Resolution
from sandbox.stripe_params import CaptureIntent, CreateRefund
from tests.support.activity_bench import ActivityBench, Gate, order_of, payment
from tests.support.shop import FREE

CREATE, CONFIRM, CAPTURE = "POST /v1/payment_intents", "POST */confirm", "POST */capture"
VOID, REFUND = "POST */cancel", "POST /v1/refunds"

WAIT = {"Retry-After": "7"}
NO_FUNDS = {"error": {"type": "invalid_request_error", "code": "balance_insufficient", "message": "no funds"}}
CARD_ERROR = {"error": {"type": "card_error", "code": "card_declined", "message": "no"}}
EXPIRED = {"error": {"type": "invalid_request_error", "code": "charge_expired_for_capture", "message": "no"}}
CANARY = "sk_test_canary customer@example.com 4242424242424242"


# ------------------------------------------------------------------------------------------------------------ authorize


async def test_authorize_twice_is_one_authorization(bench: ActivityBench) -> None:
    """The second attempt finds the PaymentIntent on the row."""
    order = order_of()
    await bench.reserve(order)
    first = await bench.authorize(order)

    assert first == await bench.authorize(order)
    assert first.state == "authorized"
    assert money(bench) == [("requires_capture", 5998, 0, 0)]


async def test_a_payment_whose_answer_is_lost_is_not_made_twice(bench: ActivityBench) -> None:
    """The next attempt uses the same key, and Stripe answers with the existing PaymentIntent."""
    order = order_of()
    await bench.reserve(order)
    bench.fault("stripe", "reset_after", "POST /v1/payment_intents")
    with pytest.raises(Unavailable):
        await bench.authorize(order)

    assert (await bench.authorize(order)).state == "authorized"
    assert money(bench) == [("requires_capture", 5998, 0, 0)]


async def test_what_stripe_gets(bench: ActivityBench) -> None:
    """It is created unconfirmed, with the catalogue's amount and the order id; every POST has its own key."""
    order = order_of()
    await bench.bring(order, "capture")
    posts = bench.calls("stripe")

    shop_id = str(await bench.pool.fetchval("SELECT id FROM shop"))
    assert posts[0]["body"] == {
        "amount": "5998",
        "currency": "usd",
        "customer": "cus_123",
        "payment_method": "pm_123",
        "allowed_payment_method_types": {"0": "card"},
        "capture_method": "manual",
        "metadata": {"order_id": order.id, "shop_id": shop_id},
    }
    keys = [post["headers"]["idempotency-key"] for post in posts]
    intent_id = (await bench.row(order.id))["payment_intent_id"]
    assert keys == [
        f"{shop_id}:o1:create:1",
        f"{shop_id}:o1:{intent_id}:confirm:1",
        f"{shop_id}:o1:{intent_id}:capture:1",
    ]


async def test_the_id_is_on_the_row_before_the_confirm(bench: ActivityBench) -> None:
    """After a confirm without an answer the row names the payment to undo."""
    order = order_of()
    await bench.reserve(order)
    bench.fault("stripe", "reset_before", CONFIRM)
    with pytest.raises(Unavailable):
        await bench.authorize(order)

    assert (await bench.row(order.id))["payment_intent_id"] == bench.world.provider_records()["payments"][0]["id"]
    assert (await bench.authorize(order)).state == "authorized"
    assert len(money(bench)) == 1


async def test_a_second_payment_intent_is_never_confirmed(bench: ActivityBench) -> None:
    """Two attempts, and Stripe forgets the keys in between: both use the id that was written first."""
    order = order_of()
    await bench.reserve(order)
    late = await bench.stop_at(Gate(2), Payments.authorize_payment, payment(order))
    bench.world.stripe.keys.clear()
    first = await bench.authorize(order)
    bench.database.gate.opened.set()  # type: ignore[union-attr]

    assert (await late).payment_intent_id == first.payment_intent_id
    assert sorted(status for status, *_ in money(bench)) == ["requires_capture", "requires_confirmation"]


@pytest.mark.parametrize("when", ["before", "while it is created"])
async def test_an_order_that_is_undone_is_not_authorized(bench: ActivityBench, when: str) -> None:
    """The id is written only on a pending row, and a PaymentIntent without its id on the row is not confirmed."""
    order = order_of()
    await bench.reserve(order)
    if when == "before":
        await bench.claim_undo(order)
        answer = await bench.authorize(order)
        assert money(bench) == []
    else:
        late = await bench.stop_at(Gate(2), Payments.authorize_payment, payment(order))
        await bench.claim_undo(order)
        bench.database.gate.opened.set()  # type: ignore[union-attr]
        answer = await late
        assert money(bench) == [("requires_confirmation", 0, 0, 0)]

    assert answer.state == "order_closed"
    assert (await bench.row(order.id))["payment_intent_id"] is None


@pytest.mark.parametrize(
    ("card", "code", "text"),
    [
        ("pm_card_chargeDeclined", "card_declined", "the card was declined (generic_decline)"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "the card was declined (insufficient_funds)"),
        ("pm_card_chargeDeclinedExpiredCard", "card_declined", "the card was declined (expired_card)"),
        ("pm_card_chargeDeclinedFraudulent", "card_declined", "the card was declined"),
        ("pm_card_chargeDeclinedLostCard", "card_declined", "the card was declined"),
        ("pm_card_chargeDeclinedStolenCard", "card_declined", "the card was declined"),
        ("pm_unknown", "payment_refused", "the payment method was refused"),
    ],
)
async def test_a_card_that_is_declined(bench: ActivityBench, card: str, code: str, text: str) -> None:
    """A decline is a result, not an error, and a retry gets the same; a reason that must stay secret is left out."""
    order = order_of(paymentMethodId=card)
    await bench.reserve(order)
    for _ in range(2):
        answer = await bench.authorize(order)
        assert (answer.state, answer.error_code, answer.error) == ("declined", code, text)


async def test_a_customer_whom_stripe_does_not_know(bench: ActivityBench, caplog: pytest.LogCaptureFixture) -> None:
    """The shop's own id of a customer is none of Stripe's: the log says which field it was."""
    order = order_of(customerId="customer-42")
    await bench.reserve(order)
    with caplog.at_level(logging.INFO):
        answer = await bench.authorize(order)
    assert (answer.state, answer.error_code) == ("declined", "payment_refused")
    assert "resource_missing customer" in [getattr(record, "why", None) for record in caplog.records]


@pytest.mark.parametrize(
    ("card", "succeeds", "state", "code"),
    [
        ("pm_card_authenticationRequired", True, "authorized", None),
        ("pm_card_authenticationRequired", False, "declined", "authentication_failed"),
        ("pm_card_authenticationRequiredChargeDeclinedInsufficientFunds", True, "declined", "card_declined"),
    ],
)
async def test_a_customer_who_must_authenticate(
    bench: ActivityBench, card: str, state: str, code: str | None, *, succeeds: bool
) -> None:
    """The PaymentIntent says how it ended; a retry does not ask the customer again."""
    order = order_of(paymentMethodId=card)
    await bench.reserve(order)
    for _ in range(2):
        assert (await bench.authorize(order)).state == "requires_action"
    bench.world.stripe.account.authenticate((await bench.row(order.id))["payment_intent_id"], succeeds=succeeds)
    answer = await bench.do(Payments.read_payment, order.id)

    assert (answer.state, answer.error_code) == (state, code)


@pytest.mark.parametrize(
    ("fault", "error", "kind", "wait"),
    [
        ({"status": 429, "body": {"code": "rate_limit"}, "headers": WAIT}, Unavailable, "stripe_unavailable", 7),
        ({"status": 429, "body": {"code": "lock_timeout"}}, Unavailable, "stripe_unavailable", None),
        ({"status": 409, "body": {"code": "idempotency_key_in_use"}}, Unavailable, "stripe_unavailable", None),
        ({"status": 503, "headers": {"Retry-After": "99999"}}, Unavailable, "stripe_unavailable", 300),
        ({"status": 500}, Unavailable, "stripe_unavailable", None),
        ({"status": 502, "body": f"<html>{CANARY}</html>"}, Unavailable, "stripe_unavailable", None),
        ({"status": 401, "body": {"code": "api_key_expired"}}, Unavailable, "stripe_unavailable", None),
        ({"status": 403, "body": {"code": "forbidden"}}, Unavailable, "stripe_unavailable", None),
        ({"status": 400, "body": {"type": "idempotency_error"}}, Permanent, "idempotency_mismatch", None),
        ({"status": 400, "body": {"code": "parameter_unknown", "param": "color"}}, Permanent, "stripe_refused", None),
        (
            {"status": 400, "body": {"param": "color"}, "headers": {"Stripe-Should-Retry": "true"}},
            Unavailable,
            "stripe_unavailable",
            None,
        ),
        ({"kind": "reset_before"}, Unavailable, "stripe_unavailable", None),
        ({"kind": "reset_after"}, Unavailable, "stripe_unavailable", None),
        ({"kind": "hang_before"}, Unavailable, "stripe_unavailable", None),
    ],
)
async def test_errors_of_stripe(
    bench: ActivityBench, fault: dict[str, Any], error: type[Exception], kind: str, wait: int | None
) -> None:
    """Each is retried or final, with Stripe's delay; its message is not quoted; the next attempt works."""
    order = order_of()
    await bench.reserve(order)
    body = fault.get("body")
    if isinstance(body, dict):
        fault = fault | {"body": {"error": {"type": "invalid_request_error", "message": CANARY} | body}}
    bench.fault("stripe", route=CREATE, **({"kind": "status"} | fault))
    with pytest.raises(error) as raised:
        await bench.authorize(order)

    assert raised.value.type == kind  # type: ignore[attr-defined]
    delay = raised.value.next_retry_delay  # type: ignore[attr-defined]
    assert (delay.total_seconds() if delay else None) == wait
    assert not any(part in repr(raised.value) + str(raised.value) for part in CANARY.split())
    assert (await bench.authorize(order)).state == "authorized"
    assert len(money(bench)) == 1


# -------------------------------------------------------------------------------------------------------------- capture


async def test_capture_twice_takes_the_money_once(bench: ActivityBench) -> None:
    """The claim and the charge happen once; both attempts answer that the order is paid."""
    order = order_of()
    await bench.bring(order, "fulfill")

    assert [await bench.capture(order), await bench.capture(order)] == [True, True]
    assert money(bench) == [("succeeded", 0, 5998, 0)]
    assert await bench.events(order.id) == ["pending", "capturing"]


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["reset_after", "hang_after"])
async def test_a_capture_whose_answer_is_lost(bench: ActivityBench, kind: str) -> None:
    """The next attempt finds out whether it took effect."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("stripe", kind, CAPTURE)
    with pytest.raises(Unavailable):
        await bench.capture(order)

    assert await bench.status(order.id) == "capturing"
    bench.world.stripe.keys.clear()
    assert await bench.capture(order)
    assert money(bench) == [("succeeded", 0, 5998, 0)]


async def test_an_undone_order_is_not_captured(bench: ActivityBench) -> None:
    """The claim of the undo came first."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await bench.claim_undo(order)

    assert await bench.capture(order) is False
    assert bench.calls("stripe", "/capture") == []


async def test_a_captured_order_is_not_undone(bench: ActivityBench) -> None:
    """The claim of the capture came first."""
    order = order_of()
    await bench.bring(order, "capture")

    assert (await bench.claim_undo(order)).status == "capturing"


@pytest.mark.parametrize("found", ["by the call", "after the call was lost"])
async def test_an_authorization_that_expired(bench: ActivityBench, found: str) -> None:
    """Only a PaymentIntent with the status canceled turns a claimed row to undoing."""
    order = order_of()
    await bench.bring(order, "fulfill")
    if found != "by the call":
        bench.fault("stripe", "reset_before", CAPTURE)
        with pytest.raises(Unavailable):
            await bench.capture(order)
    bench.world.stripe.account.expire((await bench.row(order.id))["payment_intent_id"])

    for _ in range(2):
        assert await bench.capture(order) is False
    row = await bench.row(order.id)
    assert (row["status"], row["closing"], row["error_code"]) == ("undoing", "failed", "authorization_expired")


async def test_automatic_capture_charges_at_the_confirm(bench: ActivityBench) -> None:
    """The capture step is only the claim; the undo is a refund."""
    order = order_of()
    await bench.reserve(order)
    await bench.pool.execute("UPDATE orders SET capture_mode = 'automatic', terms = '{\"captureMode\": \"automatic\"}'")
    assert (await bench.authorize(order)).state == "authorized"
    assert money(bench) == [("succeeded", 0, 5998, 0)]
    assert await bench.capture(order)
    assert bench.calls("stripe", "/capture") == []
    assert await bench.status(order.id) == "capturing"


# ------------------------------------------------------------------------------------------------------- void or refund


@pytest.mark.parametrize(
    ("card", "last", "end"),
    [
        ("pm_card_chargeDeclined", "authorize", ("canceled", 0, 0, 0)),
        ("pm_card_authenticationRequired", "authorize", ("canceled", 0, 0, 0)),
        ("pm_123", "authorize", ("canceled", 0, 0, 0)),
        ("pm_123", "finalize", ("succeeded", 0, 5998, 5998)),
    ],
    ids=["requires_payment_method", "requires_action", "requires_capture", "succeeded"],
)
async def test_undo_twice_by_the_status_at_stripe(
    bench: ActivityBench, card: str, last: str, end: tuple[Any, ...]
) -> None:
    """The payment is voided before the capture and refunded after it; the second undo finds it done."""
    order = order_of(paymentMethodId=card)
    await bench.bring(order, last)
    await undone(bench, order)

    assert [await void(bench, order), await void(bench, order)]
    assert money(bench) == [end]


async def test_undo_of_an_unconfirmed_payment(bench: ActivityBench) -> None:
    """It is voided, so that Stripe refuses a late confirm."""
    order = order_of()
    await bench.reserve(order)
    bench.fault("stripe", "reset_before", CONFIRM)
    with pytest.raises(Unavailable):
        await bench.authorize(order)
    await undone(bench, order)
    await void(bench, order)

    assert money(bench) == [("canceled", 0, 0, 0)]


async def test_undo_without_a_payment_makes_no_call(bench: ActivityBench) -> None:
    """Its step never happened."""
    order = order_of()
    await bench.reserve(order)
    await undone(bench, order)

    assert await void(bench, order) == "no payment was made"
    assert bench.calls("stripe") == []


async def test_undo_waits_for_a_payment_that_is_processing(bench: ActivityBench) -> None:
    """Stripe can neither void nor refund it yet."""
    order = order_of()
    await bench.bring(order, "authorize")
    await undone(bench, order)
    intent = bench.world.stripe.account.intents[(await bench.row(order.id))["payment_intent_id"]]
    intent.status = "processing"
    with pytest.raises(Unavailable, match="cannot void yet"):
        await void(bench, order)
    intent.status = "requires_capture"

    await void(bench, order)
    assert intent.status == "canceled"


@pytest.mark.parametrize("kind", ["reset_after", "hang_after"])
@pytest.mark.parametrize(("last", "route"), [("authorize", VOID), ("finalize", REFUND)])
async def test_an_undo_whose_answer_is_lost(bench: ActivityBench, kind: str, last: str, route: str) -> None:
    """The next attempt reads what was done, even if Stripe has forgotten the key."""
    order = order_of()
    await bench.bring(order, last)
    await undone(bench, order)
    bench.fault("stripe", kind, route)
    with pytest.raises(Unavailable):
        await void(bench, order)
    bench.world.stripe.keys.clear()
    await void(bench, order)

    (found,) = bench.world.provider_records()["payments"]
    assert (found["authorized"], found["captured"]) == (0, found["refunded"])
    assert len(bench.world.stripe.account.refunds) == (last == "finalize")


async def test_a_pending_refund_is_kept_as_such(bench: ActivityBench) -> None:
    """It counts as refunded, and the row of the refund gets the status that Stripe has later."""
    order = order_of(paymentMethodId="pm_card_pendingRefund")
    await bench.bring(order, "finalize")
    await undone(bench, order)
    await void(bench, order)
    (refund,) = bench.world.stripe.account.refunds
    assert await refunds(bench) == [(1, 5998, "pending")]

    bench.world.stripe.account.settle(refund, succeeds=True)
    await void(bench, order)
    assert await refunds(bench) == [(1, 5998, "succeeded")]


@pytest.mark.parametrize("card", ["pm_refund_failed", "pm_card_refundFail"])
async def test_a_failed_refund_is_tried_again_only_after_a_retry(bench: ActivityBench, card: str) -> None:
    """Each retry allows one more attempt, which is kept with its number."""
    order = order_of(paymentMethodId=card)
    await bench.bring(order, "finalize")
    await undone(bench, order)
    if card == "pm_card_refundFail":
        await void(bench, order)  # answered as succeeded; it fails later
    for _ in range(2):
        with pytest.raises(Permanent) as failure:
            await void(bench, order)
        assert failure.value.type == "refund_failed"
    assert len(bench.calls("stripe", "/v1/refunds")) == 1

    await park(bench, order)
    await resolve(bench, order, "retry")
    bench.world.stripe.account.intents[(await bench.row(order.id))["payment_intent_id"]].payment_method = "pm_123"
    await void(bench, order)
    await void(bench, order)
    keys = [post["headers"]["idempotency-key"] for post in bench.calls("stripe", "/v1/refunds")]
    assert [key.partition(":refund:")[2] for key in keys] == ["1:1", "2:1"]
    assert await refunds(bench) == [(1, 5998, "failed"), (2, 5998, "succeeded")]


async def test_a_retry_of_a_refused_refund_is_a_new_one_to_stripe(bench: ActivityBench) -> None:
    """Stripe saves the refusal under its key, and repeats it: then another key is used."""
    order = order_of()
    await bench.bring(order, "finalize")
    await undone(bench, order)
    account = bench.world.stripe.account
    account.warn("dispute", (await bench.row(order.id))["payment_intent_id"])
    with pytest.raises(Permanent, match="charge_disputed"):
        await void(bench, order)
    account.warnings.clear()

    await park(bench, order)
    await resolve(bench, order, "retry")
    await void(bench, order)
    assert refund_keys(bench) == ["1:1", "1:1", "1:2"]


async def test_a_retry_before_a_refund_failed_keeps_the_key(bench: ActivityBench) -> None:
    """The request whose answer is lost may still be under way: under another key it could take effect twice."""
    order = order_of()
    await bench.bring(order, "finalize")
    await undone(bench, order)
    bench.fault("stripe", "reset_before", "POST /v1/refunds")
    with pytest.raises(Unavailable):
        await void(bench, order)

    await park(bench, order)
    await resolve(bench, order, "retry")
    await void(bench, order)
    assert refund_keys(bench) == ["1:1", "1:1"]


async def test_a_failure_whose_answer_was_lost_takes_a_retry(bench: ActivityBench) -> None:
    """It is kept when it is first seen, so that the retry after it is told from one before."""
    order = order_of(paymentMethodId="pm_refund_failed")
    await bench.bring(order, "finalize")
    await undone(bench, order)
    bench.fault("stripe", "reset_after", "POST /v1/refunds")
    with pytest.raises(Unavailable):
        await void(bench, order)
    await park(bench, order)
    await resolve(bench, order, "retry")
    with pytest.raises(Permanent, match="the refund failed"):
        await void(bench, order)
    assert await refunds(bench) == [(1, 5998, "failed")]

    await park(bench, order, resolutions=1)
    await resolve(bench, order, "retry", "another")
    with pytest.raises(Permanent, match="the refund failed"):
        await void(bench, order)
    assert refund_keys(bench) == ["1:1", "2:1"]


async def test_a_retry_after_a_refusal_allows_none_after_a_later_failure(bench: ActivityBench) -> None:
    """The refund after the retry fails days later: it is not tried again, whether or not Stripe has the key."""
    order = order_of()
    await bench.bring(order, "finalize")
    await undone(bench, order)
    bench.fault("stripe", "status", "POST /v1/refunds", status=400, body=NO_FUNDS)
    with pytest.raises(Permanent):
        await void(bench, order)
    await park(bench, order)
    await resolve(bench, order, "retry")
    await void(bench, order)
    [refund] = bench.world.stripe.account.refunds.values()
    bench.world.stripe.account.settle(refund.id, succeeds=False)

    for keys_are_pruned in (False, True):
        if keys_are_pruned:
            bench.world.stripe.keys.clear()
        with pytest.raises(Permanent, match=refund.id):
            await void(bench, order)
    assert [*bench.world.stripe.account.refunds] == [refund.id]


async def test_a_void_that_was_refused_once(bench: ActivityBench) -> None:
    """Stripe saved the refusal under the key, so the payment is voided under the next key."""
    order = order_of(paymentMethodId="pm_card_authenticationRequired")
    await bench.bring(order, "authorize")
    await bench.claim_undo(order)
    account, intent_id = bench.world.stripe.account, (await bench.row(order.id))["payment_intent_id"]
    waiting = account.intents[intent_id].status

    account.intents[intent_id].status = "processing"
    shop_id = await bench.pool.fetchval("SELECT id FROM shop")
    async with open_http(3) as http:
        client = stripe_client(http, SANDBOX_STRIPE_KEY, f"{bench.sandbox.url}/stripe")
        with pytest.raises(stripe.InvalidRequestError):
            await client.v1.payment_intents.cancel_async(
                intent_id, {}, {"idempotency_key": f"{shop_id}:o1:{intent_id}:void:1:1"}
            )
    account.intents[intent_id].status = waiting

    assert await void(bench, order) == f"{intent_id} voided"


async def test_a_manual_refund_counts(bench: ActivityBench) -> None:
    """Only the rest of the charge is refunded."""
    order = order_of()
    await bench.bring(order, "finalize")
    by_hand = {"payment_intent": (await bench.row(order.id))["payment_intent_id"], "amount": 1000}
    bench.world.stripe.account.create_refund(CreateRefund.model_validate(by_hand))
    await undone(bench, order)
    await void(bench, order)

    assert money(bench) == [("succeeded", 0, 5998, 5998)]
    assert await refunds(bench) == [(1, 1000, "succeeded"), (2, 4998, "succeeded")]


@pytest.mark.parametrize("action", ["skip", "resolved"])
async def test_a_resolution_counts_as_done(bench: ActivityBench, action: Any) -> None:
    """A run that drives the order later makes no call."""
    order = order_of()
    await bench.bring(order, "authorize")
    await undone(bench, order)
    await park(bench, order)
    await resolve(bench, order, action)
    calls = len(bench.calls("stripe"))

    assert await void(bench, order) == f"{action} by ann: looked at it"
    assert len(bench.calls("stripe")) == calls


async def test_shipped_before_the_undo_goes_forward(bench: ActivityBench) -> None:
    """The row moves from undoing to capturing, once."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await undone(bench, order)
    for _ in range(2):
        assert (await bench.do(Payments.resume_capture, order.id)).status == "capturing"

    assert await bench.capture(order)
    assert await bench.events(order.id) == ["pending", "undoing", "capturing"]


async def test_a_free_order_asks_stripe_nothing(bench: ActivityBench) -> None:
    """Its capture is the claim alone; there is nothing to void; goods that have left go forward without a payment."""
    placed, left = order_of("placed", **FREE), order_of("left", **FREE)
    await bench.bring(placed, "finalize")
    assert await bench.capture(placed)
    assert (await bench.status("placed"), (await bench.row("placed"))["payment_intent_id"]) == ("processing", None)
    await bench.do(OrderState.claim_cancellation, placed.id)
    assert await void(bench, placed) == "no payment was made"

    await bench.bring(left, "fulfill")
    await undone(bench, left)
    for _ in range(2):
        assert (await bench.do(Payments.resume_capture, left.id)).status == "capturing"
    assert await bench.capture(left)
    assert bench.calls("stripe") == []


async def test_shipped_but_the_authorization_is_lost(bench: ActivityBench) -> None:
    """An operator must decide."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await undone(bench, order)
    await void(bench, order)
    with pytest.raises(Permanent) as failure:
        await bench.do(Payments.resume_capture, order.id)

    assert failure.value.type == "shipped_unpaid"
    assert await bench.status(order.id) == "undoing"


async def test_a_parked_undo_does_not_go_forward(bench: ActivityBench) -> None:
    """A parked row waits for an operator."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await undone(bench, order)
    await park(bench, order)

    assert (await bench.do(Payments.resume_capture, order.id)).status == "undoing"


@pytest.mark.parametrize("effect", [True, False], ids=["took effect", "did not"])
@pytest.mark.parametrize("attempts", [1, 7])
@pytest.mark.parametrize(
    ("route", "status"), [(CREATE, 500), (CONFIRM, 500), (CAPTURE, 500), (CAPTURE, 402), (VOID, 500), (REFUND, 500)]
)
async def test_a_saved_error_is_settled_by_reading(
    bench: ActivityBench, route: str, status: int, attempts: int, *, effect: bool
) -> None:
    """Stripe repeats it for ever, so each attempt uses one new key, once it has read that nothing happened."""
    order = order_of()
    await bench.bring(order, {CAPTURE: "fulfill", VOID: "fulfill", REFUND: "finalize"}.get(route, "reserve"))
    if route in (VOID, REFUND):
        await undone(bench, order)
    acts: dict[str, Any] = {CAPTURE: bench.capture, VOID: partial(void, bench), REFUND: partial(void, bench)}
    act = acts.get(route, bench.authorize)
    bench.fault("stripe", "saved", route, status=status, body=CARD_ERROR, effect=effect, times=None)
    for _ in range(attempts):
        with suppress(Unavailable):
            await act(order)
    bench.world.faults.clear()
    await act(order)

    ends = {CAPTURE: ("succeeded", 0, 5998, 0), VOID: ("canceled", 0, 0, 0), REFUND: ("succeeded", 0, 5998, 5998)}
    assert money(bench) == [ends.get(route, ("requires_capture", 5998, 0, 0))]


async def test_a_day_of_saved_errors_costs_one_key_in_each_attempt(bench: ActivityBench) -> None:
    """However many keys are spent, an attempt makes three calls, and the first one after the outage succeeds."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("stripe", "saved", CAPTURE, status=500, effect=False, times=None)
    for _ in range(30):
        with pytest.raises(Unavailable):
            await bench.capture(order)
    assert len(bench.calls("stripe", "/capture")) == 1 + 2 + 28 * 3

    bench.world.faults.clear()
    assert await bench.capture(order)
    assert money(bench) == [("succeeded", 0, 5998, 0)]


@pytest.mark.parametrize("kind", ["status", "saved"])
async def test_a_capture_that_is_refused_is_looked_at(bench: ActivityBench, kind: str) -> None:
    """Whatever the refusal says, the PaymentIntent decides: this one is canceled, so the order is undone."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.world.stripe.account.expire((await bench.row(order.id))["payment_intent_id"])
    bench.fault("stripe", kind, CAPTURE, status=400, body=EXPIRED, times=None)

    assert await bench.capture(order) is False
    assert await bench.status(order.id) == "undoing"


async def test_a_capture_that_stays_refused(bench: ActivityBench) -> None:
    """The PaymentIntent could be captured all the same: the refusal is reported, and the order stays as it is."""
    order = order_of()
    await bench.bring(order, "fulfill")
    bench.fault("stripe", "saved", CAPTURE, status=400, body=EXPIRED, effect=False, times=None)
    for _ in range(3):
        with pytest.raises(Permanent, match="charge_expired_for_capture"):
            await bench.capture(order)

    assert await bench.status(order.id) == "capturing"
    bench.world.faults.clear()
    assert await bench.capture(order)


@pytest.mark.parametrize("refunded", [False, True])
async def test_a_part_that_is_captured_by_hand_is_not_the_price(bench: ActivityBench, *, refunded: bool) -> None:
    """It needs an operator; once the part is refunded, nothing is charged, and the order is undone."""
    order = order_of()
    await bench.bring(order, "fulfill")
    intent_id = (await bench.row(order.id))["payment_intent_id"]
    bench.world.stripe.account.capture_intent(intent_id, CaptureIntent(amount_to_capture=100))
    with pytest.raises(Permanent, match=r"with 1\.00 usd instead of 59\.98 usd"):
        await bench.capture(order)
    assert await bench.status(order.id) == "capturing"
    if refunded:
        bench.world.stripe.account.create_refund(CreateRefund(payment_intent=intent_id))
        assert await bench.capture(order) is False
        assert await bench.status(order.id) == "undoing"


async def test_a_part_that_is_captured_during_the_checkout_is_no_authorization(bench: ActivityBench) -> None:
    """The same, before the pivot."""
    order = order_of()
    await bench.bring(order, "authorize")
    intent_id = (await bench.row(order.id))["payment_intent_id"]
    bench.world.stripe.account.capture_intent(intent_id, CaptureIntent(amount_to_capture=100))
    reads: list[Any] = [
        partial(bench.authorize, order),
        partial(bench.do, Payments.read_payment, order.id),
    ]
    for read in reads:
        with pytest.raises(Permanent, match=r"with 1\.00 usd instead of 59\.98 usd"):
            await read()


async def test_goods_that_left_are_not_paid_for_by_a_part(bench: ActivityBench) -> None:
    """An operator must decide."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await undone(bench, order)
    intent_id = (await bench.row(order.id))["payment_intent_id"]
    bench.world.stripe.account.capture_intent(intent_id, CaptureIntent(amount_to_capture=100))
    with pytest.raises(Permanent, match="no authorization"):
        await bench.do(Payments.resume_capture, order.id)


async def test_a_late_attempt_creates_no_second_payment(bench: ActivityBench) -> None:
    """It read the row before another attempt confirmed the payment: Stripe repeats that one, whose id is on the row."""
    order = order_of()
    before = await bench.reserve(order)
    await bench.authorize(order)
    payments: Any = bench.activities["authorize_payment"]
    late = await payments.__self__._create(before, order.payment_method_id, FIRST_TRY)  # noqa: SLF001 (from there on)

    assert late == (await bench.row(order.id))["payment_intent_id"]
    assert money(bench) == [("requires_capture", 5998, 0, 0)]


async def test_goods_that_left_are_not_paid_for_by_what_was_refunded(bench: ActivityBench) -> None:
    """The customer has the money back: an operator must decide."""
    order = order_of()
    await bench.bring(order, "capture")
    await bench.pool.execute("UPDATE orders SET status = 'undoing', closing = 'failed'")
    await void(bench, order)
    with pytest.raises(Permanent, match="no authorization"):
        await bench.do(Payments.resume_capture, order.id)


async def test_goods_that_left_while_the_payment_is_settled(bench: ActivityBench) -> None:
    """An operator settled the payment before it was known: the undo must park, not go round in circles."""
    order = order_of()
    await bench.bring(order, "fulfill")
    await undone(bench, order)
    await park(bench, order)
    await resolve(bench, order, "skip")
    with pytest.raises(Permanent, match="skip by ann"):
        await bench.do(Payments.resume_capture, order.id)


async def test_a_refund_of_a_status_that_we_do_not_know(bench: ActivityBench) -> None:
    """It may have reached the customer: it is kept, and an operator must decide; none is made beside it."""
    order = order_of()
    await bench.bring(order, "finalize")
    await undone(bench, order)
    await void(bench, order)
    (refund,) = bench.world.stripe.account.refunds.values()
    refund.status = "disbursed"
    for _ in range(2):
        with pytest.raises(Permanent, match="disbursed"):
            await void(bench, order)
    assert await refunds(bench) == [(1, 5998, "disbursed")]


async def test_a_payment_of_a_copy_of_the_database_is_not_ours(bench: ActivityBench) -> None:
    """The copy asks under the same keys, and Stripe answers with the payment that is captured already."""
    order = order_of()
    await bench.bring(order, "capture")
    first = (await bench.row(order.id))["payment_intent_id"]
    await bench.pool.execute("UPDATE orders SET status = 'pending', payment_intent_id = NULL")

    assert (await bench.authorize(order)).state == "authorized"
    assert (await bench.row(order.id))["payment_intent_id"] != first
    assert money(bench) == [("succeeded", 0, 5998, 0), ("requires_capture", 5998, 0, 0)]


@pytest.mark.parametrize("route", [CREATE, CONFIRM])
async def test_a_payment_method_that_was_used_up(bench: ActivityBench, route: str) -> None:
    """Stripe names neither a parameter nor a code: the customer's payment is refused, and nothing has failed."""
    order = order_of()
    await bench.reserve(order)
    bench.fault("stripe", "status", route, status=400, body={"error": {"type": "invalid_request_error"}})
    answer = await bench.authorize(order)

    assert (answer.state, answer.error_code) == ("declined", "payment_refused")
    assert answer.error == "the payment method was refused"


async def test_a_void_that_is_refused_without_a_reason(bench: ActivityBench) -> None:
    """Only what the customer chose can be refused to the customer; this is an operator's case."""
    order = order_of()
    await bench.bring(order, "authorize")
    await undone(bench, order)
    bench.fault("stripe", "status", VOID, status=400, body={"error": {"type": "invalid_request_error"}})
    with pytest.raises(Permanent):
        await void(bench, order)


async def test_a_refund_that_stripe_no_longer_knows(bench: ActivityBench) -> None:
    """One more might be one too many."""
    order = order_of(paymentMethodId="pm_card_pendingRefund")
    await bench.bring(order, "finalize")
    await undone(bench, order)
    await void(bench, order)
    bench.world.stripe.account.refunds.clear()
    with pytest.raises(Permanent, match="does not know the refund"):
        await void(bench, order)
    assert bench.world.stripe.account.refunds == {}


# -------------------------------------------------------------------------------------------------------------- helpers


def money(bench: ActivityBench) -> list[tuple[str, int, int, int]]:
    """Of every PaymentIntent: status, authorized, captured, refunded."""
    payments = bench.world.provider_records()["payments"]
    return [(each["status"], each["authorized"], each["captured"], each["refunded"]) for each in payments]


async def undone(bench: ActivityBench, order: Order) -> None:
    """Claim the order for its undo or its cancellation."""
    await bench.do(OrderState.claim_cancellation, order.id)


async def void(bench: ActivityBench, order: Order) -> str:
    return (await bench.do(Payments.void_payment, order.id)).note


def refund_keys(bench: ActivityBench) -> list[str]:
    """The attempt and the number of each idempotency key that Stripe got for a refund."""
    posts = bench.calls("stripe", "/v1/refunds")
    return [post["headers"]["idempotency-key"].partition(":refund:")[2] for post in posts]


async def refunds(bench: ActivityBench) -> list[tuple[int, int, str]]:
    rows = await bench.pool.fetch("SELECT attempt, amount, status FROM refunds ORDER BY attempt")
    return [(row["attempt"], row["amount"], row["status"]) for row in rows]


async def park(bench: ActivityBench, order: Order, resolutions: int = 0) -> None:
    """The run knows of so many resolutions."""
    park = Park(order_id=order.id, step="void_payment", reason="stuck", workflow_id="w", resolution_count=resolutions)
    await bench.do(OrderState.park_order, park)


async def resolve(bench: ActivityBench, order: Order, action: Any, key: str = "1") -> None:
    resolution = Resolution(step="void_payment", action=action, reason="looked at it", by="ann")
    record = ResolutionRecord(order_id=order.id, key=key, resolution=resolution)
    await bench.do(OrderState.record_resolution, record)
