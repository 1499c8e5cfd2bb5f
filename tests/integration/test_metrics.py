"""What a worker and a web process tell Prometheus, of orders that end in different ways."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
from temporalio.testing import WorkflowEnvironment

from app.web.gauges import show_numbers
from client.schedules import apply_schedules
from config.settings import Settings
from deploy.local.process import Command, free_ports, running
from gateways.postgres import Database
from orders.metrics import ALL, Counter, Gauge, Histogram, Metric
from orders.names import CANCEL_ORDER, PROCESS_ORDER, SCHEDULED, TASK_QUEUE, VERIFY_ORDERS, cancel_order_id
from sandbox.scenarios import SCENARIOS
from sandbox.server import serve
from tests.integration.test_worker import a_worker, addresses
from tests.support.scraping import OF_THE_SDK, Sample, scrape, total
from tests.support.shop import Shop, an_order, eventually
from tests.support.web import SECRETS, an_event, signature

DECLINED: Final = "pm_card_chargeDeclined"
CALLS: Final = "order_sagas_external_call_seconds_count"
LABELS: Final = {label for metric in ALL for label in metric.labels}


async def test_what_orders_count(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is placed, one declined, one is parked in its cancel, and the state of the shop says so."""
    counted: list[tuple[str, dict[str, str]]] = []
    shown: dict[tuple[str, ...], float] = {}

    def count(metric: Metric, *_: float, **labels: str) -> None:
        counted.append((metric.name, labels))

    def show(metric: Metric, value: float, **labels: str) -> None:
        shown[metric.name, *labels.values()] = value

    async def parked() -> bool:
        return counted.count(("order_sagas_parks", {"step": "void_payment"})) == 1

    monkeypatch.setattr(Counter, "add", count)
    monkeypatch.setattr(Histogram, "observe", count)
    monkeypatch.setattr(Gauge, "show", show)
    shop.world.faults.add(SCENARIOS["refund-refused"][1].model_copy(update={"order": "order-parked"}))
    for order_id, card in (("order-placed", "pm_123"), ("order-declined", DECLINED), ("order-parked", "pm_123")):
        await shop.place(an_order(paymentMethodId=card), order_id)
    await shop.start_cancel("order-parked")
    await eventually(parked, "the cancel is parked")
    await show_numbers(Database(shop.pool))

    assert counted.count(("order_sagas_orders", {"outcome": "placed", "error_code": "none"})) == 2
    assert counted.count(("order_sagas_orders", {"outcome": "rejected", "error_code": "card_declined"})) == 1
    assert counted.count(("order_sagas_undos", {"closing": "rejected"})) == 1
    for step, done in {"reserve_stock": 3, "authorize_payment": 3, "capture_payment": 2, "release_stock": 1}.items():
        assert counted.count(("order_sagas_step_seconds", {"step": step, "outcome": "done"})) == done
    assert counted.count(("order_sagas_step_seconds", {"step": "void_payment", "outcome": "failed"})) == 1
    assert counted.count(("order_sagas_external_call_seconds", {"service": "stripe", "status": "402"})) == 1
    assert shown["order_sagas_open_orders", "processing"] == 1
    assert shown["order_sagas_open_orders", "cancelling"] == 1
    assert shown["order_sagas_parked_orders",] == 1
    assert shown["order_sagas_failed_refunds",] == 0


@pytest.mark.prove
@pytest.mark.timeout(240)
async def test_what_programs_tell_prometheus(temporal: WorkflowEnvironment, database_url: str, tmp_path: Path) -> None:
    """A worker counts the same orders, and a web process reads the shop; no label of either names an order."""
    client = temporal.client
    metrics, for_web, web = free_ports(3)
    async with serve() as sandbox:
        environment = addresses(temporal, database_url, sandbox) | {"FULFILLMENT_REMEMBERS_CANCELS": "true"}
        sandbox.world.faults.add(SCENARIOS["refund-refused"][1].model_copy(update={"order": "counted-parked"}))
        async with a_worker(tmp_path / "worker.log", **environment, METRICS_ADDRESS=f"127.0.0.1:{metrics}"):
            for order_id, card in (("placed", "pm_123"), ("declined", DECLINED), ("parked", "pm_123")):
                payload = an_order(paymentMethodId=card)
                await client.execute_workflow(PROCESS_ORDER, payload, id=f"counted-{order_id}", task_queue=TASK_QUEUE)
            cancel = await client.start_workflow(
                CANCEL_ORDER, {"orderId": "counted-parked"}, id=cancel_order_id("counted-parked"), task_queue=TASK_QUEUE
            )

            async def alerted() -> list[Sample] | None:
                samples = await scrape(f"127.0.0.1:{metrics}")
                return samples if total(samples, CALLS, service="slack", status="200") else None

            of_worker = await eventually(alerted, "the order is parked, and the worker has alerted operators")
            await client.execute_workflow(VERIFY_ORDERS, id="counted-verify", task_queue=TASK_QUEUE)
            await apply_schedules(client, Settings())
            try:
                where = {"WEBHOOKS_PORT": str(web), "METRICS_ADDRESS": f"127.0.0.1:{for_web}"}
                async with a_web_process(tmp_path / "web.log", environment | where):
                    of_web = await eventually(lambda: after_deliveries(web, for_web), "the web process has read all")
            finally:
                await asyncio.gather(*(client.get_schedule_handle(name).delete() for name in SCHEDULED))
                await cancel.terminate()

    assert total(of_worker, "order_sagas_orders_total", outcome="placed", error_code="none") == 2
    assert total(of_worker, "order_sagas_orders_total", outcome="rejected", error_code="card_declined") == 1
    assert total(of_worker, "order_sagas_order_seconds_count") == 3
    assert total(of_worker, "order_sagas_undos_total", closing="rejected") == 1
    assert total(of_worker, "order_sagas_parks_total", step="void_payment") == 1
    for step, done in {"reserve_stock": 3, "authorize_payment": 3, "capture_payment": 2, "release_stock": 1}.items():
        assert total(of_worker, "order_sagas_step_seconds_count", step=step, outcome="done") == done
    assert total(of_worker, "order_sagas_step_seconds_count", step="void_payment", outcome="failed") == 1
    assert total(of_worker, CALLS, service="stripe", status="402") == 1
    assert total(of_worker, "temporal_activity_execution_latency_seconds_count", activity_type="reserve_stock") == 3

    assert total(of_web, "order_sagas_webhooks_total", source="stripe", type="other", result="refused") == 1
    assert total(of_web, "order_sagas_webhooks_total", source="stripe", type="other", result="unknown type") == 1
    assert total(of_web, "order_sagas_open_orders", status="processing") == 1
    assert total(of_web, "order_sagas_open_orders", status="cancelling") == 1
    assert total(of_web, "order_sagas_parked_orders") == 1
    assert total(of_web, "order_sagas_oldest_open_order_seconds") == 0
    assert total(of_web, "order_sagas_failed_refunds") == 0
    assert total(of_web, "order_sagas_open_warnings", kind="dispute") == 0
    assert total(of_web, "order_sagas_broken_invariants") == 0
    for name in SCHEDULED:
        assert total(of_web, "order_sagas_schedule_applied", schedule=name) == 1
        assert 0 <= (total(of_web, "order_sagas_schedule_late_intervals", schedule=name) or 0) < 1
    assert abs(time.time() - (total(of_web, "order_sagas_read_timestamp_seconds", source="temporal") or 0)) < 60

    for name, labels, _ in [*of_worker, *of_web]:
        assert labels.keys() <= LABELS | OF_THE_SDK, name
        assert not [value for value in labels.values() if "counted" in value or "cus_" in value], name


@asynccontextmanager
async def a_web_process(log: Path, environment: dict[str, str]) -> AsyncIterator[None]:
    argv = (sys.executable, "webhooks.py")
    async with running(Command(name="webhooks.py", argv=argv, log=log, env={**os.environ, **environment}, grace=40)):
        yield


async def after_deliveries(web: int, metrics: int) -> list[Sample] | None:
    """What the web process tells once it serves and has read everything, after a forged and an unknown event."""
    try:
        samples = await scrape(f"127.0.0.1:{metrics}")
        if total(samples, "order_sagas_webhooks_total") is None:
            body = an_event("stripe", "customer.created", "cus_secret")
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{web}", trust_env=False) as http:
                for header in ("forged", signature(body, SECRETS["stripe"])):
                    await http.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": header})
    except httpx.TransportError:
        return None
    sources = [total(samples, "order_sagas_read_timestamp_seconds", source=each) for each in ("postgresql", "temporal")]
    is_all = None not in sources and total(samples, "order_sagas_webhooks_total") == 2
    return samples if is_all else None
