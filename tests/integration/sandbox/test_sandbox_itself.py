"""The controls of the sandbox (journal, records, reset), and its process."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final

import httpx
import pytest
import stripe

from sandbox import journal
from sandbox.faults import Fault
from sandbox.server import Running, serve

Until = Callable[[Callable[[], bool]], Awaitable[None]]
ROOT: Final = Path(__file__).parents[3]
SLOW: Final = ("/email/send", "/slack/webhook")


async def pay(client: stripe.StripeClient, order: str, amount: int = 2999, currency: str = "usd") -> str:
    intent = await client.v1.payment_intents.create_async(
        {
            "amount": amount,
            "currency": currency,
            "payment_method": "pm_card_visa",
            "confirm": True,
            "metadata": {"order_id": order},
        },
        {"idempotency_key": f"{order}:pay:{amount}"},
    )
    return intent.id


# ----------------------------------------------------------------------------------------------- journal and records


async def test_the_journal_has_every_request_and_no_secret(
    client: stripe.StripeClient, http: httpx.AsyncClient
) -> None:
    """Service, method, path, body, key, status and answer are there; credentials and client secrets are not."""
    intent_id = await pay(client, "order-1")
    await http.post("/fulfillment/orders", json={}, headers={"Authorization": "Bearer hush", "Cookie": "hush"})
    answer = await http.get("/_sandbox/journal")
    created, refused = answer.json()
    assert (created["service"], created["method"], created["path"]) == ("stripe", "POST", "/v1/payment_intents")
    assert (created["status"], created["replayed"], created["fault"]) == (200, False, None)
    assert created["headers"]["idempotency-key"] == "order-1:pay:2999"
    assert created["body"]["metadata"] == {"order_id": "order-1"}
    assert json.loads(created["answer"])["id"] == intent_id
    assert (refused["service"], refused["status"]) == ("fulfillment", 422)
    assert json.loads(refused["answer"])["error"]["code"] == "invalid_request"
    for secret in ("hush", "sk_test", "authorization", "cookie"):
        assert secret not in answer.text.lower()
    assert re.findall(r"_secret_\w*", answer.text) == ["_secret_"]


async def test_the_journal_marks_replays_faults_and_silence(
    sandbox: Running, client: stripe.StripeClient, http: httpx.AsyncClient
) -> None:
    """A replay is marked; a request without an answer has no status and names its fault."""
    intent_id = await pay(client, "order-1")
    await pay(client, "order-1")
    sandbox.world.faults.add(Fault(service="stripe", kind="reset_after"))
    with pytest.raises(stripe.APIConnectionError):
        await client.v1.payment_intents.retrieve_async(intent_id)
    entries = (await http.get("/_sandbox/journal")).json()
    assert [(each["status"], each["replayed"], each["fault"]) for each in entries] == [
        (200, False, None),
        (200, True, None),
        (None, False, "reset_after"),
    ]


async def test_the_journal_keeps_the_beginning_of_a_long_answer_and_the_latest_requests(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that runs for days has a bounded journal."""
    monkeypatch.setattr(journal, "KEPT", 3)
    authorized = {"Authorization": "Bearer sk-sandbox"}
    texts = ["a long answer"] * 20
    for model in ("gpt", *["text-embedding-3-large"] * 4):
        await http.post("/openai/v1/embeddings", json={"model": model, "input": texts}, headers=authorized)
    entries = (await http.get("/_sandbox/journal")).json()
    assert [each["status"] for each in entries] == [200] * 3
    assert [len(each["answer"]) for each in entries] == [journal.MAX_ANSWER + 1] * 3
    assert entries[0]["answer"].startswith('{"object":"list"')


async def test_the_journal_can_be_read_by_order(client: stripe.StripeClient, http: httpx.AsyncClient) -> None:
    """Requests that name only the payment are found too."""
    mine, other = await pay(client, "order-mine"), await pay(client, "order-other")
    for each in (mine, other):
        await client.v1.payment_intents.retrieve_async(each)
    entries = (await http.get("/_sandbox/journal", params={"order": "order-mine"})).json()
    assert [each["path"] for each in entries] == ["/v1/payment_intents", f"/v1/payment_intents/{mine}"]


async def test_the_records_add_up_by_order(client: stripe.StripeClient, http: httpx.AsyncClient) -> None:
    """The records list authorized, captured and refunded amounts per payment and per order."""
    first = await pay(client, "order-1")
    second = await pay(client, "order-1", 500)
    await client.v1.refunds.create_async({"payment_intent": second, "amount": 200})
    records = (await http.get("/_sandbox/records")).json()
    assert records["orders"]["order-1"] == {
        "authorized": 0,
        "captured": 3499,
        "refunded": 200,
        "refund_pending": 0,
        "currency": "usd",
        "payment_intents": [first, second],
    }
    assert [(each["id"], each["captured"], each["refunded"]) for each in records["payments"]] == [
        (first, 2999, 0),
        (second, 500, 200),
    ]


async def test_a_reset_forgets_everything(
    sandbox: Running, client: stripe.StripeClient, http: httpx.AsyncClient
) -> None:
    """Payments, keys, faults and the journal are gone."""
    await pay(client, "order-1")
    sandbox.world.faults.add(Fault(service="stripe", kind="reset_before", times=None))
    assert (await http.post("/_sandbox/reset")).status_code == 204
    assert (await http.get("/_sandbox/records")).json()["payments"] == []
    assert (await http.get("/_sandbox/journal")).json() == []
    assert await pay(client, "order-1")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/_sandbox/authenticate/pi_unknown", {"outcome": "succeed"}, 404),
        ("/_sandbox/authenticate/pi_unknown", {"outcome": "maybe"}, 422),
        ("/_sandbox/expire/pi_unknown", {}, 404),
        ("/_sandbox/settle/re_unknown", {"outcome": "fail"}, 404),
        ("/_sandbox/settings", {"fulfillment_forgets_cancel": True}, 422),
    ],
)
async def test_a_control_request_that_makes_no_sense_is_refused(
    http: httpx.AsyncClient, path: str, body: dict[str, object], status: int
) -> None:
    """An unknown id, value or field is an error, so that a typing error in a test is noticed."""
    assert (await http.post(path, json=body)).status_code == status


# ---------------------------------------------------------------------------------------------------------- the process


async def test_a_stop_does_not_wait_for_open_requests(until: Until) -> None:
    """Requests that hang or are delayed are cut off when the sandbox stops."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=None, trust_env=False))  # noqa: S113  they wait
        async with serve() as running:
            running.world.faults.add(Fault(service="email", kind="hang_before"))
            running.world.faults.add(Fault(service="slack", kind="delay", seconds=3600))
            waiting = [asyncio.create_task(http.post(f"{running.url}{path}", json={})) for path in SLOW]
            await until(lambda: len(list(running.world.journal.about())) == len(SLOW))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(each, httpx.TransportError) for each in ended] == [True, True]


async def start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox", *arguments, cwd=ROOT, stdout=PIPE, stderr=PIPE
    )


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_prints_its_address_and_stops_on_a_signal(stop: signal.Signals) -> None:
    """`python -m sandbox` serves until SIGTERM or SIGINT and ends without output."""
    process = await start("--port", "0")
    try:
        assert process.stdout
        url = (await process.stdout.readline()).decode().split()[-1]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            assert (await http.get("/_sandbox/health")).json() == {"status": "ok"}
            process.send_signal(stop)
            assert await process.communicate() == (b"", b"")
        assert process.returncode == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def test_a_taken_port_is_one_clear_line(shared_sandbox: Running) -> None:
    """The process ends with exit status 1 and one line that names the port."""
    port = shared_sandbox.url.rpartition(":")[2]
    process = await start("--port", port)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().splitlines() == [f"The sandbox cannot listen on port {port}: Address already in use"]
