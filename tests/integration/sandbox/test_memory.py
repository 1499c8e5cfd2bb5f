"""The sandbox with a state file: what it remembers after a kill, and which files it refuses."""

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
    """`python -m sandbox --state`, killed by SIGKILL in the end."""
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


# -------------------------------------------------------------------------------------------------------- it remembers


async def test_a_kill_forgets_nothing(state: Path) -> None:
    """Money, shipments, messages and the journal are the same in the next sandbox, in the same order."""
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
        books, journal = await read(http, "records"), await read(http, "journal")
    assert books["orders"]["order-3"]["refunded"] == 500
    assert books["fulfillment"][0]["status"] == "shipped"
    async with sandbox(state) as http:
        assert await read(http, "records") == books
        assert await read(http, "journal") == journal


async def test_what_was_done_once_is_not_done_again(state: Path) -> None:
    """Idempotency keys, and orders cancelled before they came, are known to the next sandbox."""
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


async def test_an_order_goes_on_where_it_was(state: Path) -> None:
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


async def test_what_struck_is_counted(state: Path) -> None:
    """By service and kind, also what struck in an earlier sandbox; a script that met no request does not count."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "status", "times": 3})
        await http.post("/_sandbox/faults", json={"service": "email", "kind": "reset_before"})
        assert [(await pay(http)).status_code for _ in range(2)] == [503, 503]
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "status"})
        await pay(http)

        assert (await read(http, "records"))["fault_hits"] == {"stripe status": 3}


async def test_an_effect_whose_answer_was_lost_is_remembered(state: Path) -> None:
    """Also where the caller was cut off, the next sandbox knows of the charge."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "reset_after"})
        with pytest.raises(httpx.RemoteProtocolError):
            await pay(http)
    async with sandbox(state) as http:
        assert (await pay(http)).headers["Idempotent-Replayed"] == "true"


async def test_faults_and_requests_under_way_end_with_the_sandbox(state: Path) -> None:
    """The next sandbox has no script, and does not wait for a request that the kill ended."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "delay", "seconds": 3600, "times": None})
        paying = asyncio.create_task(pay(http))
        await saved_meanwhile(http)
    assert isinstance((await asyncio.gather(paying, return_exceptions=True))[0], httpx.TransportError)
    async with sandbox(state) as http:
        assert await read(http, "faults") == []
        assert (await pay(http)).status_code == 200


async def test_a_slow_request_is_remembered_with_its_answer(state: Path) -> None:
    """Others were saved while it was under way; the next sandbox replays it all the same."""
    async with sandbox(state) as http:
        await http.post("/_sandbox/faults", json={"service": "stripe", "kind": "delay", "seconds": 3600})
        paying = asyncio.create_task(pay(http))
        await saved_meanwhile(http)
        await http.delete("/_sandbox/faults")
        first = (await paying).json()
    async with sandbox(state) as http:
        assert (await pay(http)).json() == first


async def saved_meanwhile(http: httpx.AsyncClient) -> None:
    """Wait until a first request is under way, and have another one saved."""
    async with asyncio.timeout(30):
        while not await read(http, "journal"):
            await asyncio.sleep(0.01)
        await http.post("/slack/webhook", json={"text": "meanwhile"})


async def test_what_is_forgotten_stays_forgotten(state: Path) -> None:
    """A reset, and pruned idempotency keys, hold for the next sandbox too."""
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
        database.execute("CREATE TABLE entries (shelf, key, value)")
        database.execute("INSERT INTO entries VALUES ('payment_intents', 'pi_1', 'half')")
        database.commit()


def a_folder(state: Path) -> None:
    state.mkdir()


@pytest.mark.parametrize("spoil", [a_text, a_database_of_others, a_damaged_entry, a_folder])
async def test_a_file_that_is_not_a_state_is_one_clear_line(state: Path, spoil: Callable[[Path], None]) -> None:
    """Exit status 1 and a message that names the file, no traceback; files of others are left as they were."""
    spoil(state)
    before = state.read_bytes() if state.is_file() else b""
    await refuses(state)
    assert spoil in (a_damaged_entry, a_folder) or state.read_bytes() == before


async def test_a_state_has_one_sandbox(state: Path) -> None:
    """A second sandbox on the same file says so and ends."""
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
