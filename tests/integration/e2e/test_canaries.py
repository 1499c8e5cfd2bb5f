"""Secrets, addresses and card numbers are planted, and looked for in all logs, histories, metrics and traces."""

import base64
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowFailureError

from config.payload_keys import parse_payload_keys
from config.temporal import plugin
from deploy.local.process import free_ports
from orders.models import OrderOutcome
from orders.names import (
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    PROCESS_ORDER,
    PRODUCT_RECOMMENDATIONS,
    RECONCILE_ORDERS,
    TASK_QUEUE,
)
from tests.integration.e2e.test_killed_worker import a_stack
from tests.support.scenarios import REFUSED_ADDRESS
from tests.support.scraping import scrape, total
from tests.support.shop import an_order, eventually
from tests.support.traces import Collector, collecting

SECRETS: Final = {
    "STRIPE_SECRET_KEY": "sk_test_canarystripe",
    "FULFILLMENT_KEY": "canary-fulfillment-key",
    "OPENAI_API_KEY": "sk-canaryopenai",
    "STRIPE_WEBHOOK_SECRET": "whsec_canarystripe",
    "FULFILLMENT_WEBHOOK_SECRET": "whsec_canaryfulfillment",
}
SLACK: Final = "canary-slack-token"
ADDRESS: Final = "canary@canary.example"
CARD: Final = "4242424242424242"
PHONE: Final = "+1 415 555 0123"
GIFT: Final = "canary gift message"

# An external service that repeats what it was sent, in words that an error could quote.
TELL_TALE: Final = f"<p>{ADDRESS} {CARD} {PHONE} {' '.join(SECRETS.values())}</p>"

ORDERS: Final[dict[str, dict[str, Any]]] = {
    "canary-placed": {"shippingAddress": an_order()["shippingAddress"] | {"phone": PHONE}, "giftMessage": GIFT},
    "canary-declined": {"paymentMethodId": "pm_card_chargeDeclined"},
    "canary-refused": {"shippingAddress": REFUSED_ADDRESS},
    "canary-unmailed": {},
    "canary-card": {"shippingAddress": an_order()["shippingAddress"] | {"street": CARD}},
    "canary-malformed": {"customerEmail": f"{ADDRESS} {CARD}", "priority": CARD},
}


KEYS: Final = f"canary:{base64.b64encode(b'a canary among all of the keys..').decode()}"
STREET: Final = an_order()["shippingAddress"]["street"]


@pytest.fixture
def traces() -> Iterator[tuple[str, Collector]]:
    with collecting() as opened:
        yield opened


@pytest.mark.prove
@pytest.mark.timeout(240)
@pytest.mark.parametrize("keys", ["", KEYS], ids=["plain", "sealed"])
async def test_nothing_secret_is_written_down(keys: str, traces: tuple[str, Collector]) -> None:
    """Not when all goes well, not when external services fail, and not at the most talkative log level.

    With keys, the whole database of Temporal holds no address either.
    """
    async with a_stack() as stack, httpx.AsyncClient(base_url=stack.sandbox.url, trust_env=False) as sandbox:
        environment = stack.environment(os.environ) | SECRETS | {"PAYLOAD_KEYS": keys}
        environment |= {"SLACK_WEBHOOK": f"{stack.sandbox.url}/slack/webhook?{SLACK}", "LOG_LEVEL": "DEBUG"}
        metrics = f"127.0.0.1:{free_ports(1)[0]}"
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces[0],
            "METRICS_ADDRESS": metrics,
            "STRIPE_API_BASE": f"{stack.sandbox.url}/stripe",
            "OPENAI_BASE_URL": f"{stack.sandbox.url}/openai/v1",
        }
        for service in ("stripe", "fulfillment", "email", "analytics", "slack"):
            for status in (400, 500) if service == "email" else (500,):
                fault = {"service": service, "kind": "status", "status": status, "body": TELL_TALE}
                (await sandbox.post("/_sandbox/faults", json=fault)).raise_for_status()
        client = await Client.connect(stack.temporal.address, plugins=[plugin(keys=parse_payload_keys(keys))])
        async with stack.worker(environment):
            for order_id, changes in ORDERS.items():
                payload = an_order(**({"customerEmail": ADDRESS} | changes))
                await run_to_its_end(client, PROCESS_ORDER, order_id, payload)
            for workflow in (CHECK_INVENTORY, RECONCILE_ORDERS, INDEX_PRODUCTS):
                await run_to_its_end(client, workflow, f"canary-{workflow}")
            await run_to_its_end(client, PRODUCT_RECOMMENDATIONS, "canary-recommend", {"customerId": "cus_123"})
            await eventually(lambda: has_runs(client), "the runs are listed")
            runs = [run async for run in client.list_workflows("WorkflowType != ''")]
            samples = await scrape(metrics)
            histories = {run.id: [event async for event in events_of(client, run.id)] for run in runs}
        log = Path(stack.logs / "worker.log").read_text()
        kept = b"".join(path.read_bytes() for path in stack.data_dir.glob("temporal.db*"))

    assert "canary-placed" in log, "the log tells of the orders"
    secrets = [*SECRETS.values(), SLACK, *keys.split(":")[1:]]
    assert found_in(log.encode(), [*secrets, ADDRESS, CARD, PHONE, GIFT]) == []
    personal = [ADDRESS, CARD, PHONE, GIFT, STREET, "paymentIntent", "pm_card_"]
    assert found_in(kept, [*secrets, *(personal if keys else [])]) == []
    assert (STREET.encode() in kept) == (not keys), "the file is where Temporal keeps its histories"
    assert total(samples, "order_sagas_orders_total") == len(ORDERS)
    in_no_label = [*secrets, ADDRESS, CARD, PHONE, GIFT, "cus_123", *ORDERS]
    assert found_in(repr(samples).encode(), in_no_label) == []
    exported = b"".join(traces[1].raw)
    assert {"canary-placed", "canary-declined"} <= {
        each.attributes.get("temporalWorkflowID") for each in traces[1].spans
    }
    assert found_in(exported, [*secrets, ADDRESS, CARD, PHONE, GIFT, STREET, "pm_card_"]) == []
    for run_id, events in histories.items():
        everything = b"".join(event.SerializeToString() for event in events)
        assert found_in(everything, secrets) == [], run_id
        assert found_in(b"".join(map(without_input, events)), [ADDRESS, CARD, PHONE, GIFT]) == [], run_id


async def run_to_its_end(client: Client, workflow: str, workflow_id: str, *payload: Any) -> None:
    handle = await client.start_workflow(
        workflow, args=payload, id=workflow_id, task_queue=TASK_QUEUE, result_type=OrderOutcome
    )
    if workflow == INDEX_PRODUCTS:  # its key is refused, and it would wait an hour for another one
        await eventually(lambda: has_tried(client, workflow_id), "the model has refused the key")
        await handle.terminate()
        return
    try:
        await client.get_workflow_handle(workflow_id).result()
    except WorkflowFailureError:
        return


async def has_tried(client: Client, workflow_id: str) -> bool:
    description = await client.get_workflow_handle(workflow_id).describe()
    return any(each.attempt > 1 for each in description.raw_description.pending_activities)


async def has_runs(client: Client) -> bool:
    return len([run async for run in client.list_workflows("WorkflowType != ''")]) == len(ORDERS) + 4


async def events_of(client: Client, workflow_id: str) -> AsyncIterator[HistoryEvent]:
    async for event in client.get_workflow_handle(workflow_id).fetch_history_events():
        yield event


def without_input(event: HistoryEvent) -> bytes:
    """What we write ourselves: a client's input is its own, and the e-mail service needs its address."""
    event.workflow_execution_started_event_attributes.ClearField("input")
    event.activity_task_scheduled_event_attributes.ClearField("input")
    return event.SerializeToString()


def found_in(text: bytes, canaries: list[str]) -> list[str]:
    return [canary for canary in canaries if canary.encode() in text]
