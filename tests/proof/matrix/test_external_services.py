"""The fault matrix, external services: each call to Stripe and the warehouse fails in each known way.

What a customer's bank may decide (declines, 3DS) is in tests/workflows/test_payment_states.py.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import Postgres
from orders.models import Stage
from tests.proof.matrix.endings import ORDER_ID, PLACED, TOTAL, ExpectedEnding, check_ending, inject_fault, reconcile
from tests.support.scenarios import (
    REFUSED_ADDRESS,
    final_error,
    is_running,
    resolve,
    until_attempts,
    until_marked,
    until_stage,
    until_stuck,
)
from tests.support.servers import copy_database
from tests.support.shop import Payload, Shop, an_order, open_shop

HTTP_TIMEOUT: Final = 1  # seconds that each test of a hang takes

VOIDED = ExpectedEnding("completed", "fulfillment_refused", "rejected")
REFUNDED = replace(VOIDED, captured=TOTAL, refunded=TOTAL)
FAILED = ExpectedEnding("failed", "failed", "failed")
FAILED_AND_REFUNDED = replace(FAILED, captured=TOTAL, refunded=TOTAL)
UNPAID = ExpectedEnding("completed", "card_declined", "rejected")

REFUSED = an_order(shippingAddress=REFUSED_ADDRESS)
THREE_D_SECURE = an_order(paymentMethodId="pm_card_authenticationRequired")


@pytest.fixture(scope="module")
async def shops(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Mapping[str, Shop]]:
    """A shop that captures after the warehouse has accepted, and one that charges at once; they share a database."""
    settings: dict[str, Any] = {"http_timeout_seconds": HTTP_TIMEOUT, "reconcile_after_seconds": 0}
    async with (
        copy_database(postgres) as url,
        open_shop(url, temporal, **settings) as manual,
        open_shop(url, temporal, payment_capture="automatic", **settings) as automatic,
    ):
        yield {"manual": manual, "automatic": automatic}


async def opened(shops: Mapping[str, Shop], capture: str = "manual") -> Shop:
    """The shop with this way of charging, as new."""
    await shops[capture].clear()
    return shops[capture]


@pytest.fixture
async def shop(shops: Mapping[str, Shop]) -> Shop:
    return await opened(shops)


# ------------------------------------------------------------------------------------------------------- Stripe's calls


@dataclass(frozen=True)
class Call:
    """A POST that moves money, the activity that sends it, an order that leads to it, and the order's ending."""

    route: str
    activity: str
    end: ExpectedEnding
    payload: Payload = field(default_factory=an_order)
    capture: str = "manual"


CREATE, CONFIRM, CAPTURE, VOID = (
    f"POST /v1/payment_intents{path}" for path in ("", "/*/confirm", "/*/capture", "/*/cancel")
)
REFUND = "POST /v1/refunds"

CALLS = {
    "create": Call(CREATE, "authorize_payment", PLACED),
    "confirm": Call(CONFIRM, "authorize_payment", PLACED),
    "capture": Call(CAPTURE, "capture_payment", PLACED),
    "void": Call(VOID, "void_payment", VOIDED, REFUSED),
    "charge": Call(CONFIRM, "authorize_payment", PLACED, capture="automatic"),
    "refund": Call(REFUND, "void_payment", REFUNDED, REFUSED, capture="automatic"),
}


def answer(status: int, code: str | None, kind: str = "api_error", **headers: str) -> dict[str, Any]:
    """An error that Stripe answers before any effect."""
    return {
        "kind": "status",
        "status": status,
        "headers": {name.replace("_", "-"): value for name, value in headers.items()},
        "body": {"error": {"type": kind, "code": code}},
    }


FAULTS: dict[str, dict[str, Any]] = {
    "reset before": {"kind": "reset_before"},
    "reset after": {"kind": "reset_after"},
    "hang after": {"kind": "hang_after"},
    "slower than we wait": {"kind": "delay", "seconds": HTTP_TIMEOUT * 1.5},
    "500 before the effect": answer(500, None),
    "500 saved with effect": {"kind": "saved_500", "effect": True},
    "500 saved without effect": {"kind": "saved_500", "effect": False},
    "429 with Retry-After": answer(429, "rate_limit", "invalid_request_error", Retry_After="60"),
    "lock timeout": answer(429, "lock_timeout", "invalid_request_error"),
    "409 key in use": answer(409, "idempotency_key_in_use", "idempotency_error"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_call_to_stripe_fails(shops: Mapping[str, Shop], call: Call, fault: dict[str, Any]) -> None:
    """Whether the POST took effect or not, the order ends as usual, and money moves once."""
    shop = await opened(shops, call.capture)
    inject_fault(shop, "stripe", call.route, fault)
    await check_ending(shop, await shop.start(call.payload, ORDER_ID), call.end)
    assert not shop.world.faults.pending()
    refunds = await shop.pool.fetch("SELECT status, amount, attempt FROM refunds WHERE order_id = $1", ORDER_ID)
    assert [tuple(each) for each in refunds] == [("succeeded", TOTAL, 1)] * (call.route == REFUND)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_stripe_forgets_the_key_of_a_lost_answer(shops: Mapping[str, Shop], call: Call) -> None:
    """More than a day passes between two attempts: the money that the first has moved is not moved again.

    A payment whose id was lost with the answer is created again; only the one on the row is confirmed.
    """
    shop = await opened(shops, call.capture)

    async def first() -> None:
        inject_fault(shop, "stripe", call.route, {"kind": "reset_after"})

    async def second() -> None:
        shop.world.stripe.keys.clear()

    shop.hooks.when(call.activity, first)
    shop.hooks.when(call.activity, second)
    await check_ending(shop, await shop.start(call.payload, ORDER_ID), call.end)
    assert [name for _, name in shop.hooks.calls].count(call.activity) > 1
    kept = (await shop.row(ORDER_ID))["payment_intent_id"]
    spare = [each["status"] for each in shop.world.books()["payments"] if each["id"] != kept]
    assert spare == ["requires_confirmation"] * (call.route == CREATE)


# ---------------------------------------------------------------------------------------- payments that take their time


@dataclass(frozen=True)
class Decision:
    """What the bank decides about a payment that is `processing`, and how its order ends."""

    status: str
    end: ExpectedEnding
    late: ExpectedEnding


DECLINED = {"type": "card_error", "code": "card_declined", "decline_code": "generic_decline"}
EXPIRED = replace(UNPAID, code="authentication_expired")

DECISIONS = {
    "authorized": Decision("requires_capture", PLACED, EXPIRED),
    "declined": Decision("requires_payment_method", UNPAID, EXPIRED),
    "cancelled at Stripe": Decision("canceled", ExpectedEnding("failed", "authorization_expired", "failed"), EXPIRED),
}


@pytest.mark.parametrize("late", [False, True], ids=["in time", "after the deadline"])
@pytest.mark.parametrize("decision", DECISIONS.values(), ids=DECISIONS)
async def test_a_payment_is_processing(shop: Shop, decision: Decision, *, late: bool) -> None:
    """The order waits for it until the deadline; after that it is undone once the bank has decided."""
    run = await shop.start(THREE_D_SECURE, ORDER_ID)
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    intent = shop.world.stripe.account.intent((await shop.row(ORDER_ID))["payment_intent_id"])
    intent.status = "processing"
    if late:
        await shop.advance(run, timedelta(minutes=16))
        await until_attempts(shop, "void_payment", 1)
        assert await is_running(run)
    intent.status = decision.status
    intent.amount_capturable = intent.amount if decision.status == "requires_capture" else 0
    intent.last_payment_error = DECLINED
    await run.signal("payment-updated")
    await check_ending(shop, run, decision.late if late else decision.end)


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
async def test_a_pending_refund_ends_later(shops: Mapping[str, Shop], outcome: str) -> None:
    """The order is closed while the refund is pending; reconciliation follows it and alerts of a failure."""
    shop = await opened(shops, "automatic")
    run = await shop.start(REFUSED | {"paymentMethodId": "pm_card_pendingRefund"}, ORDER_ID)
    await check_ending(shop, run, replace(REFUNDED, refunded=0))
    (refund,) = shop.world.stripe.account.refunds
    shop.world.stripe.account.settle(refund, succeeds=outcome == "succeed")
    await reconcile(shop)
    kept = await shop.pool.fetchval("SELECT status FROM refunds WHERE order_id = $1", ORDER_ID)
    assert kept == {"succeed": "succeeded", "fail": "failed"}[outcome]
    assert [ORDER_ID in alert.text for alert in shop.world.inbox.alerts] == [True] * (outcome == "fail")


# -------------------------------------------------------------------------------------------------------- the warehouse


REQUEST = "POST /orders"
CANCEL = "POST /orders/*/cancel"

OUTAGES: dict[str, dict[str, Any]] = {
    "slow": {"kind": "delay", "seconds": HTTP_TIMEOUT / 5},
    "reset before": {"kind": "reset_before"},
    "reset after": {"kind": "reset_after"},
    "hang after": {"kind": "hang_after"},
    "500 before the effect": {"kind": "status", "status": 500},
    "500 after the effect": {"kind": "status", "status": 500, "after_effect": True},
    "429 with Retry-After": {"kind": "status", "status": 429, "headers": {"Retry-After": "60"}},
}


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
async def test_a_request_to_the_warehouse_fails(shop: Shop, fault: dict[str, Any]) -> None:
    """The request is retried, the warehouse ships once, and the order is placed."""
    inject_fault(shop, "fulfillment", REQUEST, fault)
    await check_ending(shop, await shop.start(order_id=ORDER_ID), PLACED)
    assert posts(shop, "/orders") == (1 if fault["kind"] == "delay" else 2)
    assert [each["status"] for each in shop.world.books()["fulfillment"]] == ["accepted"]


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES)
async def test_a_cancel_at_the_warehouse_fails(shop: Shop, fault: dict[str, Any]) -> None:
    """The cancel is retried until it succeeds; only then is the payment voided."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    inject_fault(shop, "fulfillment", CANCEL, fault)
    await check_ending(shop, await shop.start(order_id=ORDER_ID), FAILED)
    assert posts(shop, "/cancel") == (1 if fault["kind"] == "delay" else 2)
    assert [each["status"] for each in shop.world.books()["fulfillment"]] == ["cancelled"]


REFUSALS: dict[str, tuple[str, dict[str, Any], ExpectedEnding]] = {
    "with a code, authorized": ("manual", {"status": 422, "body": {"error": {"code": "hazardous"}}}, VOIDED),
    "with a code, charged": ("automatic", {"status": 422, "body": {"error": {"code": "hazardous"}}}, REFUNDED),
    "without a code, charged": ("automatic", {"status": 400, "body": "<html>Bad request</html>"}, REFUNDED),
}


@pytest.mark.parametrize(("capture", "answer", "end"), REFUSALS.values(), ids=REFUSALS)
async def test_the_warehouse_refuses(
    shops: Mapping[str, Shop], capture: str, answer: dict[str, Any], end: ExpectedEnding
) -> None:
    """A business refusal: an authorization is voided, a charge is refunded."""
    shop = await opened(shops, capture)
    inject_fault(shop, "fulfillment", REQUEST, {"kind": "status", **answer})
    await check_ending(shop, await shop.start(order_id=ORDER_ID), end)


@pytest.mark.parametrize("capture", ["manual", "automatic"])
@pytest.mark.parametrize("kind", ["reset_before", "reset_after"])
async def test_the_warehouse_is_down_beyond_the_deadline(shops: Mapping[str, Shop], capture: str, kind: str) -> None:
    """At the deadline everything is undone; an order that the warehouse had accepted is canceled there."""
    shop = await opened(shops, capture)
    inject_fault(shop, "fulfillment", REQUEST, {"kind": kind, "times": None})
    run = await shop.start(order_id=ORDER_ID)
    await until_attempts(shop, "request_fulfillment", 2)
    await shop.advance(run, timedelta(minutes=11))
    await check_ending(shop, run, FAILED if capture == "manual" else FAILED_AND_REFUNDED)
    canceled = ["cancelled"] if kind == "reset_after" else []
    assert [each["status"] for each in shop.world.books()["fulfillment"]] == canceled


async def test_the_warehouse_is_down_during_the_undo(shop: Shop) -> None:
    """The undo waits for the end of the outage, alerts operators meanwhile, and keeps the authorization."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    inject_fault(shop, "fulfillment", CANCEL, {"kind": "status", "times": None})
    run = await shop.start(order_id=ORDER_ID)
    await until_attempts(shop, "cancel_fulfillment", 1)
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "cancel_fulfillment")
    assert shop.world.books()["orders"][ORDER_ID]["authorized"] == TOTAL
    shop.world.faults.clear()
    await check_ending(shop, run, FAILED)


@pytest.mark.parametrize("status", [400, 422])
async def test_the_warehouse_refuses_the_cancel(shop: Shop, status: int) -> None:
    """An operator decides; until then the authorization and the stock stay reserved."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    inject_fault(shop, "fulfillment", CANCEL, {"kind": "status", "status": status})
    run = await shop.start(order_id=ORDER_ID)
    assert await until_stuck(run) == ("cancel_fulfillment",)
    assert shop.world.books()["orders"][ORDER_ID]["authorized"] == TOTAL
    assert await shop.stock() == (98, 2)
    await resolve(run, "cancel_fulfillment", "retry")
    await check_ending(shop, run, FAILED)
    undone = [name for _, name in shop.hooks.calls if name in ("cancel_fulfillment", "void_payment")]
    assert undone == ["cancel_fulfillment", "cancel_fulfillment", "void_payment"]


@pytest.mark.parametrize("capture", ["manual", "automatic"])
async def test_the_goods_have_left_when_the_order_is_undone(shops: Mapping[str, Shop], capture: str) -> None:
    """The order goes forward: it is captured and placed."""
    shop = await opened(shops, capture)

    async def ship() -> None:
        await shop.ship(ORDER_ID)
        raise final_error()

    shop.hooks.when("request_fulfillment", ship, "after")
    await check_ending(shop, await shop.start(order_id=ORDER_ID), PLACED)
    assert [each["status"] for each in shop.world.books()["fulfillment"]] == ["shipped"]


def posts(shop: Shop, path: str) -> int:
    """How many POSTs the warehouse got on this path."""
    return sum(
        each["service"] == "fulfillment" and each["method"] == "POST" and each["path"].endswith(path)
        for each in shop.world.journal.about()
    )
