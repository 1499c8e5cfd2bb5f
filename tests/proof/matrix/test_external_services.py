"""The fault matrix, external services: Stripe and the warehouse let every call down, in every way that is known.

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
from tests.proof.matrix.endings import PLACED, TOTAL, End, O, check_end, reconcile, strike
from tests.support.sample import EXECUTIONS, one_in, sampled
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
from tests.support.shop import FREE, Payload, Shop, an_order, open_shop

PATIENCE: Final = 1  # seconds that the shops wait for an answer: every hang costs as much

VOIDED = End("completed", "fulfillment_refused", "rejected")
REFUNDED = replace(VOIDED, captured=TOTAL, refunded=TOTAL)
FAILED = End("failed", "failed", "failed")
FAILED_AND_REFUNDED = replace(FAILED, captured=TOTAL, refunded=TOTAL)
UNPAID = End("completed", "card_declined", "rejected")

REFUSED = an_order(shippingAddress=REFUSED_ADDRESS)
GIVEN = {
    "placed": (FREE, replace(PLACED, captured=0)),
    "refused": (FREE | {"shippingAddress": REFUSED_ADDRESS}, VOIDED),
}
THREE_D_SECURE = an_order(paymentMethodId="pm_card_authenticationRequired")


@pytest.fixture(scope="module", params=EXECUTIONS)
async def shops(
    postgres: Postgres, temporal: WorkflowEnvironment, request: pytest.FixtureRequest
) -> AsyncIterator[Mapping[str, Shop]]:
    """One that captures when the warehouse has accepted, one that charges at once; they share their stock."""
    hasty: dict[str, Any] = {
        "http_timeout_seconds": PATIENCE,
        "reconcile_after_seconds": 0,
        "step_execution": request.param,
    }
    async with (
        copy_database(postgres) as url,
        open_shop(url, temporal, **hasty) as manual,
        open_shop(url, temporal, payment_capture="automatic", **hasty) as automatic,
    ):
        yield {"manual": manual, "automatic": automatic}


async def opened(shops: Mapping[str, Shop], capture: str = "manual") -> Shop:
    """The shop with this way of charging, as good as new."""
    await shops[capture].clear()
    return shops[capture]


@pytest.fixture
async def shop(shops: Mapping[str, Shop]) -> Shop:
    return await opened(shops)


# ------------------------------------------------------------------------------------------------------- Stripe's calls


@dataclass(frozen=True)
class Call:
    """A POST that moves money, the activity that makes it, an order that comes to it, and the end of that order."""

    route: str
    activity: str
    end: End
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
    """An error of Stripe's that comes before any effect."""
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
    "slower than we wait": {"kind": "delay", "seconds": PATIENCE * 1.5},
    "500 before the effect": answer(500, None),
    "500 saved with effect": {"kind": "saved", "status": 500, "effect": True},
    "500 saved without effect": {"kind": "saved", "status": 500, "effect": False},
    "500 saved under several keys": {"kind": "saved", "status": 500, "effect": False, "times": 9},
    "200 with the page of a proxy": {"kind": "status", "status": 200, "body": "<html>"},
    "429 with Retry-After": answer(429, "rate_limit", "invalid_request_error", Retry_After="60"),
    "lock timeout": answer(429, "lock_timeout", "invalid_request_error"),
    "409 key in use": answer(409, "idempotency_key_in_use", "idempotency_error"),
}


@pytest.mark.parametrize("call", sampled(CALLS.values(), lambda call: call is CALLS["capture"]), ids=CALLS)
@pytest.mark.parametrize("fault", one_in(3, FAULTS.values()), ids=FAULTS)
async def test_stripe_lets_a_call_down(shops: Mapping[str, Shop], call: Call, fault: dict[str, Any]) -> None:
    """Whether the POST took effect or not: the order ends as it would have, and money moves once."""
    shop = await opened(shops, call.capture)
    strike(shop, "stripe", call.route, fault)
    await check_end(shop, await shop.start(call.payload, O), call.end)
    assert not shop.world.faults.pending()
    refunds = await shop.pool.fetch("SELECT status, amount, attempt FROM refunds WHERE order_id = $1", O)
    assert [tuple(each) for each in refunds] == [("succeeded", TOTAL, 1)] * (call.route == REFUND)


@pytest.mark.parametrize("capture", sampled(["manual", "automatic"], lambda capture: capture == "manual"))
@pytest.mark.parametrize(("payload", "end"), one_in(2, GIVEN.values()), ids=GIVEN)
async def test_stripe_is_out_for_an_order_that_costs_nothing(
    shops: Mapping[str, Shop], capture: str, payload: Payload, end: End
) -> None:
    """It is placed, or undone, all the same: nobody asks Stripe."""
    shop = await opened(shops, capture)
    strike(shop, "stripe", "*", {"kind": "reset_before", "times": None})
    await check_end(shop, await shop.start(payload, O), end)
    assert [entry for entry in shop.world.journal.about(O) if entry["service"] == "stripe"] == []


@pytest.mark.parametrize("call", sampled(CALLS.values(), lambda call: call is CALLS["confirm"]), ids=CALLS)
async def test_stripe_forgets_the_key_of_a_lost_answer(shops: Mapping[str, Shop], call: Call) -> None:
    """More than a day lies between two attempts: whatever the first one moved is not moved again.

    A payment whose id was lost with the answer is created once more: only the one on the row is ever confirmed.
    """
    shop = await opened(shops, call.capture)

    async def first() -> None:
        strike(shop, "stripe", call.route, {"kind": "reset_after"})

    async def second() -> None:
        shop.world.stripe.keys.clear()

    shop.hooks.when(call.activity, first)
    shop.hooks.when(call.activity, second)
    await check_end(shop, await shop.start(call.payload, O), call.end)
    assert [name for _, name in shop.hooks.calls].count(call.activity) > 1
    kept = (await shop.row(O))["payment_intent_id"]
    spare = [each["status"] for each in shop.world.provider_records()["payments"] if each["id"] != kept]
    assert spare == ["requires_confirmation"] * (call.route == CREATE)


# ---------------------------------------------------------------------------------------- payments that take their time


@dataclass(frozen=True)
class Verdict:
    """What becomes of a payment that is `processing`, and of its order."""

    status: str
    end: End
    late: End


DECLINED = {"type": "card_error", "code": "card_declined", "decline_code": "generic_decline"}
EXPIRED = replace(UNPAID, code="authentication_expired")

VERDICTS = {
    "authorized": Verdict("requires_capture", PLACED, EXPIRED),
    "declined": Verdict("requires_payment_method", UNPAID, EXPIRED),
    "cancelled at Stripe": Verdict("canceled", End("failed", "authorization_expired", "failed"), EXPIRED),
}


@pytest.mark.parametrize("late", [False, True], ids=["in time", "after the deadline"])
@pytest.mark.parametrize("verdict", one_in(2, VERDICTS.values()), ids=VERDICTS)
async def test_a_payment_is_processing(shop: Shop, verdict: Verdict, *, late: bool) -> None:
    """It is waited for until the deadline; after that it can only be undone, once it is decided."""
    run = await shop.start(THREE_D_SECURE, O)
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    intent = shop.world.stripe.account.intent((await shop.row(O))["payment_intent_id"])
    intent.status = "processing"
    if late:
        await shop.advance(run, timedelta(minutes=16))
        await until_attempts(shop, "void_payment", 1)
        assert await is_running(run)
    intent.status = verdict.status
    intent.amount_capturable = intent.amount if verdict.status == "requires_capture" else 0
    intent.last_payment_error = DECLINED
    await run.signal("payment-updated")
    await check_end(shop, run, verdict.late if late else verdict.end)


@pytest.mark.prove
@pytest.mark.parametrize("outcome", ["succeed", "fail"])
async def test_a_pending_refund_ends_later(shops: Mapping[str, Shop], outcome: str) -> None:
    """The order is closed while the bank takes its days; what comes of the refund is followed, a failure alerted."""
    shop = await opened(shops, "automatic")
    run = await shop.start(REFUSED | {"paymentMethodId": "pm_card_pendingRefund"}, O)
    await check_end(shop, run, replace(REFUNDED, refunded=0))
    (refund,) = shop.world.stripe.account.refunds
    shop.world.stripe.account.settle(refund, succeeds=outcome == "succeed")
    await reconcile(shop)
    kept = await shop.pool.fetchval("SELECT status FROM refunds WHERE order_id = $1", O)
    assert kept == {"succeed": "succeeded", "fail": "failed"}[outcome]
    assert [O in alert.text for alert in shop.world.inbox.alerts] == [True] * (outcome == "fail")


# -------------------------------------------------------------------------------------------------------- the warehouse


REQUEST = "POST /orders"
CALL_OFF = "POST /orders/*/cancel"

OUTAGES: dict[str, dict[str, Any]] = {
    "slow": {"kind": "delay", "seconds": PATIENCE / 5},
    "reset before": {"kind": "reset_before"},
    "reset after": {"kind": "reset_after"},
    "hang after": {"kind": "hang_after"},
    "500 before the effect": {"kind": "status", "status": 500},
    "500 after the effect": {"kind": "status", "status": 500, "after_effect": True},
    "429 with Retry-After": {"kind": "status", "status": 429, "headers": {"Retry-After": "60"}},
    "200 with the page of a proxy": {"kind": "status", "status": 200, "body": "<html>"},
    "200 with nothing in it": {"kind": "status", "status": 200, "body": {"id": None, "status": None}},
}


@pytest.mark.parametrize("fault", one_in(3, OUTAGES.values()), ids=OUTAGES)
async def test_the_warehouse_lets_the_request_down(shop: Shop, fault: dict[str, Any]) -> None:
    """Asked again, it ships once: the order is placed."""
    strike(shop, "fulfillment", REQUEST, fault)
    await check_end(shop, await shop.start(order_id=O), PLACED)
    assert posts(shop, "/orders") == (1 if fault["kind"] == "delay" else 2)
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == ["accepted"]


@pytest.mark.parametrize("fault", one_in(3, OUTAGES.values()), ids=OUTAGES)
async def test_the_warehouse_lets_the_cancel_down(shop: Shop, fault: dict[str, Any]) -> None:
    """It is asked until it says so; only then is the money let go."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    strike(shop, "fulfillment", CALL_OFF, fault)
    await check_end(shop, await shop.start(order_id=O), FAILED)
    assert posts(shop, "/cancel") == (1 if fault["kind"] == "delay" else 2)
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == ["cancelled"]


NOES: dict[str, tuple[str, dict[str, Any], End]] = {
    "its own word, authorized": ("manual", {"status": 422, "body": {"error": {"code": "hazardous"}}}, VOIDED),
    "its own word, charged": ("automatic", {"status": 422, "body": {"error": {"code": "hazardous"}}}, REFUNDED),
    "no word, charged": ("automatic", {"status": 400, "body": "<html>Bad request</html>"}, REFUNDED),
}


@pytest.mark.parametrize(("capture", "no", "end"), NOES.values(), ids=NOES)
async def test_the_warehouse_refuses(shops: Mapping[str, Shop], capture: str, no: dict[str, Any], end: End) -> None:
    """A business no: what was authorized is voided, what was charged is refunded."""
    shop = await opened(shops, capture)
    strike(shop, "fulfillment", REQUEST, {"kind": "status", **no})
    await check_end(shop, await shop.start(order_id=O), end)


async def test_the_warehouse_forgets_what_it_accepted(shop: Shop) -> None:
    """The undo parks: nothing is voided or put back before an operator has found out where the goods are."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    held = shop.hooks.hold("cancel_fulfillment")
    run = await shop.start(order_id=O)
    await held.reached.wait()
    shop.world.fulfillment.forget(O)
    held.let_go()
    await until_marked(run, "cancel_fulfillment")
    (payment,) = shop.world.provider_records()["payments"]
    assert (payment["status"], await shop.stock("1")) == ("requires_capture", (98, 2))

    await resolve(run, "cancel_fulfillment", "resolved")
    await check_end(shop, run, FAILED)


@pytest.mark.prove
@pytest.mark.parametrize("capture", ["manual", "automatic"])
@pytest.mark.parametrize("kind", one_in(2, ["reset_after", "reset_before"]))
async def test_the_warehouse_is_down_beyond_the_deadline(shops: Mapping[str, Shop], capture: str, kind: str) -> None:
    """Whether it took the order unheard or not: at the deadline all is undone, the shipment called off."""
    shop = await opened(shops, capture)
    strike(shop, "fulfillment", REQUEST, {"kind": kind, "times": None})
    run = await shop.start(order_id=O)
    await until_attempts(shop, "request_fulfillment", 2)
    await shop.advance(run, timedelta(minutes=11))
    await check_end(shop, run, FAILED if capture == "manual" else FAILED_AND_REFUNDED)
    unheard = ["cancelled"] if kind == "reset_after" else []
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == unheard


async def test_the_warehouse_is_down_when_it_must_call_off(shop: Shop) -> None:
    """The undo outlasts the outage, calls for attention meanwhile, and keeps the money on hold until it is heard."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    strike(shop, "fulfillment", CALL_OFF, {"kind": "status", "times": None})
    run = await shop.start(order_id=O)
    await until_attempts(shop, "cancel_fulfillment", 1)
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "cancel_fulfillment")
    assert shop.world.provider_records()["orders"][O]["authorized"] == TOTAL
    shop.world.faults.clear()
    await check_end(shop, run, FAILED)


@pytest.mark.parametrize("status", [400, 422])
async def test_the_warehouse_refuses_to_call_off(shop: Shop, status: int) -> None:
    """A person decides; until then the money stays on hold, and the order's stock with it."""
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    strike(shop, "fulfillment", CALL_OFF, {"kind": "status", "status": status})
    run = await shop.start(order_id=O)
    assert await until_stuck(run) == ("cancel_fulfillment",)
    assert shop.world.provider_records()["orders"][O]["authorized"] == TOTAL
    assert await shop.stock() == (98, 2)
    await resolve(run, "cancel_fulfillment", "retry")
    await check_end(shop, run, FAILED)
    undone = [name for _, name in shop.hooks.calls if name in ("cancel_fulfillment", "void_payment")]
    assert undone == ["cancel_fulfillment", "cancel_fulfillment", "void_payment"]


@pytest.mark.parametrize("capture", ["manual", "automatic"])
async def test_the_goods_have_left_when_the_order_is_undone(shops: Mapping[str, Shop], capture: str) -> None:
    """There is only forward: the order is paid, and placed."""
    shop = await opened(shops, capture)

    async def ship() -> None:
        await shop.ship(O)
        raise final_error()

    shop.hooks.when("request_fulfillment", ship, "after")
    await check_end(shop, await shop.start(order_id=O), PLACED)
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == ["shipped"]


def posts(shop: Shop, path: str) -> int:
    """How often the warehouse was asked."""
    return sum(
        each["service"] == "fulfillment" and each["method"] == "POST" and each["path"].endswith(path)
        for each in shop.world.journal.about()
    )
