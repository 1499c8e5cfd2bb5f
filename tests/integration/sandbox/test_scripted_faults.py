"""Scripted faults, as the real SDK sees them: each fails on the right side of the effect."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import httpx
import pytest
import stripe

from config.settings import SANDBOX_STRIPE_KEY
from gateways.http import open_http
from gateways.stripe import stripe_client
from sandbox.faults import Fault
from sandbox.server import Running

Until = Callable[[Callable[[], bool]], Awaitable[None]]
HOURS: Final = 3600.0
CAPTURE: Final = "POST /v1/payment_intents/*/capture"
LIMIT: Final = {"error": {"type": "invalid_request_error", "code": "rate_limit", "message": "slow down"}}


@pytest.fixture
async def impatient(sandbox: Running) -> AsyncIterator[stripe.StripeClient]:
    """A client with a short time-out: in these tests the answer never comes."""
    async with open_http(0.2) as http:
        yield stripe_client(http, SANDBOX_STRIPE_KEY, f"{sandbox.url}/stripe")


async def authorized(client: stripe.StripeClient, order: str = "order-1") -> str:
    """Return the id of a PaymentIntent that is authorized and not captured."""
    intent = await client.v1.payment_intents.create_async(
        {
            "amount": 2999,
            "currency": "usd",
            "payment_method": "pm_card_visa",
            "capture_method": "manual",
            "confirm": True,
            "metadata": {"order_id": order},
        }
    )
    return intent.id


async def capture(client: stripe.StripeClient, intent_id: str) -> stripe.PaymentIntent:
    return await client.v1.payment_intents.capture_async(intent_id, {}, {"idempotency_key": f"{intent_id}:capture"})


FAULTS: Final[list[tuple[dict[str, Any], type[stripe.StripeError], int | None, bool, bool]]] = [
    # fault -> the error, its HTTP status, whether the capture happened, whether a retry with the same key succeeds
    ({"kind": "status", "status": 503}, stripe.APIError, 503, False, True),
    ({"kind": "status", "status": 503, "after_effect": True}, stripe.APIError, 503, True, True),
    ({"kind": "status", "status": 502, "body": "<h1>Bad gateway</h1>"}, stripe.APIError, 502, False, True),
    ({"kind": "status", "status": 429, "body": LIMIT}, stripe.RateLimitError, 429, False, True),
    ({"kind": "reset_before"}, stripe.APIConnectionError, None, False, True),
    ({"kind": "reset_after"}, stripe.APIConnectionError, None, True, True),
    ({"kind": "hang_before"}, stripe.APIConnectionError, None, False, True),
    ({"kind": "hang_after"}, stripe.APIConnectionError, None, True, True),
    ({"kind": "saved", "status": 500, "effect": True}, stripe.APIError, 500, True, False),
    ({"kind": "saved", "status": 500, "effect": False}, stripe.APIError, 500, False, False),
]


@pytest.mark.parametrize(("fault", "error", "status", "captured", "retry_succeeds"), FAULTS)
async def test_a_fault_hits_once_on_its_side_of_the_effect(  # noqa: PLR0913, PLR0917  one column each
    sandbox: Running,
    impatient: stripe.StripeClient,
    fault: dict[str, Any],
    error: type[stripe.StripeError],
    status: int | None,
    captured: bool,  # noqa: FBT001
    retry_succeeds: bool,  # noqa: FBT001
) -> None:
    """The caller gets the error; a retry with the same key succeeds, except after a saved 500."""
    intent_id = await authorized(impatient)
    sandbox.world.faults.add(Fault(service="stripe", route=CAPTURE, **fault))
    with pytest.raises(error) as caught:
        await capture(impatient, intent_id)
    assert caught.value.http_status == status
    assert sandbox.world.provider_records()["orders"]["order-1"]["captured"] == (2999 if captured else 0)
    assert not sandbox.world.faults.pending()
    if retry_succeeds:
        assert (await capture(impatient, intent_id)).status == "succeeded"
        return
    with pytest.raises(stripe.APIError) as again:
        await capture(impatient, intent_id)
    assert again.value.http_status == status
    assert (again.value.headers or {})["idempotent-replayed"] == "true"


@pytest.mark.parametrize("after_effect", [False, True])
async def test_a_delay_holds_the_request_on_its_side_of_the_effect(
    sandbox: Running,
    client: stripe.StripeClient,
    until: Until,
    after_effect: bool,  # noqa: FBT001
) -> None:
    """A delayed request keeps its key in use (409) until its delay is cleared."""
    intent_id = await authorized(client)
    sandbox.world.faults.add(
        Fault(service="stripe", route=CAPTURE, kind="delay", seconds=HOURS, after_effect=after_effect)
    )
    held = asyncio.create_task(capture(client, intent_id))
    await until(lambda: f"{intent_id}:capture" in sandbox.world.stripe.keys)
    with pytest.raises(stripe.APIError) as busy:
        await capture(client, intent_id)
    assert busy.value.http_status == 409
    assert busy.value.error
    assert busy.value.error.code == "idempotency_key_in_use"
    assert sandbox.world.provider_records()["orders"]["order-1"]["captured"] == (2999 if after_effect else 0)
    sandbox.world.faults.clear()
    assert (await held).status == "succeeded"


async def test_a_delay_ends_by_itself(sandbox: Running, client: stripe.StripeClient) -> None:
    """The request continues after the seconds of its delay."""
    intent_id = await authorized(client)
    sandbox.world.faults.add(Fault(service="stripe", route=CAPTURE, kind="delay", seconds=0.01))
    assert (await capture(client, intent_id)).status == "succeeded"


async def test_a_scripted_status_carries_its_headers_and_body(sandbox: Running, http: httpx.AsyncClient) -> None:
    """Retry-After and the body arrive as scripted."""
    script = {
        "service": "email",
        "kind": "status",
        "status": 429,
        "headers": {"Retry-After": "7"},
        "body": {"error": "slow down"},
    }
    assert (await http.post("/_sandbox/faults", json=script)).status_code == 201
    answer = await http.post("/email/send", json={})
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert answer.json() == {"error": "slow down"}
    assert not sandbox.world.inbox.emails


async def test_a_fault_counts_down_and_can_be_cleared(http: httpx.AsyncClient) -> None:
    """A fault hits `times` requests, or all requests until it is cleared."""

    async def statuses() -> list[int]:
        return [(await http.post("/slack/webhook", json={"text": "hello"})).status_code for _ in range(3)]

    fault = {"service": "slack", "kind": "status", "status": 500}
    await http.post("/_sandbox/faults", json={**fault, "times": 2})
    assert [each["times"] for each in (await http.get("/_sandbox/faults")).json()] == [2]
    assert await statuses() == [500, 500, 200]
    await http.post("/_sandbox/faults", json={**fault, "times": None})
    assert await statuses() == [500, 500, 500]
    await http.delete("/_sandbox/faults")
    assert (await http.get("/_sandbox/faults")).json() == []
    assert await statuses() == [200, 200, 200]


async def test_a_fault_hits_its_route_only(sandbox: Running, client: stripe.StripeClient) -> None:
    """Other routes and other services work."""
    sandbox.world.faults.add(Fault(service="stripe", route=CAPTURE, kind="reset_before"))
    sandbox.world.faults.add(Fault(service="email", kind="reset_before"))
    assert await authorized(client)
    assert len(sandbox.world.faults.pending()) == 2


async def test_a_fault_hits_its_order_only(sandbox: Running, client: stripe.StripeClient) -> None:
    """A request belongs to an order even if only the payment id in its path links the two."""
    mine, other = await authorized(client, "order-mine"), await authorized(client, "order-other")
    sandbox.world.faults.add(Fault(service="stripe", kind="reset_before", order="order-mine"))
    assert (await client.v1.payment_intents.retrieve_async(other)).status == "requires_capture"
    assert (await client.v1.refunds.list_async({"payment_intent": other})).data == []
    with pytest.raises(stripe.APIConnectionError):
        await client.v1.payment_intents.retrieve_async(mine)


WRONG: Final = [
    ({"service": "stripe"}, "kind"),
    ({"service": "nobody", "kind": "status"}, "Services: stripe, fulfillment, email"),
    ({"service": "stripe", "kind": "status", "times": 0}, "times"),
    ({"service": "stripe", "kind": "status", "sattus": 503}, "sattus"),
    ({"service": "email", "kind": "saved"}, "service stripe only"),
]


@pytest.mark.parametrize(("script", "named"), WRONG)
async def test_a_wrong_script_is_refused(
    sandbox: Running, http: httpx.AsyncClient, script: dict[str, Any], named: str
) -> None:
    """A fault that could never hit, or has an unknown field, is an error."""
    answer = await http.post("/_sandbox/faults", json=script)
    assert answer.status_code == 422
    assert named in answer.text
    assert not sandbox.world.faults.pending()
