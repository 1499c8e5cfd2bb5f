"""The webhooks that the sandbox sends: what is told, how it is signed, and how deliveries go wrong on request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deploy.local.process import Command, running
from sandbox.server import Running
from sandbox.webhooks import FULFILLMENT_SECRET, STRIPE_SECRET
from tests.integration.sandbox.test_memory import SHIPMENT, command
from webhooks import serve

Until = Callable[[Callable[[], bool]], Awaitable[None]]
PAYMENT: Final = {"amount": "2999", "currency": "usd", "capture_method": "manual", "confirm": "true"}
AUTHORIZED: Final = ["payment_intent.created", "payment_intent.amount_capturable_updated"]


@dataclass
class Ear:
    """A shop that writes down what it is told; it answers with `answers` first, then with 200."""

    url: str
    heard: list[tuple[dict[str, Any], bytes, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    async def listen(self, request: Request) -> Response:
        body = await request.body()
        source = request.path_params["source"].capitalize()
        self.heard.append((await request.json(), body, request.headers[f"{source}-Signature"]))
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event, _, _ in self.heard]


@pytest.fixture
async def deaf_ear() -> AsyncIterator[Ear]:
    """One that nobody talks to yet."""
    ear = Ear("")
    app = Starlette(routes=[Route("/webhooks/{source}", ear.listen, methods=["POST"])])
    async with serve(app, "127.0.0.1", 0) as ear.url:
        yield ear


@pytest.fixture
async def ear(deaf_ear: Ear, http: httpx.AsyncClient) -> AsyncIterator[Ear]:
    (await http.post("/_sandbox/webhooks", json={"url": deaf_ear.url})).raise_for_status()
    http.headers["Authorization"] = "Bearer sk_test_sandbox"
    yield deaf_ear
    await http.delete("/_sandbox/webhooks")


async def idle(http: httpx.AsyncClient) -> None:
    (await http.get("/_sandbox/webhooks/idle", timeout=60)).raise_for_status()


async def pay(http: httpx.AsyncClient, card: str = "pm_card_visa", **more: str) -> str:
    """Create and confirm a PaymentIntent: its id, however it went."""
    answer = await http.post("/stripe/v1/payment_intents", data=PAYMENT | {"payment_method": card} | more)
    body = answer.json()
    return str((body["error"]["payment_intent"] if "error" in body else body)["id"])


async def act(http: httpx.AsyncClient, intent: str, verb: str, **form: str) -> None:
    await http.post(f"/stripe/v1/payment_intents/{intent}/{verb}", data=form)


async def refund(http: httpx.AsyncClient, intent: str) -> str:
    return str((await http.post("/stripe/v1/refunds", data={"payment_intent": intent})).json()["id"])


async def fault(http: httpx.AsyncClient, kind: str, **more: Any) -> None:
    (await http.post("/_sandbox/faults", json={"service": "webhooks", "kind": kind, **more})).raise_for_status()


# -------------------------------------------------------------------------------------------------------- what is told


async def capture_and_refund(http: httpx.AsyncClient) -> None:
    intent = await pay(http)
    await act(http, intent, "capture")
    await refund(http, intent)


async def void(http: httpx.AsyncClient) -> None:
    await act(http, await pay(http), "cancel")


async def expire(http: httpx.AsyncClient) -> None:
    await http.post(f"/_sandbox/expire/{await pay(http)}")


async def decline_twice(http: httpx.AsyncClient) -> None:
    intent = await pay(http, "pm_card_chargeDeclined")
    await act(http, intent, "confirm", payment_method="pm_card_chargeDeclined")


async def authenticate(http: httpx.AsyncClient) -> None:
    intent = await pay(http, "pm_card_authenticationRequired", capture_method="automatic")
    await http.post(f"/_sandbox/authenticate/{intent}", json={"outcome": "succeed"})


async def fail_to_authenticate(http: httpx.AsyncClient) -> None:
    intent = await pay(http, "pm_card_authenticationRequired")
    await http.post(f"/_sandbox/authenticate/{intent}", json={"outcome": "fail"})


async def settle(http: httpx.AsyncClient, outcome: str) -> None:
    name = await refund(http, await pay(http, "pm_card_pendingRefund", capture_method="automatic"))
    await http.post(f"/_sandbox/settle/{name}", json={"outcome": outcome})


async def refund_settled(http: httpx.AsyncClient) -> None:
    await settle(http, "succeed")


async def refund_failed(http: httpx.AsyncClient) -> None:
    await settle(http, "fail")


async def ship_and_deliver(http: httpx.AsyncClient) -> None:
    await http.post("/fulfillment/orders", json=SHIPMENT)
    for verb in ("ship", "ship", "deliver", "ship"):
        await http.post(f"/fulfillment/orders/order-1/{verb}")


CHARGED: Final = ["payment_intent.created", "payment_intent.succeeded", "refund.created"]


@pytest.mark.parametrize(
    ("story", "told"),
    [
        (capture_and_refund, [*AUTHORIZED, "payment_intent.succeeded", "refund.created"]),
        (void, [*AUTHORIZED, "payment_intent.canceled"]),
        (expire, [*AUTHORIZED, "payment_intent.canceled"]),
        (decline_twice, ["payment_intent.created", *["payment_intent.payment_failed"] * 2]),
        (
            authenticate,
            ["payment_intent.created", "payment_intent.requires_action", "payment_intent.succeeded"],
        ),
        (
            fail_to_authenticate,
            ["payment_intent.created", "payment_intent.requires_action", "payment_intent.payment_failed"],
        ),
        (refund_settled, [*CHARGED, "refund.updated"]),
        (refund_failed, [*CHARGED, "refund.updated", "refund.failed"]),
        (ship_and_deliver, ["order.shipped", "order.delivered"]),
    ],
)
async def test_every_change_is_told_once(
    ear: Ear, http: httpx.AsyncClient, story: Callable[[httpx.AsyncClient], Awaitable[None]], told: list[str]
) -> None:
    """By the names that Stripe has for it; looking tells nothing."""
    await story(http)
    await http.get("/stripe/v1/payment_intents")
    await http.get("/_sandbox/records")
    await idle(http)
    assert sorted(ear.types) == sorted(told)
    assert len({event["id"] for event, _, _ in ear.heard}) == len(told)


async def test_events_look_and_are_signed_like_stripes(ear: Ear, http: httpx.AsyncClient) -> None:
    """Stripe's own SDK takes them, and the object is as it stands; the warehouse signs with its own secret."""
    intent = await pay(http)
    await ship_and_deliver(http)
    await idle(http)
    objects = {}
    for event, body, signature in ear.heard:
        if event["type"].startswith("order."):
            stripe.WebhookSignature.verify_header(body.decode(), signature, FULFILLMENT_SECRET)
            assert event["orderId"] == "order-1"
        else:
            parsed = stripe.Webhook.construct_event(body, signature, STRIPE_SECRET)
            objects[parsed.type] = parsed.data.object
    assert objects["payment_intent.amount_capturable_updated"].id == intent
    assert objects["payment_intent.amount_capturable_updated"].status == "requires_capture"


async def test_secrets_can_be_given(deaf_ear: Ear, http: httpx.AsyncClient, ear: Ear) -> None:
    """For a shop that has others."""
    given = {"url": deaf_ear.url, "stripe_secret": "whsec_a", "fulfillment_secret": "b"}
    (await http.post("/_sandbox/webhooks", json=given)).raise_for_status()
    await pay(http)
    await idle(http)
    for _, body, signature in ear.heard:
        stripe.WebhookSignature.verify_header(body.decode(), signature, "whsec_a")
    assert ear.heard


async def test_nobody_is_told_unless_somebody_asked(ear: Ear, http: httpx.AsyncClient) -> None:
    """Nor later what happened before."""
    await http.delete("/_sandbox/webhooks")
    intent = await pay(http)
    await http.post("/_sandbox/webhooks", json={"url": ear.url})
    await act(http, intent, "capture")
    await idle(http)
    assert ear.types == ["payment_intent.succeeded"]


# ------------------------------------------------------------------------------------------------------- how it is told


@pytest.mark.parametrize("status", [301, 400, 500])
async def test_sent_again_until_it_is_taken(ear: Ear, http: httpx.AsyncClient, status: int) -> None:
    """The same event, whatever the no was."""
    ear.answers = [status] * 4
    await pay(http)
    await idle(http)
    ids = [event["id"] for event, _, _ in ear.heard]
    assert (len(ids), len(set(ids))) == (6, 2)
    assert (await http.get("/_sandbox/webhooks")).json()["pending"] == []
    attempts = (await http.get("/_sandbox/webhooks")).json()["attempts"][-6:]
    assert sorted(attempt["status"] for attempt in attempts) == sorted([200, 200, *[status] * 4])


async def test_duplicate(ear: Ear, http: httpx.AsyncClient) -> None:
    """The event that is named comes twice, with one id."""
    await fault(http, "duplicate", route="*.amount_capturable_updated")
    await pay(http)
    await idle(http)
    assert sorted(ear.types) == sorted([*AUTHORIZED, AUTHORIZED[1]])
    assert len({event["id"] for event, _, _ in ear.heard}) == 2


async def test_reorder(ear: Ear, http: httpx.AsyncClient, until: Until, sandbox: Running) -> None:
    """It comes after the one that follows it, once that was taken; others are not waited for."""
    intent = await pay(http)
    await idle(http)
    ear.answers, ear.heard = [500], []
    await fault(http, "reorder", route="payment_intent.succeeded")
    await act(http, intent, "capture")
    assert ear.types == []
    await refund(http, intent)
    await idle(http)
    assert ear.types == ["refund.created", "refund.created", "payment_intent.succeeded"]

    await fault(http, "reorder", times=None)
    await pay(http)
    await until(lambda: len(ear.heard) == 3)
    assert len(sandbox.world.webhook_sender.pending) == 2
    await http.delete("/_sandbox/faults")
    await idle(http)
    assert sorted(ear.types[3:]) == sorted(AUTHORIZED)


async def test_delay(ear: Ear, http: httpx.AsyncClient) -> None:
    """It is late, until its time has come or the script is cleared; others overtake it."""
    await fault(http, "delay", route="payment_intent.created", seconds=3600, order="slow")
    await pay(http, **{"metadata[order_id]": "slow"})
    await act(http, await pay(http, **{"metadata[order_id]": "fast"}), "cancel")
    idling = asyncio.create_task(idle(http))
    while len(ear.heard) < 4:
        await asyncio.sleep(0.01)
    assert not idling.done()
    await http.delete("/_sandbox/faults")
    await idling
    assert ear.types[-1] == "payment_intent.created"


async def test_drop(ear: Ear, http: httpx.AsyncClient) -> None:
    """It never comes, and nobody waits for it."""
    await fault(http, "drop", times=None)
    await pay(http)
    await idle(http)
    assert ear.types == []


@pytest.mark.parametrize(
    ("service", "kind"), [("stripe", "duplicate"), ("email", "drop"), ("webhooks", "status"), ("webhooks", "saved_500")]
)
async def test_a_fault_that_does_not_suit_its_service(http: httpx.AsyncClient, service: str, kind: str) -> None:
    """422: it would never strike."""
    answer = await http.post("/_sandbox/faults", json={"service": service, "kind": kind})
    assert answer.status_code == 422


async def test_a_reset_forgets_what_was_to_be_told(ear: Ear, http: httpx.AsyncClient) -> None:
    """But not whom."""
    await fault(http, "delay", seconds=3600, times=None)
    await pay(http)
    await http.post("/_sandbox/reset")
    await idle(http)
    assert ear.types == []
    await pay(http)
    await idle(http)
    assert sorted(ear.types) == sorted(AUTHORIZED)


async def test_what_was_not_told_is_told_by_the_next_sandbox(deaf_ear: Ear, tmp_path: Path, until: Until) -> None:
    """After a kill: told again where it is not known to have arrived, and nothing that is known to have."""
    deaf_ear.answers = [500] * 1000
    state = tmp_path / "sandbox.db"

    def sandbox(log: str) -> Command:
        argv = (*command(state), f"--webhooks={deaf_ear.url}")
        return Command(name="The sandbox", argv=argv, log=tmp_path / log, grace=0)

    async with running(sandbox("first")):
        await until(lambda: bool((tmp_path / "first").read_text()))
        url = (tmp_path / "first").read_text().split()[-1]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            http.headers["Authorization"] = "Bearer sk_test_sandbox"
            intent = await pay(http)
            await until(lambda: len(deaf_ear.heard) >= 4)
    deaf_ear.heard.clear()
    deaf_ear.answers.clear()
    async with running(sandbox("second")):
        await until(lambda: len(deaf_ear.heard) == 2)
        assert sorted(deaf_ear.types) == sorted(AUTHORIZED)
        url = (tmp_path / "second").read_text().split()[-1]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            http.headers["Authorization"] = "Bearer sk_test_sandbox"
            await act(http, intent, "capture")
            await idle(http)
    assert deaf_ear.types[2:] == ["payment_intent.succeeded"]
