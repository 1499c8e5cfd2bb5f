"""The sandbox with a state file: what it keeps after a kill, and which files it refuses."""

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from sandbox.persistence import APPLICATION_ID

ROOT: Final = Path(__file__).parents[3]
AUTHORIZATION: Final = {"amount": "2999", "currency": "usd", "capture_method": "manual", "payment_method": "pm_123"}
SHIPMENT: Final = {
    "orderId": "order-1",
    "items": [{"productId": "1", "quantity": 2}],
    "shippingAddress": {"street": "1 Main St", "city": "Springfield", "state": "IL", "zip": "62701"},
    "priority": "standard",
}
EMAIL: Final = {"to": "customer@example.com", "template": "order_confirmation", "data": {"total": 29.99}}


@asynccontextmanager
async def sandbox(state: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run `python -m sandbox --state` and end it with SIGKILL."""
    process = await asyncio.create_subprocess_exec(*command(state), cwd=ROOT, stdout=PIPE)
    try:
        assert process.stdout
        url = (await process.stdout.readline()).decode().split()[-1]
        authorized = {"Authorization": "Bearer sk_test_sandbox"}
        async with httpx.AsyncClient(base_url=url, headers=authorized, trust_env=False) as http:
            yield http
    finally:
        process.kill()
        await process.wait()


def command(state: Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "sandbox", "--port", "0", "--state", str(state))


async def pay(http: httpx.AsyncClient, *, order: str = "order-1", **more: str) -> httpx.Response:
    """Confirm a PaymentIntent under the key `pay:<order>`."""
    form = AUTHORIZATION | {"confirm": "true", "metadata[order_id]": order} | more
    return await http.post("/stripe/v1/payment_intents", data=form, headers={"Idempotency-Key": f"pay:{order}"})


async def read(http: httpx.AsyncClient, what: str) -> Any:
    return (await http.get(f"/_sandbox/{what}")).raise_for_status().json()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.db"


# ------------------------------------------------------------------------------------------------------ what it keeps


async def test_a_kill_loses_nothing(state: Path) -> None:
    """The next sandbox has the same payments, shipments, messages and journal, in the same order."""
    async with sandbox(state) as http:
        for order in ("order-2", "order-1"):
            await pay(http, order=order)
        charged = (await pay(http, order="order-3", capture_method="automatic")).json()
        await http.post("/stripe/v1/refunds", data={"payment_intent": charged["id"], "amount": "500"})
        await http.post("/fulfillment/orders", json=SHIPMENT)
        await http.post("/fulfillment/orders/order-1/ship")
        await http.post("/email/send", json=EMAIL)
        await http.post("/analytics/events", json={"event": "placed", "userId": "cus_123", "properties": {"n": 1}})
        await http.post("/slack/webhook", json={"text": "look", "blocks": [{"type": "divider"}]})
        await http.post("/email/send", content=b'{"to": "\\ud800", "data": NaN}')
        records, journal = await read(http, "records"), await read(http, "journal")
    assert records["orders"]["order-3"]["refunded"] == 500
    assert records["fulfillment"][0]["status"] == "shipped"
    async with sandbox(state) as http:
        assert await read(http, "records") == records
        assert await read(http, "journal") == journal


@pytest.mark.prove
async def test_a_repeat_has_no_second_effect_after_a_restart(state: Path) -> None:
    """The next sandbox knows idempotency keys and orders that were cancelled before they came."""
    keyed = {"Idempotency-Key": "mail"}
    async with sandbox(state) as http:
        declined = await pay(http, payment_method="pm_card_chargeDeclined")
        sent = await http.post("/email/send", json=EMAIL, headers=keyed)
        accepted = await http.post("/fulfillment/orders", json=SHIPMENT | {"orderId": "order-2"}, headers=keyed)
        await http.post("/fulfillment/orders/order-1/cancel")
    async with sandbox(state) as http:
        replayed = await pay(http, payment_method="pm_card_chargeDeclined")
        assert (replayed.status_code, replayed.json()) == (402, declined.json())
        assert replayed.headers["Idempotent-Replayed"] == "true"
        assert (await pay(http)).json()["error"]["type"] == "idempotency_error"
        assert (await http.post("/email/send", json=EMAIL, headers=keyed)).json() == sent.json()
        assert (await http.post("/fulfillment/orders", json=SHIPMENT)).status_code == 409
        again = await http.post("/fulfillment/orders", json=SHIPMENT | {"orderId": "order-2"}, headers=keyed)
        assert again.json() == accepted.json()
        assert len((await read(http, "records"))["fulfillment"]) == 1
        assert len((await read(http, "records"))["emails"]) == 1


@pytest.mark.prove
async def test_an_order_continues_after_a_restart(state: Path) -> None:
    """A payment that one sandbox authorized is captured by the next and refunded by the one after it."""
    async with sandbox(state) as http:
        intent = (await pay(http)).json()["id"]
    async with sandbox(state) as http:
        captured = await http.post(f"/stripe/v1/payment_intents/{intent}/capture")
        assert captured.json()["amount_received"] == 2999
    async with sandbox(state) as http:
        refund = await http.post("/stripe/v1/refunds", data={"payment_intent": intent})
        assert refund.json()["amount"] == 2999
        again = await http.post("/stripe/v1/refunds", data={"payment_intent": intent})
        assert again.json()["error"]["code"] == "charge_already_refunded"


@pytest.mark.prove
async def test_fault_hits_are_counted(state: Path) -> None:
    """Hits count by service and kind, including those in an earlier sandbox; a fault without a hit does not count."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "status", "times": 3})
        await http.post("/_sandbox/faults", json={"service": "email", "kind": "reset_before"})
        assert [(await pay(http)).status_code for _ in range(2)] == [503, 503]
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "status"})
        await pay(http)

        assert (await read(http, "records"))["fault_hits"] == {"stripe status": 3}


@pytest.mark.prove
async def test_an_effect_whose_answer_was_lost_is_kept(state: Path) -> None:
    """The next sandbox knows the charge although the caller was cut off."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "reset_after"})
        with pytest.raises(httpx.RemoteProtocolError):
            await pay(http)
    async with sandbox(state) as http:
        assert (await pay(http)).headers["Idempotent-Replayed"] == "true"


@pytest.mark.prove
async def test_faults_and_open_requests_end_with_the_sandbox(state: Path) -> None:
    """The next sandbox has no script and does not wait for requests that the kill ended."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "delay", "seconds": 3600, "times": None})
        paying = asyncio.create_task(pay(http))
        await saved_meanwhile(http)
    assert isinstance((await asyncio.gather(paying, return_exceptions=True))[0], httpx.TransportError)
    async with sandbox(state) as http:
        assert await read(http, "faults") == []
        assert (await pay(http)).status_code == 200


@pytest.mark.prove
async def test_a_slow_request_is_kept_with_its_answer(state: Path) -> None:
    """The next sandbox replays a request even if others were saved while it was running."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "delay", "seconds": 3600})
        paying = asyncio.create_task(pay(http))
        await saved_meanwhile(http)
        await http.delete("/_sandbox/faults")
        first = (await paying).json()
    async with sandbox(state) as http:
        assert (await pay(http)).json() == first


async def saved_meanwhile(http: httpx.AsyncClient) -> None:
    """Wait until a first request is running, then have another one saved."""
    async with asyncio.timeout(30):
        while not await read(http, "journal"):
            await asyncio.sleep(0.01)
        await http.post("/slack/webhook", json={"text": "meanwhile"})


async def test_a_reset_outlives_a_restart(state: Path) -> None:
    """A reset and pruned idempotency keys hold for the next sandbox too."""
    async with sandbox(state) as http:
        await pay(http)
        await http.post("/_sandbox/reset")
        first = (await pay(http)).json()["id"]
        await http.post("/_sandbox/forget-keys")
    async with sandbox(state) as http:
        second = (await pay(http)).json()["id"]
        assert [each["id"] for each in (await read(http, "records"))["payments"]] == [first, second]
        assert first != second


# ----------------------------------------------------------------------------------------------------- files it refuses


def a_text(state: Path) -> None:
    state.write_text("Dear diary, this is no database, however long it becomes. " * 100)


def a_database_of_others(state: Path) -> None:
    with closing(sqlite3.connect(state)) as database:
        database.execute("CREATE TABLE recipes (name)")


def a_damaged_entry(state: Path) -> None:
    with closing(sqlite3.connect(state)) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute("CREATE TABLE entries (dict, key, value)")
        database.execute("INSERT INTO entries VALUES ('payment_intents', 'pi_1', 'half')")
        database.commit()


def a_folder(state: Path) -> None:
    state.mkdir()


@pytest.mark.parametrize("spoil", [a_text, a_database_of_others, a_damaged_entry, a_folder])
async def test_a_file_that_is_not_a_state_file_is_refused(state: Path, spoil: Callable[[Path], None]) -> None:
    """The process ends with exit status 1 and one line that names the file; files of other programs stay unchanged."""
    spoil(state)
    before = state.read_bytes() if state.is_file() else b""
    await refuses(state)
    assert spoil in (a_damaged_entry, a_folder) or state.read_bytes() == before


@pytest.mark.prove
async def test_a_state_file_has_one_sandbox(state: Path) -> None:
    """A second sandbox on the same file ends with a message."""
    async with sandbox(state) as http:
        await pay(http)
        await refuses(state, "database is locked")
        assert (await pay(http)).status_code == 200


async def refuses(state: Path, reason: str = "") -> None:
    process = await asyncio.create_subprocess_exec(*command(state), cwd=ROOT, stdout=PIPE, stderr=PIPE)
    try:
        _, said = await asyncio.wait_for(process.communicate(), 30)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    [line] = said.decode().splitlines()
    assert line.startswith(f"The sandbox cannot use {state}: {reason}")
    assert process.returncode == 1
