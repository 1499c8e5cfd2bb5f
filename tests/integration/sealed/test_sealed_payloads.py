"""With PAYLOAD_KEYS, Temporal stores nothing of an order that can be read; keys change while orders are under way."""

import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle, WorkflowQueryFailedError, WorkflowUpdateFailedError
from temporalio.common import RawValue
from temporalio.testing import WorkflowEnvironment

from app.wiring import open_worker
from client.orders import cancel_order, submit_order
from client.runs import list_runs, order_status
from config.payload_keys import Key, customer_tags
from config.settings import Settings
from config.temporal import plugin
from deploy.local.postgres import Postgres
from orders.errors import Permanent, Unreadable
from orders.models import ErrorCode, OrderOutcome, Stage
from orders.names import (
    CUSTOMER_ID,
    PROCESS_ORDER,
    RECONCILE_ORDERS,
    cancel_order_id,
    notify_shipment_id,
    refund_order_id,
)
from orders.reconciliation import ReconcileReport
from sandbox.fulfillment import Lack
from sandbox.server import Running, serve
from tests.support.invariants import assert_invariants
from tests.support.scenarios import until_stage
from tests.support.servers import copy_database
from tests.support.shop import Shop, an_order, eventually, new_order_id, open_shop, settings_for

OLD, NEW = Key("k1", bytes(range(32))), Key("k2", bytes(range(32, 64)))
ADDRESS: Final = "canary@canary.example"
STREET: Final = "7 Canary Street"
CARD: Final = "pm_card_visa"
CUSTOMER: Final = "cus_canary"
AMOUNT: Final = "59.98"
CANARIES: Final = (ADDRESS, STREET, CARD, CUSTOMER, AMOUNT, "29.99", "paymentIntent")
WAITS: Final = {"paymentMethodId": "pm_card_authenticationRequired"}


def a_canary(**changes: Any) -> dict[str, Any]:
    place = an_order()["shippingAddress"] | {"street": STREET}
    return an_order(customerId=CUSTOMER, customerEmail=ADDRESS, shippingAddress=place, paymentMethodId=CARD) | changes


async def client_with(temporal: WorkflowEnvironment, *keys: Key) -> Client:
    return await Client.connect(temporal.client.service_client.config.target_host, plugins=[plugin(keys=keys)])


@pytest.fixture(scope="module", params=["regular", pytest.param("local-first", marks=pytest.mark.prove)])
async def sealed(
    request: pytest.FixtureRequest, postgres: Postgres, temporal: WorkflowEnvironment
) -> AsyncIterator[Shop]:
    """A shop that takes encrypted orders only, however its steps are executed."""
    keys: dict[str, Any] = {"payload_keys": f"k1:{base64_of(OLD)}", "payloads_must_be_sealed": True}
    keys["step_execution"] = request.param
    client = await client_with(temporal, OLD)
    async with copy_database(postgres) as url, open_shop(url, temporal, client=client, **keys) as opened:
        yield opened


async def test_temporal_stores_nothing_readable(sealed: Shop) -> None:
    """Of an order that is placed and cancelled, refused, failed, or parked; not in a list, a history or an answer."""
    placed, refused, failed, parked = (new_order_id() for _ in range(4))
    success = await submit(sealed, placed)
    assert success.payment_intent
    assert (await cancel_order(sealed.client, placed, ADDRESS, task_queue=sealed.task_queue)).cancelled
    assert not (await submit(sealed, refused, paymentMethodId="pm_card_chargeDeclined")).success
    sealed.hooks.fail("request_fulfillment", Permanent(f"{ADDRESS} {STREET}", type="fulfillment_refuses_us"))
    assert (await submit(sealed, failed)).error_code is ErrorCode.FAILED
    await sealed.hooks.reset()
    sealed.hooks.fail("request_fulfillment", Permanent(f"{ADDRESS} {STREET}", type="fulfillment_refuses_us"))
    sealed.hooks.fail("void_payment", Permanent(f"{ADDRESS} {STREET}", type="stripe_refuses_us"))
    assert (await submit(sealed, parked)).error_code is ErrorCode.UNDO_PARKED

    for workflow_id in (placed, cancel_order_id(placed), refused, failed, parked):
        run = sealed.client.get_workflow_handle(workflow_id)
        described = (await run.describe()).raw_description.SerializeToString()
        events = [event.SerializeToString() async for event in run.fetch_history_events()]
        assert found_in(described, *events) == [], workflow_id
        assert success.payment_intent.encode() not in b"".join(events)
        assert b"binary/encrypted" in events[0]
    view = await order_status(sealed.client, parked)
    assert ADDRESS in view.attention[0].reason, "our own client reads it"
    assert view.payment_intent


async def test_lists_know_a_customer_by_a_keyed_hash(sealed: Shop) -> None:
    """Whoever starts the order, and also after the keys were rotated."""
    ours, foreign = new_order_id(), new_order_id()
    await submit(sealed, ours)
    await sealed.place(a_canary(), foreign)  # with a codec, and without a search attribute

    rotated = await client_with(sealed.env, NEW, OLD)
    tags = customer_tags(rotated, CUSTOMER)
    assert tags == (NEW.tag(CUSTOMER), OLD.tag(CUSTOMER), CUSTOMER)
    for order_id in (ours, foreign):
        run = await sealed.client.get_workflow_handle(order_id).describe()
        assert run.typed_search_attributes.get(CUSTOMER_ID) == tags[1]

    async def both_are_listed() -> bool:
        return {ours, foreign} <= {run.order_id for run in await list_runs(rotated, customer=CUSTOMER)}

    await eventually(both_are_listed, "the runs are listed by their customer")
    assert await list_runs(rotated, customer="cus_nobody") == []


async def test_a_client_without_keys_is_told_before_anything_is_placed(sealed: Shop) -> None:
    """In words, from every call; and its order, which came in plain text, is refused."""
    order_id = new_order_id()
    with pytest.raises(Unreadable, match="the program has no keys: set PAYLOAD_KEYS"):
        await submit_order(sealed.env.client, order_id, a_canary(), task_queue=sealed.task_queue)
    with pytest.raises(Unreadable, match="set PAYLOAD_KEYS"):
        await order_status(sealed.env.client, order_id)

    outcome = await submit(sealed, order_id)
    assert (outcome.error_code, "PAYLOADS_MUST_BE_SEALED" in str(outcome.error)) == (ErrorCode.INVALID_ORDER, True)
    assert "payment_intents" not in sealed.world.provider_records()["orders"].get(order_id, {})
    assert (await sealed.row(order_id))["status"] == "rejected"
    await assert_invariants(sealed, order_id)
    placed = new_order_id()
    await submit(sealed, placed)
    with pytest.raises(Unreadable, match="set PAYLOAD_KEYS"):
        await submit_order(sealed.env.client, placed, a_canary(), task_queue=sealed.task_queue)


JUNK: Final = (
    Payload(metadata={"encoding": b"binary/encrypted"}, data=b"junk"),
    Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b""}, data=b"junk"),
    Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b"no id \xff"}, data=b"junk"),
    Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b"k1"}, data=b""),
    Payload(metadata={"encoding": b"binary/encrypted", "encryption-key-id": b"k1"}, data=bytes(64)),
)


async def test_what_no_key_can_decrypt_stops_no_order(sealed: Shop) -> None:
    """As the argument of a signal, an update or a query, and as an input: it is refused, and no workflow task fails."""
    plain, waits, invalid = sealed.env.client, new_order_id(), new_order_id()
    await until_stage(await sealed.start(a_canary(**WAITS), waits), Stage.AWAITING_CUSTOMER)
    run = plain.get_workflow_handle(waits)
    for each in JUNK:
        await run.signal("payment-updated", RawValue(each))
        await run.signal("no such signal", RawValue(each))
    for update in ("submit", "resolve"):
        with pytest.raises(WorkflowUpdateFailedError):
            await run.execute_update(update, RawValue(JUNK[0]))
    with pytest.raises(WorkflowQueryFailedError):
        await run.query("status", RawValue(JUNK[-1]))
    [payment_intent] = sealed.world.provider_records()["orders"][waits]["payment_intents"]
    sealed.world.stripe.account.authenticate(payment_intent, succeeds=True)
    await sealed.client.get_workflow_handle(waits).signal("payment-updated")
    assert (await outcome_of(sealed.client, waits)).success

    await plain.start_workflow(PROCESS_ORDER, RawValue(JUNK[-1]), id=invalid, task_queue=sealed.task_queue)
    outcome = await outcome_of(sealed.client, invalid)
    assert (outcome.error_code, "input: is marked as encrypted" in str(outcome.error)) == (
        ErrorCode.INVALID_ORDER,
        True,
    )
    for order_id in (waits, invalid):
        assert await why_its_task_failed(sealed.client, order_id) == ""
    await assert_invariants(sealed, waits)


@dataclass
class Queue:
    """Workers that come and go on one task queue, each with other keys."""

    settings: Settings
    env: WorkflowEnvironment
    sandbox: Running
    name: str

    @asynccontextmanager
    async def worker(self, *keys: Key, **changes: Any) -> AsyncIterator[Client]:
        """Work with these keys while the block lasts; yields a client with the same."""
        client = await client_with(self.env, *keys)
        settings = self.settings.model_copy(update=changes)
        async with open_worker(settings, client, task_queue=self.name) as worker, worker:
            yield client

    async def start(self, client: Client, order_id: str) -> WorkflowHandle[Any, OrderOutcome]:
        """An order that waits for its customer."""
        run = await client.start_workflow(
            PROCESS_ORDER, a_canary(**WAITS), id=order_id, task_queue=self.name, result_type=OrderOutcome
        )
        await until_stage(run, Stage.AWAITING_CUSTOMER)
        return run

    async def go_on(self, client: Client, order_id: str) -> None:
        """Authenticate the payment of an order: its run has something to do."""
        for payment_intent in self.sandbox.world.provider_records()["orders"][order_id]["payment_intents"]:
            self.sandbox.world.stripe.account.authenticate(payment_intent, succeeds=True)
        await client.get_workflow_handle(order_id).signal("payment-updated")


@pytest.fixture
async def queue(postgres: Postgres, temporal: WorkflowEnvironment) -> AsyncIterator[Queue]:
    async with copy_database(postgres) as url, serve() as sandbox:
        yield Queue(settings_for(url, sandbox), temporal, sandbox, f"orders-{uuid.uuid4().hex[:8]}")


@pytest.mark.prove
async def test_keys_are_rotated_under_orders_in_flight(queue: Queue) -> None:
    """Plain, then k1, then k2 before k1: each order ends well, and its history holds what it was written with."""
    plain, old, new = (new_order_id() for _ in range(3))
    async with queue.worker() as client:
        await queue.start(client, plain)
    async with queue.worker(OLD, payloads_must_be_sealed=True) as client:
        await queue.start(client, old)
        await queue.go_on(client, plain)
        assert (await outcome_of(client, plain)).success, "what has begun goes on, whatever is demanded since"
    async with queue.worker(NEW, OLD) as client:
        await queue.go_on(client, old)
        assert (await outcome_of(client, old)).success
        assert (await outcome_of(client, plain)).success
    async with queue.worker(NEW) as client:
        await submit_order(client, new, a_canary(), task_queue=queue.name)
        assert [await keys_in(client, each) for each in (plain, old, new)] == [
            {b"k1"},
            {b"k1", b"k2"},
            {b"k2"},
        ]


@pytest.mark.prove  # Temporal waits ten seconds before it retries a workflow task
@pytest.mark.parametrize("too_few", [(NEW,), ()], ids=["without the old key", "without any key"])
async def test_a_key_that_is_gone_too_early_comes_back(queue: Queue, too_few: tuple[Key, ...]) -> None:
    """Until then workflow tasks fail, saying why; no order is refused, undone or lost."""
    waits, begins = new_order_id(), new_order_id()
    async with queue.worker(OLD) as client:
        await queue.start(client, waits)
    client = await client_with(queue.env, OLD, NEW)
    async with queue.worker(*too_few):
        await queue.go_on(client, waits)
        untouched = await client.start_workflow(
            PROCESS_ORDER, a_canary(), id=begins, task_queue=queue.name, result_type=OrderOutcome
        )
        for order_id in (waits, begins):
            why = await eventually(partial(why_its_task_failed, client, order_id), "a task has failed")
            assert "set PAYLOAD_KEYS" in why or "PAYLOAD_KEYS lacks" in why
    async with queue.worker(NEW, OLD):
        assert (await outcome_of(client, waits)).success
        assert (await untouched.result()).success


@pytest.mark.prove
async def test_a_key_that_is_gone_holds_up_nothing_that_needs_an_address(queue: Queue) -> None:
    """What can never leave is refunded, of this order and of later ones; the message about a parcel is given up."""
    orders, goods = sorted(new_order_id() for _ in range(2)), queue.sandbox.world.fulfillment
    for order_id, key in zip(orders, (OLD, NEW), strict=True):
        async with queue.worker(key) as client:
            await submit_order(client, order_id, a_canary(), task_queue=queue.name)
            assert (await outcome_of(client, order_id)).success
        goods.send_part(order_id)
        goods.lack(order_id, Lack())
    async with queue.worker(NEW, reconcile_after_seconds=0) as client:
        report: ReconcileReport = await client.execute_workflow(
            RECONCILE_ORDERS, id=f"reconcile-{queue.name}", task_queue=queue.name, result_type=ReconcileReport
        )
        assert report.refunds == tuple(
            f"order {order_id}: 1 of product 1 can never leave, shorted-1 is started" for order_id in orders
        )
        for order_id in orders:
            (parcel,) = goods.shipments[order_id].parcels
            refund = await client.get_workflow_handle(refund_order_id(order_id, "shorted-1")).result()
            assert refund["refunded"]
            await client.get_workflow_handle(notify_shipment_id(order_id, parcel.shipment_id)).result()
    mails = [
        (mail.data["orderNumber"], mail.template)
        for mail in queue.sandbox.world.inbox.emails
        if mail.template in ("order_shipped", "order_refunded")
    ]
    assert sorted(mails) == [(orders[1], "order_refunded"), (orders[1], "order_shipped")]
    assert any(
        orders[0] in alert.text and "PAYLOAD_KEYS lacks its key" in alert.text
        for alert in queue.sandbox.world.inbox.alerts
    )


async def submit(shop: Shop, order_id: str, **changes: Any) -> OrderOutcome:
    return await submit_order(shop.client, order_id, a_canary(**changes), task_queue=shop.task_queue)


async def outcome_of(client: Client, order_id: str) -> OrderOutcome:
    handle: WorkflowHandle[Any, OrderOutcome] = client.get_workflow_handle(order_id, result_type=OrderOutcome)
    return await handle.result()


async def events_of(client: Client, workflow_id: str) -> list[HistoryEvent]:
    return [event async for event in client.get_workflow_handle(workflow_id).fetch_history_events()]


async def keys_in(client: Client, order_id: str) -> set[bytes]:
    """The ids of the keys that encrypted a part of the history."""
    history = b"".join(event.SerializeToString() for event in await events_of(client, order_id))
    return {key for key in (b"k1", b"k2") if b"encryption-key-id\x12\x02" + key in history}


async def why_its_task_failed(client: Client, order_id: str) -> str:
    """What the first failed workflow task says, as operators see it; empty: none has failed."""
    for event in await events_of(client, order_id):
        if event.HasField("workflow_task_failed_event_attributes"):
            failure = event.workflow_task_failed_event_attributes.failure
            return str(await client.data_converter.decode_failure(failure))
    return ""


def found_in(*texts: bytes) -> list[str]:
    return [canary for canary in CANARIES for text in texts if canary.encode() in text]


def base64_of(key: Key) -> str:
    return base64.b64encode(key.secret).decode()
