"""The webhooks of the sandbox: their events, their signatures, and deliveries that fail on request."""

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

from app.web.server import serve
from deploy.local.process import Command, running
from sandbox.server import Running
from sandbox.webhooks import FULFILLMENT_SECRET, STRIPE_SECRET
from tests.integration.sandbox.test_memory import SHIPMENT, command

Until = Callable[[Callable[[], bool]], Awaitable[None]]
PAYMENT: Final = {"amount": "2999", "currency": "usd", "capture_method": "manual", "confirm": "true"}
AUTHORIZED: Final = ["payment_intent.created", "payment_intent.amount_capturable_updated"]


@dataclass
class Receiver:
    """A shop that records its webhooks; it answers with `answers` first, then with 200."""

    url: str
    received: list[tuple[dict[str, Any], bytes, str]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    async def listen(self, request: Request) -> Response:
        body = await request.body()
        source = request.path_params["source"].capitalize()
        self.received.append((await request.json(), body, request.headers[f"{source}-Signature"]))
        return Response(status_code=self.answers.pop(0) if self.answers else 200)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event, _, _ in self.received]


@pytest.fixture
async def idle_receiver() -> AsyncIterator[Receiver]:
    """A receiver that gets no webhooks yet."""
    receiver = Receiver("")
    app = Starlette(routes=[Route("/webhooks/{source}", receiver.listen, methods=["POST"])])
    async with serve(app, "127.0.0.1", 0) as receiver.url:
        yield receiver


@pytest.fixture
async def receiver(idle_receiver: Receiver, http: httpx.AsyncClient) -> AsyncIterator[Receiver]:
    (await http.post("/_sandbox/webhooks", json={"url": idle_receiver.url})).raise_for_status()
    http.headers["Authorization"] = "Bearer sk_test_sandbox"
    yield idle_receiver
    await http.delete("/_sandbox/webhooks")


async def idle(http: httpx.AsyncClient) -> None:
    (await http.get("/_sandbox/webhooks/idle", timeout=60)).raise_for_status()


async def pay(http: httpx.AsyncClient, card: str = "pm_card_visa", **more: str) -> str:
    """Create and confirm a PaymentIntent, and return its id even if it was declined."""
    answer = await http.post("/stripe/v1/payment_intents", data=PAYMENT | {"payment_method": card} | more)
    body = answer.json()
    return str((body["error"]["payment_intent"] if "error" in body else body)["id"])


async def act(http: httpx.AsyncClient, intent: str, verb: str, **form: str) -> None:
    await http.post(f"/stripe/v1/payment_intents/{intent}/{verb}", data=form)


async def refund(http: httpx.AsyncClient, intent: str) -> str:
    return str((await http.post("/stripe/v1/refunds", data={"payment_intent": intent})).json()["id"])


async def fault(http: httpx.AsyncClient, kind: str, **more: Any) -> None:
    (await http.post("/_sandbox/faults", json={"service": "webhooks", "kind": kind, **more})).raise_for_status()


# -------------------------------------------------------------------------------------------------------------- events


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
    ("story", "events"),
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
async def test_every_change_is_reported_once(
    receiver: Receiver,
    http: httpx.AsyncClient,
    story: Callable[[httpx.AsyncClient], Awaitable[None]],
    events: list[str],
) -> None:
    """Each change sends one event of Stripe's type; reading sends none."""
    await story(http)
    await http.get("/stripe/v1/payment_intents")
    await http.get("/_sandbox/records")
    await idle(http)
    assert sorted(receiver.types) == sorted(events)
    assert len({event["id"] for event, _, _ in receiver.received}) == len(events)


async def test_events_look_and_are_signed_like_stripes(receiver: Receiver, http: httpx.AsyncClient) -> None:
    """Stripe's SDK accepts the events; the warehouse signs with its own secret."""
    intent = await pay(http)
    await ship_and_deliver(http)
    await idle(http)
    objects = {}
    for event, body, signature in receiver.received:
        if event["type"].startswith("order."):
            stripe.WebhookSignature.verify_header(body.decode(), signature, FULFILLMENT_SECRET)
            assert event["orderId"] == "order-1"
        else:
            parsed = stripe.Webhook.construct_event(body, signature, STRIPE_SECRET)
            objects[parsed.type] = parsed.data.object
    assert objects["payment_intent.amount_capturable_updated"].id == intent
    assert objects["payment_intent.amount_capturable_updated"].status == "requires_capture"


async def test_secrets_can_be_given(idle_receiver: Receiver, http: httpx.AsyncClient, receiver: Receiver) -> None:
    """The target may name its own secrets."""
    given = {"url": idle_receiver.url, "stripe_secret": "whsec_a", "fulfillment_secret": "b"}
    (await http.post("/_sandbox/webhooks", json=given)).raise_for_status()
    await pay(http)
    await idle(http)
    for _, body, signature in receiver.received:
        stripe.WebhookSignature.verify_header(body.decode(), signature, "whsec_a")
    assert receiver.received


async def test_no_webhooks_without_a_target(receiver: Receiver, http: httpx.AsyncClient) -> None:
    """A change without a target is not reported later either."""
    await http.delete("/_sandbox/webhooks")
    intent = await pay(http)
    await http.post("/_sandbox/webhooks", json={"url": receiver.url})
    await act(http, intent, "capture")
    await idle(http)
    assert receiver.types == ["payment_intent.succeeded"]


# ------------------------------------------------------------------------------------------------------------ delivery


@pytest.mark.parametrize("status", [301, 400, 500])
async def test_a_webhook_is_sent_again_until_it_is_accepted(
    receiver: Receiver, http: httpx.AsyncClient, status: int
) -> None:
    """Every refused attempt is followed by another one with the same event."""
    receiver.answers = [status] * 4
    await pay(http)
    await idle(http)
    ids = [event["id"] for event, _, _ in receiver.received]
    assert (len(ids), len(set(ids))) == (6, 2)
    assert (await http.get("/_sandbox/webhooks")).json()["pending"] == []
    attempts = (await http.get("/_sandbox/webhooks")).json()["attempts"][-6:]
    assert sorted(attempt["status"] for attempt in attempts) == sorted([200, 200, *[status] * 4])


async def test_duplicate(receiver: Receiver, http: httpx.AsyncClient) -> None:
    """The event arrives twice with one id."""
    await fault(http, "duplicate", route="*.amount_capturable_updated")
    await pay(http)
    await idle(http)
    assert sorted(receiver.types) == sorted([*AUTHORIZED, AUTHORIZED[1]])
    assert len({event["id"] for event, _, _ in receiver.received}) == 2


async def test_reorder(receiver: Receiver, http: httpx.AsyncClient, until: Until, sandbox: Running) -> None:
    """The event arrives after the next one was accepted; no later one is waited for."""
    intent = await pay(http)
    await idle(http)
    receiver.answers, receiver.received = [500], []
    await fault(http, "reorder", route="payment_intent.succeeded")
    await act(http, intent, "capture")
    assert receiver.types == []
    await refund(http, intent)
    await idle(http)
    assert receiver.types == ["refund.created", "refund.created", "payment_intent.succeeded"]

    await fault(http, "reorder", times=None)
    await pay(http)
    await until(lambda: len(receiver.received) == 3)
    assert len(sandbox.world.webhook_sender.pending) == 2
    await http.delete("/_sandbox/faults")
    await idle(http)
    assert sorted(receiver.types[3:]) == sorted(AUTHORIZED)


async def test_delay(receiver: Receiver, http: httpx.AsyncClient) -> None:
    """The event waits until its delay is over or cleared; others overtake it."""
    await fault(http, "delay", route="payment_intent.created", seconds=3600, order="slow")
    await pay(http, **{"metadata[order_id]": "slow"})
    await act(http, await pay(http, **{"metadata[order_id]": "fast"}), "cancel")
    idling = asyncio.create_task(idle(http))
    while len(receiver.received) < 4:
        await asyncio.sleep(0.01)
    assert not idling.done()
    await http.delete("/_sandbox/faults")
    await idling
    assert receiver.types[-1] == "payment_intent.created"


async def test_drop(receiver: Receiver, http: httpx.AsyncClient) -> None:
    """The event never arrives, and nothing waits for it."""
    await fault(http, "drop", times=None)
    await pay(http)
    await idle(http)
    assert receiver.types == []


@pytest.mark.parametrize(
    ("service", "kind"), [("stripe", "duplicate"), ("email", "drop"), ("webhooks", "status"), ("webhooks", "saved")]
)
async def test_a_fault_that_does_not_suit_its_service(http: httpx.AsyncClient, service: str, kind: str) -> None:
    """A fault that could never hit is refused with 422."""
    answer = await http.post("/_sandbox/faults", json={"service": service, "kind": kind})
    assert answer.status_code == 422


async def test_a_reset_drops_pending_webhooks(receiver: Receiver, http: httpx.AsyncClient) -> None:
    """The target stays."""
    await fault(http, "delay", seconds=3600, times=None)
    await pay(http)
    await http.post("/_sandbox/reset")
    await idle(http)
    assert receiver.types == []
    await pay(http)
    await idle(http)
    assert sorted(receiver.types) == sorted(AUTHORIZED)


async def test_the_next_sandbox_delivers_what_is_pending(idle_receiver: Receiver, tmp_path: Path, until: Until) -> None:
    """After a kill, webhooks that were not accepted are sent again, and no others."""
    idle_receiver.answers = [500] * 1000
    state = tmp_path / "sandbox.db"

    def sandbox(log: str) -> Command:
        argv = (*command(state), f"--webhooks={idle_receiver.url}")
        return Command(name="The sandbox", argv=argv, log=tmp_path / log, grace=0)

    async with running(sandbox("first")):
        await until(lambda: bool((tmp_path / "first").read_text()))
        url = (tmp_path / "first").read_text().split()[-1]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            http.headers["Authorization"] = "Bearer sk_test_sandbox"
            intent = await pay(http)
            await until(lambda: len(idle_receiver.received) >= 4)
    idle_receiver.received.clear()
    idle_receiver.answers.clear()
    async with running(sandbox("second")):
        await until(lambda: len(idle_receiver.received) == 2)
        assert sorted(idle_receiver.types) == sorted(AUTHORIZED)
        url = (tmp_path / "second").read_text().split()[-1]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            http.headers["Authorization"] = "Bearer sk_test_sandbox"
            await act(http, intent, "capture")
            await idle(http)
    assert idle_receiver.types[2:] == ["payment_intent.succeeded"]
