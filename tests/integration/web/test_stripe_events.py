"""Events from Stripe: they wake runs and update refunds; what they claim is never believed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from temporalio.client import Client, Interceptor, OutboundInterceptor, StartWorkflowInput, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

from app.web.server import serve
from app.web.wiring import open_webhooks
from config.temporal import plugin
from deploy.local.postgres import Postgres
from orders.models import Stage
from orders.names import NEEDS_ATTENTION, RECONCILE_NOW, RECONCILE_ORDERS, SCHEDULED
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.manual_actions import pay, refund_by_hand
from tests.support.sample import one_in
from tests.support.scenarios import Run, ending_of, is_running, until_attempts, until_marked, until_stage
from tests.support.shop import Shop, an_order, eventually
from tests.support.web import Web, an_event

O = "o1"  # noqa: E741 (the one order of each test)

THREE_D_SECURE = an_order(paymentMethodId="pm_card_authenticationRequired")
REFUND_PENDING = an_order(paymentMethodId="pm_card_pendingRefund")


async def waiting(shop: Shop) -> Run:
    """An order whose customer is asked to authenticate the payment."""
    run = await shop.start(THREE_D_SECURE, O)
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    return run


async def refunded_later(web: Web) -> str:
    """A cancelled order whose refund is under way: the refund's id."""
    assert (await web.shop.place(REFUND_PENDING, O)).success
    assert (await web.shop.cancel(O)).reason == "refund_pending"
    (refund,) = web.shop.world.stripe.account.refunds
    return refund


async def refund_status(shop: Shop) -> str:
    return str(await shop.pool.fetchval("SELECT status FROM refunds WHERE order_id = $1", O))


@pytest.fixture(autouse=True)
async def _no_reconciliation(temporal: WorkflowEnvironment) -> None:
    """A run that an earlier test has started would be joined, and looks as if none was started."""
    with suppress(RPCError):
        await temporal.client.get_workflow_handle(RECONCILE_NOW).terminate()


async def reconciliation(shop: Shop) -> str | None:
    """The last run of reconcile-orders in this shop."""
    try:
        run = await shop.client.get_workflow_handle(RECONCILE_NOW).describe()
    except RPCError:
        return None
    limit = run.raw_description.execution_config.workflow_execution_timeout.ToTimedelta()
    assert limit == SCHEDULED[RECONCILE_ORDERS]
    return run.run_id if run.task_queue == shop.task_queue else None


# ------------------------------------------------------------------------------------------------- the sandbox tells it


async def test_an_authenticated_order_goes_on_at_once(subscribed: Web) -> None:
    """The customer has authenticated; no poll was needed."""
    run = await waiting(subscribed.shop)
    await subscribed.admin(f"authenticate/{await subscribed.intent_of(O)}", "succeed")
    ending = await ending_of(run)
    assert (ending.how, ending.code) == ("completed", None)
    await assert_invariants(subscribed.shop, O)


async def test_a_failed_authentication_ends_the_order_at_once(subscribed: Web) -> None:
    """It is a business refusal, as soon as the bank says so."""
    run = await waiting(subscribed.shop)
    await subscribed.admin(f"authenticate/{await subscribed.intent_of(O)}", "fail")
    assert (await ending_of(run)).code == "authentication_failed"
    await assert_invariants(subscribed.shop, O)


@pytest.mark.prove
@pytest.mark.parametrize("kind", ["duplicate", "reorder", "delay"])
async def test_deliveries_that_repeat_overtake_or_tarry_change_nothing(subscribed: Web, kind: str) -> None:
    """This holds for every event of an order, through authentication, capture and refund."""
    fault = Fault.model_validate({"service": "webhooks", "kind": kind, "times": None, "seconds": 0.2})
    subscribed.shop.world.faults.add(fault)
    run = await waiting(subscribed.shop)
    await subscribed.admin(f"authenticate/{await subscribed.intent_of(O)}", "succeed")
    if kind == "reorder":
        subscribed.shop.world.faults.clear()  # nothing follows that the last one could be overtaken by
    assert (await ending_of(run)).code is None
    assert (await subscribed.shop.cancel(O)).refunded
    subscribed.shop.world.faults.clear()
    await subscribed.shop.world.webhook_sender.idle()

    await assert_invariants(subscribed.shop, O)
    assert await subscribed.shop.events(O) == ["pending", "capturing", "processing", "cancelling", "cancelled"]
    kept = await subscribed.kept()
    assert len(kept) == len(set(kept)) == 4
    assert {attempt.status for attempt in subscribed.shop.world.webhook_sender.attempts} == {200}


async def test_without_any_webhook_the_order_ends(subscribed: Web) -> None:
    """All events are dropped, and the run polls."""
    subscribed.shop.world.faults.add(Fault(service="webhooks", kind="drop", times=None))
    run = await waiting(subscribed.shop)
    await subscribed.admin(f"authenticate/{await subscribed.intent_of(O)}", "succeed")
    await subscribed.shop.advance(run, timedelta(minutes=16))
    assert (await ending_of(run)).code is None
    assert await subscribed.kept() == []


@pytest.mark.parametrize(("outcome", "status"), [("succeed", "succeeded"), ("fail", "failed")])
async def test_a_pending_refund_is_followed_to_its_end(subscribed: Web, outcome: str, status: str) -> None:
    """The row and the order's events follow it; if it failed, reconcile-orders is started."""
    refund = await refunded_later(subscribed)
    before = await reconciliation(subscribed.shop)
    await subscribed.admin(f"settle/{refund}", outcome)
    await subscribed.shop.world.webhook_sender.idle()

    assert await refund_status(subscribed.shop) == status
    assert await subscribed.notes(O) == [f"refund {refund} {status}"]
    assert (await reconciliation(subscribed.shop) != before) == (status == "failed")


async def test_a_goodwill_that_fails_is_reported(subscribed: Web) -> None:
    """Somebody made it in the dashboard, and its order is kept: nothing but the event tells that it failed."""
    shop = subscribed.shop
    await shop.place(order_id=O)
    await refund_by_hand(shop, await subscribed.intent_of(O), amount=100)
    await shop.world.webhook_sender.idle()
    before = await reconciliation(shop)
    (refund,) = shop.world.stripe.account.refunds
    await subscribed.admin(f"settle/{refund}", "fail")
    await shop.world.webhook_sender.idle()

    report = await finished_reconciliation(shop, before)
    assert report["alerted"] == [f"the refund {refund} of order {O} over 1.00 usd failed"]


# -------------------------------------------------------------------------------------------------------- by hand: once


async def test_a_duplicate_is_answered_without_another_look(web: Web) -> None:
    """Its id is kept: Stripe is not asked again."""
    assert (await web.shop.place(order_id=O)).success
    intent = await web.intent_of(O)
    first = await web.stripe("payment_intent.succeeded", intent, "evt_1")
    calls = len(list(web.shop.world.journal.about()))
    second = await web.stripe("payment_intent.succeeded", intent, "evt_1")

    assert [(each.status_code, each.json()["outcome"]) for each in (first, second)] == [
        (200, "applied"),
        (200, "duplicate"),
    ]
    assert len(list(web.shop.world.journal.about())) == calls
    assert await web.kept() == [("payment_intent.succeeded", O)]


async def test_twenty_at_once_take_effect_once(web: Web) -> None:
    """All are answered with 200, and one of them applied the event."""
    refund = await refunded_later(web)
    await web.admin(f"settle/{refund}", "fail")
    answers = await asyncio.gather(*(web.stripe("refund.failed", refund, "evt_1") for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert sorted(answer.json()["outcome"] for answer in answers) == ["applied", *["duplicate"] * 19]
    assert await web.notes(O) == [f"refund {refund} failed"]
    assert await web.kept() == [("refund.failed", O)]


async def test_an_older_look_does_not_take_a_refund_back(web: Web) -> None:
    """One delivery reads `pending` and is slow; another reads `failed` and is faster."""
    refund = await refunded_later(web)
    slow = Fault(service="stripe", route="GET /v1/refunds", kind="delay", seconds=60, after_effect=True)
    web.shop.world.faults.add(slow)
    tarrying = asyncio.create_task(web.stripe("refund.updated", refund, "evt_pending"))

    async def has_looked() -> bool:
        return not web.shop.world.faults.pending()

    await eventually(has_looked, "the first delivery has read the refund")
    await web.admin(f"settle/{refund}", "fail")
    assert (await web.stripe("refund.failed", refund)).json()["outcome"] == "applied"
    web.shop.world.faults.clear()

    assert (await tarrying).json()["outcome"] == "applied"
    assert await refund_status(web.shop) == "failed"
    assert await web.notes(O) == [f"refund {refund} failed"]


async def test_any_order_of_arrival_gives_the_same(web: Web) -> None:
    """`created` and `updated` come after `failed`: each reads the present state."""
    refund = await refunded_later(web)
    await web.admin(f"settle/{refund}", "succeed")
    await web.admin(f"settle/{refund}", "fail")
    for kind in ("refund.failed", "charge.refund.updated", "refund.updated", "refund.created"):
        assert (await web.stripe(kind, refund)).status_code == 200

    assert await refund_status(web.shop) == "failed"
    assert await web.notes(O) == [f"refund {refund} failed"]


# ------------------------------------------------------------------------------------------- by hand: nothing believed


async def test_a_claim_to_be_paid_is_not_believed(web: Web) -> None:
    """The event says succeeded, the payment does not: the run reads the payment, and waits on."""
    run = await waiting(web.shop)
    intent = await web.intent_of(O)
    claims: dict[str, Any] = {"status": "succeeded", "amount_received": 5998, "metadata": {"order_id": O}}
    assert (await web.stripe("payment_intent.succeeded", intent, **claims)).status_code == 200
    await until_attempts(web.shop, "read_payment", 1)

    assert await is_running(run)
    assert await web.shop.status(O) == "pending"
    await run.terminate()


async def test_a_claim_about_another_order_is_not_believed(web: Web) -> None:
    """The PaymentIntent at Stripe says which order it is."""
    refund = await refunded_later(web)
    await web.shop.place(order_id="other")
    claims: dict[str, Any] = {
        "status": "failed",
        "metadata": {"order_id": "other"},
        "payment_intent": await web.intent_of("other"),
    }
    assert (await web.stripe("refund.failed", refund, **claims)).json()["outcome"] == "applied"

    assert await web.kept() == [("refund.failed", O)]
    assert await refund_status(web.shop) == "pending"
    assert await web.notes("other") == []


async def test_a_payment_that_its_order_does_not_know(web: Web) -> None:
    """It names an order, but the order did not make it: the event is kept, and nothing is done."""
    await web.shop.place(order_id=O)
    form = {"amount": "500", "currency": "usd", "payment_method": "pm_123", "metadata[order_id]": O, "confirm": "true"}
    async with httpx.AsyncClient(base_url=web.shop.sandbox.url, trust_env=False) as http:
        key = {"Authorization": "Bearer sk_test_sandbox"}
        intent = (await http.post("/stripe/v1/payment_intents", data=form, headers=key)).json()["id"]
    answer = await web.stripe("payment_intent.succeeded", intent)

    assert (answer.status_code, answer.json()["outcome"]) == (200, "not ours")
    assert await web.kept() == [("payment_intent.succeeded", None)]


@pytest.mark.parametrize("about", ["pi_unknown", "re_unknown"])
async def test_an_object_that_stripe_does_not_know(web: Web, about: str) -> None:
    """The event is kept, so that Stripe does not repeat it for days, and nothing is done."""
    for outcome in ("not ours", "duplicate"):
        answer = await web.stripe("refund.failed", about, "evt_1")
        assert (answer.status_code, answer.json()["outcome"]) == (200, outcome)


@pytest.mark.parametrize("kind", ["customer.created", "payment_intent.created", "payment_intent.partially_funded"])
async def test_an_unknown_type_is_none_of_our_business(web: Web, kind: str) -> None:
    """The answer is 200, whatever it is about, and Stripe is not asked."""
    answer = await web.stripe(kind, None)
    assert (answer.status_code, answer.json()["outcome"]) == (200, "unknown type")
    assert await web.kept() == []
    assert list(web.shop.world.journal.about()) == []


# ------------------------------------------------------------------------------------------------------------- outages


@pytest.mark.prove
@pytest.mark.parametrize("route", one_in(3, ["GET /v1/refunds/*", "GET /v1/payment_intents/*", "GET /v1/refunds"]))
@pytest.mark.parametrize("status", one_in(4, [429, 400, 401, 500]))
async def test_stripe_out(web: Web, route: str, status: int) -> None:
    """Nothing is kept, and the next delivery has the whole effect."""
    refund = await refunded_later(web)
    await web.admin(f"settle/{refund}", "fail")
    web.shop.world.faults.add(Fault(service="stripe", route=route, kind="status", status=status))
    answer = await web.stripe("refund.failed", refund, "evt_1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert await web.kept() == []
    assert await refund_status(web.shop) == "pending"

    assert (await web.stripe("refund.failed", refund, "evt_1")).json()["outcome"] == "applied"
    assert await refund_status(web.shop) == "failed"


async def test_postgres_out(web: Web, postgres: Postgres) -> None:
    """Events are answered with 503, probes with 200; the next delivery has the whole effect."""
    refund = await refunded_later(web)
    await web.admin(f"settle/{refund}", "fail")
    name = web.shop.settings.database_url.get_secret_value().rpartition("/")[2].partition("?")[0]
    server = await asyncpg.connect(postgres.url("postgres"))
    await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    try:
        assert (await web.stripe("refund.failed", refund, "evt_1")).status_code == 503
        assert (await web.http.get("/healthz")).status_code == 200
    finally:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await server.close()
    assert await web.kept() == []

    assert (await web.stripe("refund.failed", refund, "evt_1")).json()["outcome"] == "applied"
    assert await refund_status(web.shop) == "failed"


@asynccontextmanager
async def a_bridge(target: str) -> AsyncIterator[str]:
    """The address of a proxy to another address, while the block lasts."""
    host, _, port = target.rpartition(":")
    writers: list[asyncio.StreamWriter] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, back), carry(there, writer), return_exceptions=True)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@asynccontextmanager
async def another(web: Web, client: Client) -> AsyncIterator[Web]:
    """A second web process of the shop, with a client of its own to Temporal."""
    async with (
        open_webhooks(web.shop.settings, client, task_queue=web.shop.task_queue) as app,
        serve(app, "127.0.0.1", 0) as url,
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http,
    ):
        yield Web(web.shop, url, http)


@pytest.mark.prove
@pytest.mark.parametrize("kind", one_in(2, ["payment_intent.succeeded", "refund.failed"]))
async def test_temporal_out(web: Web, kind: str) -> None:
    """Nothing is kept until the run can be signalled."""
    if kind == "refund.failed":
        about = await refunded_later(web)
        await web.admin(f"settle/{about}", "fail")
    else:
        await waiting(web.shop)
        about = await web.intent_of(O)
    body = an_event("stripe", kind, about)
    async with a_bridge(web.shop.client.service_client.config.target_host) as address:
        client = await Client.connect(address, plugins=[plugin()])
    async with another(web, client) as cut_off:
        assert (await cut_off.post("stripe", body)).status_code == 503
    assert await web.kept() == []

    assert (await web.post("stripe", body)).json()["outcome"] == "applied"
    assert await web.kept() == [(kind, O)]


class NoStarts(Interceptor):
    """Temporal goes out between the signal and the start."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002
        return NoStart(next)


class NoStart(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002
        raise RPCError(f"no {input.workflow}", RPCStatusCode.UNAVAILABLE, b"")


async def test_a_failed_refund_is_not_kept_until_it_is_looked_into(web: Web) -> None:
    """The row, the event and the run that follows happen together, or not at all."""
    refund = await refunded_later(web)
    await web.admin(f"settle/{refund}", "fail")
    body = an_event("stripe", "refund.failed", refund)
    async with another(web, Client(**web.shop.client.config() | {"interceptors": [NoStarts()]})) as cut_off:
        assert (await cut_off.post("stripe", body)).status_code == 503
    assert (await web.kept(), await refund_status(web.shop), await web.notes(O)) == ([], "pending", [])

    assert (await web.post("stripe", body)).json()["outcome"] == "applied"
    assert await refund_status(web.shop) == "failed"


# --------------------------------------------------------------------------------- disputes, fraud warnings, reviews


@pytest.mark.prove
@pytest.mark.parametrize(
    ("kind", "open_status", "end_status"),
    [
        ("dispute", "needs_response", "won"),
        ("fraud_warning", "actionable", "not_actionable"),
        ("review", "open", "closed"),
    ],
)
async def test_a_warning_about_a_payment_is_kept_and_reported_once(
    subscribed: Web, kind: str, open_status: str, end_status: str
) -> None:
    """It is on the order, operators are alerted of it and of its end, and the sweep is marked while it is open."""
    shop = subscribed.shop
    await shop.place(order_id=O)
    account = shop.world.stripe.account
    statuses = []
    for end in (False, True):
        before = await reconciliation(shop)
        if end:
            await subscribed.admin(f"end-warning/{next(iter(account.warnings))}", "succeed")
        else:
            await subscribed.warn(kind, await subscribed.intent_of(O))
        await shop.world.webhook_sender.idle()
        report = await finished_reconciliation(shop, before)
        statuses.append(await shop.pool.fetchval("SELECT status FROM payment_warnings WHERE order_id = $1", O))
        assert [f"{kind} {next(iter(account.warnings))} of order {O}" in text for text in report["alerted"]] == [True]
        assert ("cancel-order o1" in report["alerted"][0]) is not end

    assert statuses == [open_status, end_status]
    events = await shop.pool.fetch("SELECT why FROM order_events WHERE to_status IS NULL ORDER BY id")
    assert [open_status in events[0]["why"], end_status in events[1]["why"]] == [True, True]


@pytest.mark.prove
async def test_a_warning_that_stays_open_is_marked_in_every_sweep(subscribed: Web) -> None:
    """It is reported once; the mark tells operators until it is over."""
    shop = subscribed.shop
    await shop.place(order_id=O)
    before = await reconciliation(shop)
    await subscribed.warn("dispute", await subscribed.intent_of(O))
    await shop.world.webhook_sender.idle()
    await finished_reconciliation(shop, before)
    again = await shop.client.execute_workflow(
        RECONCILE_ORDERS, id="reconcile-again", task_queue=shop.task_queue, result_type=dict
    )
    assert again["alerted"] == []
    described = await shop.client.get_workflow_handle("reconcile-again").describe()
    assert described.typed_search_attributes.get(NEEDS_ATTENTION) == "payment_warning"


async def test_a_disputed_order_is_cancelled_up_to_its_money(subscribed: Web) -> None:
    """The goods are stopped; Stripe refuses to refund what the bank has taken back, so the undo parks there."""
    shop = subscribed.shop
    await shop.place(order_id=O)
    await subscribed.warn("dispute", await subscribed.intent_of(O))
    await until_marked(await shop.start_cancel(O), "void_payment")
    assert [each["status"] for each in shop.world.provider_records()["fulfillment"]] == ["cancelled"]
    assert (await shop.row(O))["parked_reason"].startswith("stripe: charge_disputed: ")


async def test_a_warning_about_a_payment_of_others_is_kept_only(subscribed: Web) -> None:
    """No order of ours has that payment."""
    payment = await pay(subscribed.shop, "order-of-others")
    await subscribed.warn("dispute", payment)
    await subscribed.shop.world.webhook_sender.idle()

    assert await subscribed.shop.pool.fetchval("SELECT count(*) FROM payment_warnings") == 0
    assert {attempt.status for attempt in subscribed.shop.world.webhook_sender.attempts} == {200}


async def finished_reconciliation(shop: Shop, before: str | None) -> dict[str, Any]:
    """The report of the first run of reconcile-orders after that one."""

    async def is_new() -> bool:
        return await reconciliation(shop) not in (None, before)

    await eventually(is_new, "reconcile-orders is started")
    handle: WorkflowHandle[Any, dict[str, Any]] = shop.client.get_workflow_handle(RECONCILE_NOW, result_type=dict)
    return await handle.result()
