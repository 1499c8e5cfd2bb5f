"""The web process: what it refuses unread, what it never reveals, how it starts and stops."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from app.web.endpoints import MAX_BODY
from deploy.local.postgres import Postgres
from deploy.local.process import Child, Command, free_ports, running
from gateways.postgres import Database
from tests.integration.test_worker import addresses, closed_port
from tests.support.sample import one_in
from tests.support.shop import eventually
from tests.support.web import SECRETS, Web, an_event, signature

if TYPE_CHECKING:
    from gateways.postgres import Connection

BODY = an_event("stripe", "payment_intent.succeeded", "pi_1")

Header = Callable[[bytes], str]


@pytest.mark.parametrize("source", ["stripe", "fulfillment"])
@pytest.mark.parametrize(
    "header",
    [
        lambda _: "",
        lambda _: f"t={int(time.time())},v1={'0' * 64}",
        lambda body: signature(body + b" ", "whsec_sandbox"),
        lambda body: signature(body, "whsec_other"),
        lambda body: signature(body, "whsec_sandbox", at=time.time() - 400),
        lambda body: signature(body, "whsec_sandbox", at=time.time() + 400),
        lambda body: signature(body, "fhsec_sandbox", at=time.time() - 400),
        lambda body: signature(body, "fhsec_sandbox", at=time.time() + 400),
    ],
    ids=["none", "forged", "tampered", "unknown secret", "stale", "future", "stale there", "future there"],
)
async def test_what_is_not_signed_is_refused(web: Web, source: str, header: Header) -> None:
    """The answer is 400 before the body is parsed, and neither Stripe nor the warehouse is asked."""
    for body in (BODY, b"no json"):
        assert (await web.post(source, body, header(body))).status_code == 400
    assert list(web.shop.world.journal.about()) == []
    assert await web.kept() == []


async def test_each_source_has_a_secret_of_its_own(web: Web) -> None:
    """The warehouse cannot sign for Stripe."""
    assert (await web.post("stripe", BODY, signature(BODY, SECRETS["fulfillment"]))).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"id": "evt_1"}',
        b'{"id": "", "type": "refund.failed", "data": {"object": {"id": "re_1"}}}',
        b'{"id": "evt_\\u0000", "type": "refund.failed", "data": {"object": {"id": "re_1"}}}',
        b'{"id": 1, "type": "refund.failed", "data": {"object": {"id": "re_1"}}}',
        b'{"id": "evt_1", "type": "refund.failed", "data": {"object": {"id": {"a": 1}}}}',
        b'{"id": "evt_1", "type": "refund.failed", "data": {"object": {"id": "re_1\\nx"}}}',
        b'{"id": "evt_1", "type": "refund.failed", "data": {"object": {}}}',
        b'{"id": "evt_1", "type": "refund.failed"}',
    ],
)
async def test_what_is_signed_but_no_event_is_refused(web: Web, body: bytes) -> None:
    """The answer is 400, whatever the body is."""
    assert (await web.post("stripe", body)).status_code == 400
    assert await web.kept() == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_has_a_largest_size(web: Web, *, chunked: bool) -> None:
    """The answer above it is 413, also without a Content-Length."""

    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    for size, status in ((MAX_BODY, 200), (MAX_BODY + 1, 413)):
        body = an_event("stripe", "unknown.type", None, padding="")
        body += b" " * (size - len(body))
        headers = {"Stripe-Signature": signature(body, SECRETS["stripe"])}
        content = chunks(body) if chunked else body
        assert (await web.http.post("/webhooks/stripe", content=content, headers=headers)).status_code == status


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("source", ["stripe", "fulfillment"])
async def test_events_are_posted(web: Web, method: str, source: str) -> None:
    """Any other method is answered with 405."""
    assert (await web.http.request(method, f"/webhooks/{source}")).status_code == 405


@pytest.mark.prove
async def test_a_probe_costs_no_query(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events need the connections; tests/integration/test_health.py has the rest of health."""
    opened: list[Database] = []
    transaction = Database.transaction

    def counted(database: Database) -> AbstractAsyncContextManager["Connection"]:
        opened.append(database)
        return transaction(database)

    monkeypatch.setattr(Database, "transaction", counted)
    answers = [await web.http.get("/healthz") for _ in range(50)]
    await asyncio.sleep(1.5)  # so that a query once a second is seen too

    assert {(answer.status_code, answer.text) for answer in answers} == {(200, '{"status":"ok"}')}
    assert opened == []


# --------------------------------------------------------------------------------------------------------- the process


@asynccontextmanager
async def a_process(log: Path, **environment: str) -> AsyncIterator[Child]:
    argv = (sys.executable, "webhooks.py")
    command = Command(name="The web process", argv=argv, log=log, env={**os.environ, **environment}, grace=40)
    async with running(command) as child:
        yield child


@pytest.mark.prove
@pytest.mark.parametrize(
    ("environment", "message"),
    one_in(
        3,
        [
            ({"DATABASE_URL": "postgresql://orders:canary@127.0.0.1:{closed}/orders"}, "DATABASE_URL"),
            ({"DATABASE_URL": "{empty}"}, "make migrate"),
            ({"TEMPORAL_ADDRESS": "127.0.0.1:{closed}"}, "TEMPORAL_ADDRESS"),
            ({"WEBHOOKS_PORT": "{taken}", "DATABASE_URL": "{good}"}, "WEBHOOKS_PORT"),
            ({"STRIPE_SECRET_KEY": "sk_live_canary", "ALLOW_LIVE_STRIPE": "true"}, "STRIPE_WEBHOOK_SECRET"),
            (
                {
                    "STRIPE_SECRET_KEY": "rk_live_canary",
                    "ALLOW_LIVE_STRIPE": "true",
                    "STRIPE_WEBHOOK_SECRET": "whsec_own",
                },
                "FULFILLMENT_WEBHOOK_SECRET",
            ),
            ({"WEBHOOK_TOLERANCE_SECONDS": "canary"}, "WEBHOOK_TOLERANCE_SECONDS"),
        ],
    ),
    ids=["no Postgres", "no migrations", "no Temporal", "port taken", "live", "live warehouse", "bad setting"],
)
async def test_refuses_to_start(
    environment: dict[str, str], message: str, web: Web, postgres: Postgres, tmp_path: Path
) -> None:
    """One line names what is wrong, without secrets; the exit status is 1."""
    target = web.shop.client.service_client.config.target_host
    places = {
        "closed": closed_port(),
        "empty": postgres.url("postgres"),
        "good": web.shop.settings.database_url.get_secret_value(),
        "taken": target.rpartition(":")[2],
    }
    given = {name: value.format(**places) for name, value in environment.items()}
    log = tmp_path / "webhooks.log"
    async with a_process(log, **({"TEMPORAL_ADDRESS": target} | given)) as child:
        assert await asyncio.wait_for(child.wait(), 60) == 1

    (said,) = log.read_text().strip().splitlines()
    assert said.startswith("webhooks.py: ")
    assert message in said
    assert "canary" not in said


async def test_says_little_and_stops_in_order(web: Web, tmp_path: Path) -> None:
    """The log has one line per delivery: id, type, outcome. No secret, body or address is in it, or in an answer."""
    settings = web.shop.settings
    (port,) = free_ports(1)
    environment = addresses(web.shop.env, settings.database_url.get_secret_value(), web.shop.sandbox) | {
        "STRIPE_SECRET_KEY": "sk_test_canary",
        "STRIPE_WEBHOOK_SECRET": "whsec_canary_new, whsec_canary_old,",
        "FULFILLMENT_KEY": "canary-key",
        "FULFILLMENT_WEBHOOK_SECRET": "fhsec_canary",
        "WEBHOOKS_PORT": str(port),
        "LOG_LEVEL": "DEBUG",
    }
    assert (await web.shop.place(order_id="o1")).success
    intent = await web.intent_of("o1")
    claims = {"receipt_email": "canary@example.com", "client_secret": "canary_secret", "number": "4242424242424242"}
    bodies = [an_event("stripe", "payment_intent.succeeded", intent, f"evt_{n}", **claims) for n in range(3)]
    shipped = an_event("fulfillment", "order.shipped", "o1", "whe_1", canary="canary")
    answers: list[httpx.Response] = []
    async with (
        a_process(tmp_path / "log", **environment) as child,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http,
    ):
        other = Web(web.shop, str(http.base_url), http)

        async def healthy() -> bool:
            try:
                return (await http.get("/healthz")).is_success
            except httpx.TransportError:
                return False

        await eventually(healthy, "the process answers")
        for body, secret in zip(bodies, ("whsec_canary_new", "whsec_canary_old", ""), strict=True):
            answers.append(await other.post("stripe", body, signature(body, secret)))
        answers.append(await other.post("stripe", bodies[0], signature(bodies[0], "whsec_canary_old")))
        answers.append(await other.post("fulfillment", shipped, signature(shipped, "fhsec_canary")))
        answers.append(await other.post("stripe", b"canary", signature(b"canary", "whsec_canary_new")))
        os.kill(child.pid, 15)
        assert await child.wait() == 0

    assert [answer.status_code for answer in answers] == [200, 200, 400, 200, 200, 400]
    log = (tmp_path / "log").read_text()
    for said in (log, *(answer.text + str(answer.headers) for answer in answers)):
        assert "canary" not in said
        assert "42424242" not in said  # a time of six digits may have fewer of them
    lines = [json.loads(line) for line in log.splitlines()]
    deliveries = [line for line in lines if line["event"] == "webhook"]
    assert [(line.get("event_id"), line.get("type"), line["outcome"]) for line in deliveries] == [
        ("evt_0", "payment_intent.succeeded", "applied"),
        ("evt_1", "payment_intent.succeeded", "applied"),
        (None, None, "forged"),
        ("evt_0", "payment_intent.succeeded", "duplicate"),
        ("whe_1", "order.shipped", "applied"),
        (None, None, "not an event: input: Invalid JSON: expected value at line 1 column 1"),
    ]
    assert {frozenset(line) for line in deliveries} <= {
        frozenset({"event", "source", "event_id", "type", "outcome", "level", "timestamp"}),
        frozenset({"event", "source", "outcome", "level", "timestamp"}),
    }
    assert lines[-1]["event"] == "webhooks stopped"
