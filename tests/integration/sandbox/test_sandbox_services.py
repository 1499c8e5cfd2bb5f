"""The warehouse, e-mail, analytics and Slack: one effect per key, and refusals."""

from typing import Any, Final

import httpx
import pytest

from sandbox.server import Running

KEYED: Final = {"Authorization": "Bearer sandbox-fulfillment-key"}
ADDRESS: Final = {"street": "1 Main St", "city": "Springfield", "state": "IL", "zip": "62701"}


def order(order_id: str = "order-1", **address: str) -> dict[str, Any]:
    return {
        "orderId": order_id,
        "items": [{"productId": "1", "quantity": 2}],
        "shippingAddress": {**ADDRESS, **address},
        "priority": "standard",
    }


async def post(http: httpx.AsyncClient, path: str, body: object = None, key: str = "") -> httpx.Response:
    headers = KEYED | ({"Idempotency-Key": key} if key else {})
    return await http.post(f"/fulfillment{path}", json=body, headers=headers)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# ---------------------------------------------------------------------------------------------------------- fulfillment


async def test_an_order_is_accepted_once_per_key(sandbox: Running, http: httpx.AsyncClient) -> None:
    """A repeat under the same key gets the same answer, even if the shipment has moved on."""
    first = await post(http, "/orders", order(), "a")
    await post(http, "/orders/order-1/ship")
    again = await post(http, "/orders", order(), "a")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json() == {"id": first.json()["id"], "orderId": "order-1", "status": "accepted"}
    assert first.json()["id"].startswith("ful_")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert [each["status"] for each in sandbox.world.provider_records()["fulfillment"]] == ["shipped"]


@pytest.mark.parametrize("key", ["b", ""])
async def test_an_order_under_another_key_is_shipped_again(sandbox: Running, http: httpx.AsyncClient, key: str) -> None:
    """The warehouse compares keys only; every request without a key is a new order."""
    ids = [(await post(http, "/orders", order(), each)).json()["id"] for each in ("a", key)]
    assert [each["id"] for each in sandbox.world.provider_records()["fulfillment"]] == ids
    assert len(set(ids)) == 2
    assert (await post(http, "/orders/order-1/cancel")).is_success
    assert [each["status"] for each in sandbox.world.provider_records()["fulfillment"]] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(("path", "body"), [("/orders", order("order-2")), ("/orders/order-1/cancel", order())])
async def test_a_key_belongs_to_one_request(
    sandbox: Running, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    """Another body or path under the same key is refused with 409 and has no effect."""
    await post(http, "/orders", order(), "a")
    assert code(await post(http, path, body, "a")) == (409, "idempotency_key_reused")
    assert [each["status"] for each in sandbox.world.provider_records()["fulfillment"]] == ["accepted"]


async def test_a_cancel_is_answered_the_same_under_its_key(http: httpx.AsyncClient) -> None:
    """Only success is saved under the key, so that a cancel that came too early can be sent again."""
    await http.post("/_sandbox/settings", json={"fulfillment_forgets_cancels": True})
    assert code(await post(http, "/orders/order-1/cancel", {}, "c")) == (404, "order_unknown")
    await post(http, "/orders", order(), "a")
    answers = [await post(http, "/orders/order-1/cancel", {}, "c") for _ in range(2)]
    assert [each.status_code for each in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert [each.headers.get("Idempotent-Replayed") for each in answers] == [None, "true"]


async def test_what_has_left_is_not_called_off_what_has_not_is(sandbox: Running, http: httpx.AsyncClient) -> None:
    """Of an order with two shipments: 409 already_shipped, and the second one stays here."""
    await post(http, "/orders", order(), "a")
    await post(http, "/orders/order-1/ship")
    await post(http, "/orders", order(), "b")
    assert code(await post(http, "/orders/order-1/cancel")) == (409, "already_shipped")
    assert [each["status"] for each in sandbox.world.provider_records()["fulfillment"]] == ["shipped", "cancelled"]


@pytest.mark.parametrize("address", [{"state": "ZZ"}, {"street": "5 Refuse Road"}])
async def test_an_undeliverable_address_is_refused(
    sandbox: Running, http: httpx.AsyncClient, address: dict[str, str]
) -> None:
    """422 address_refused, and nothing is shipped."""
    assert code(await post(http, "/orders", order(**address))) == (422, "address_refused")
    assert not sandbox.world.fulfillment.shipments


@pytest.mark.parametrize("missing", ["orderId", "items", "shippingAddress", "priority"])
async def test_an_incomplete_order_is_refused(http: httpx.AsyncClient, missing: str) -> None:
    """422 that names the field."""
    answer = await post(http, "/orders", {name: value for name, value in order().items() if name != missing})
    assert code(answer) == (422, "invalid_request")
    assert missing in answer.json()["error"]["fields"]


@pytest.mark.parametrize("path", ["/orders", "/orders/order-1/cancel", "/orders/order-1/ship"])
async def test_the_warehouse_wants_its_key(http: httpx.AsyncClient, path: str) -> None:
    """401 without a bearer key."""
    assert code(await http.post(f"/fulfillment{path}", json=order())) == (401, "unauthenticated")


async def test_a_cancelled_order_stays_cancelled(http: httpx.AsyncClient) -> None:
    """Cancelling twice is fine; creating or shipping it afterwards is not."""
    await post(http, "/orders", order())
    for _ in range(2):
        answer = await post(http, "/orders/order-1/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert code(await post(http, "/orders", order())) == (409, "order_cancelled")
    assert code(await post(http, "/orders/order-1/ship")) == (409, "order_cancelled")


async def test_a_shipped_order_cannot_be_cancelled(http: httpx.AsyncClient) -> None:
    """409 already_shipped, and it stays shipped."""
    await post(http, "/orders", order())
    assert (await post(http, "/orders/order-1/ship")).json()["status"] == "shipped"
    assert code(await post(http, "/orders/order-1/cancel")) == (409, "already_shipped")
    shown = await http.get("/fulfillment/orders/order-1", headers=KEYED)
    assert (shown.json()["status"], shown.json()["items"]) == ("shipped", [{"productId": "1", "quantity": 2}])


@pytest.mark.parametrize(("forgets", "status"), [(False, 409), (True, 201)])
async def test_a_cancel_that_comes_first_is_remembered(
    http: httpx.AsyncClient,
    forgets: bool,  # noqa: FBT001
    status: int,
) -> None:
    """A later order is refused, unless the warehouse is set to forget cancels."""
    await http.post("/_sandbox/settings", json={"fulfillment_forgets_cancels": forgets})
    assert code(await post(http, "/orders/order-1/cancel")) == (404, "order_unknown")
    assert (await post(http, "/orders", order())).status_code == status


@pytest.mark.parametrize("action", ["cancel", "ship"])
async def test_an_unknown_order_is_404(http: httpx.AsyncClient, action: str) -> None:
    """The warehouse does not know the order."""
    assert code(await post(http, f"/orders/order-1/{action}")) == (404, "order_unknown")


# ------------------------------------------------------------------------------------------------------------ messages

EMAIL: Final = {"to": "customer@example.com", "template": "order_confirmation", "data": {"orderNumber": "order-1"}}
EVENT: Final = {"event": "order_placed", "userId": "cus_123", "properties": {"orderId": "order-1"}}
MESSAGES: Final = [("/email/send", EMAIL, "emails"), ("/analytics/events", EVENT, "events")]


@pytest.mark.parametrize(("path", "message", "box"), MESSAGES)
async def test_a_message_is_delivered_once_per_key(
    sandbox: Running, http: httpx.AsyncClient, path: str, message: dict[str, Any], box: str
) -> None:
    """A duplicate gets the first answer and is not delivered; another key is another message."""
    answers = [await http.post(path, json=message, headers={"Idempotency-Key": key}) for key in ("a", "a", "b")]
    assert [each.status_code for each in answers] == [200, 200, 200]
    assert answers[0].json() == answers[1].json() != answers[2].json()
    assert sandbox.world.provider_records()[box] == [message, message]


@pytest.mark.parametrize(("path", "message", "box"), MESSAGES)
@pytest.mark.parametrize("broken", ["missing", "null", "text"])
async def test_an_incomplete_message_is_refused(  # noqa: PLR0913, PLR0917  the tables' columns and their world
    sandbox: Running, http: httpx.AsyncClient, path: str, message: dict[str, Any], box: str, broken: str
) -> None:
    """A missing field, a wrong field and a body that is no JSON object are answered 422."""
    for name in message:
        rest = {each: value for each, value in message.items() if each != name}
        body = {"missing": rest, "null": {**rest, name: None}, "text": "hello"}[broken]
        assert code(await http.post(path, json=body)) == (422, "invalid_request")
    assert sandbox.world.provider_records()[box] == []


# --------------------------------------------------------------------------------------------------------------- Slack


def section(text: str, kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": "section", "text": {"type": kind, "text": text}}


HEADER: Final = {"type": "header", "text": {"type": "plain_text", "text": "Low stock"}}
DIVIDER: Final = {"type": "divider"}
CONTEXT: Final = {"type": "context", "elements": [{"type": "mrkdwn", "text": "every 15 minutes"}]}


async def test_slack_accepts_a_message(sandbox: Running, http: httpx.AsyncClient) -> None:
    """Text and blocks are stored unchanged, except that a text that is too long is truncated."""
    alerts: list[dict[str, Any]] = [
        {"text": "an order is stuck"},
        {"text": "Low stock", "blocks": [HEADER, section("x" * 3000), DIVIDER, CONTEXT]},
        {"text": "", "blocks": [section("*Lamp*: 2 left", "plain_text")] * 50},
        {"text": "x" * 40_000},
    ]
    for alert in (*alerts[:3], {"text": "x" * 40_001}):
        answer = await http.post("/slack/webhook", json=alert)
        assert (answer.status_code, answer.text) == (200, "ok")
    assert sandbox.world.provider_records()["alerts"] == alerts


async def test_slack_accepts_attachments_without_a_text(sandbox: Running, http: httpx.AsyncClient) -> None:
    """Such are Alertmanager's messages; the reader sees titles and texts."""
    attachment = {"title": "FIRING", "title_link": "http://x", "text": "No worker", "fallback": "f", "color": "danger"}
    for payload in ({"channel": "#ops", "attachments": [attachment]}, {"text": "", "attachments": [attachment] * 100}):
        answer = await http.post("/slack/webhook", json=payload)
        assert (answer.status_code, answer.text) == (200, "ok")
    alerts = sandbox.world.provider_records()["alerts"]
    assert alerts[0] == {"text": "FIRING\nNo worker"}
    assert len(alerts) == 2


REFUSED: Final = [
    ("hello", "invalid_payload"),
    ([], "invalid_payload"),
    ({"text": 5}, "invalid_payload"),
    ({}, "no_text"),
    ({"text": "", "blocks": []}, "no_text"),
    ({"text": None, "blocks": None}, "no_text"),
    ({"attachments": []}, "no_text"),
    ({"attachments": "FIRING"}, "invalid_payload"),
    ({"attachments": ["FIRING"]}, "invalid_payload"),
    ({"attachments": [{"text": "x"}] * 101}, "too_many_attachments"),
    ({"text": "Low stock", "blocks": [DIVIDER] * 51}, "invalid_blocks"),
    ({"text": "Low stock", "blocks": [section("x" * 3001)]}, "invalid_blocks"),
    ({"text": "Low stock", "blocks": [section("")]}, "invalid_blocks"),
    ({"text": "Low stock", "blocks": [section("x", "markdown")]}, "invalid_blocks"),
    ({"text": "Low stock", "blocks": [{"type": "section"}]}, "invalid_blocks"),
    ({"text": "Low stock", "blocks": [{"type": "sectoin", "text": "x"}]}, "invalid_blocks"),
    ({"text": "Low stock", "blocks": "divider"}, "invalid_blocks"),
]


@pytest.mark.parametrize(("payload", "error"), REFUSED)
async def test_slack_answers_with_an_error_code(
    sandbox: Running, http: httpx.AsyncClient, payload: object, error: str
) -> None:
    """A bad message is answered 400 as plain text and is not delivered."""
    answer = await http.post("/slack/webhook", json=payload)
    assert (answer.status_code, answer.text) == (400, error)
    assert answer.headers["content-type"].startswith("text/plain")
    assert sandbox.world.provider_records()["alerts"] == []


@pytest.mark.parametrize("service", ["stripe", "fulfillment", "email", "analytics", "slack", "openai"])
async def test_an_unknown_route_is_404_and_in_the_journal(
    sandbox: Running, http: httpx.AsyncClient, service: str
) -> None:
    """A mistyped path can be found in the journal."""
    assert (await http.post(f"/{service}/nowhere", json={})).status_code == 404
    (entry,) = sandbox.world.journal.about()
    assert (entry["service"], entry["path"], entry["status"]) == (service, "/nowhere", 404)
