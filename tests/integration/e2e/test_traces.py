"""Traces of real programs, as a collector gets them: one tree for an order, whatever happens to its workers."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from temporalio.client import Client

from client.orders import submit_order
from config.temporal import plugin
from deploy.local.process import ROOT
from deploy.local.stack import Stack
from orders.models import OrderOutcome
from tests.integration.e2e.test_killed_worker import a_stack
from tests.support.shop import an_order, eventually
from tests.support.traces import Collector, Span, collecting

CLIENT = "StartUpdateWithStartWorkflow:process-order"
PLACED = {
    CLIENT: 1,
    "RunWorkflow:process-order": 1,
    "HandleUpdate:submit": 1,
    "StartActivity:reserve_stock": 1,
    "RunActivity:reserve_stock": 1,
    "StartActivity:authorize_payment": 1,
    "RunActivity:authorize_payment": 1,
    "StartActivity:capture_payment": 1,
    "StartActivity:track_order": 1,
    "RunActivity:track_order": 1,
    "call fulfillment": 1,
    "call email": 1,
    "call analytics": 1,
}


def traced(stack: Stack, endpoint: str) -> dict[str, str]:
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50", "LOG_FORMAT": "json"}
    return stack.environment(os.environ) | given


async def starter(environment: dict[str, str], *arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "starter.py", *arguments), cwd=ROOT, env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


def assert_a_tree(spans: list[Span], root: str) -> None:
    """Every span but the root is a part of another one of them."""
    ids = {each.span_id for each in spans}
    assert [each.name for each in spans if each.parent_id not in ids] == [root]
    parents = {each.span_id: each for each in spans}
    for each in spans:
        if each.name.startswith(("call ", "sql ")):
            assert parents[each.parent_id].name.startswith("RunActivity:"), each


@pytest.mark.prove
@pytest.mark.timeout(240)
async def test_an_order_is_one_tree(tmp_path: Path) -> None:
    """From the client's call to the statements of the database; a kill, a replay and a query add no span twice."""
    with collecting() as (endpoint, collector):
        async with a_stack() as stack, httpx.AsyncClient(base_url=stack.sandbox.url, trust_env=False) as sandbox:
            environment = traced(stack, endpoint)
            order = tmp_path / "order.json"
            order.write_text(json.dumps(an_order(paymentMethodId="pm_card_threeDSecure2Required")))
            client = await Client.connect(stack.temporal.address, plugins=[plugin()])
            async with stack.worker(environment) as first:
                plain = asyncio.create_task(submit_order(client, "without-a-traced-client", an_order()))
                placing = asyncio.create_task(starter(environment, "process-order", str(order), "--order-id", "traced"))
                await eventually(lambda: waits(client, "traced"), "the order waits for its customer")
                await eventually(lambda: has(collector, "RunActivity:authorize_payment", 2), "its spans are exported")
                os.kill(first.pid, signal.SIGKILL)
                await first.wait()
            async with stack.worker(environment, "second"):
                for _ in range(3):
                    assert await starter(environment, "status", "traced") == 0
                await sandbox.post("/actions/authenticate", data={"order": "traced", "outcome": "succeed"})
                assert await placing == 0
                assert (await plain).success
                await ended(client, "traced")
            logs = "".join((stack.logs / f"{each}.log").read_text() for each in ("worker", "second"))
    spans = collector.trace_of(CLIENT, "traced")
    assert_a_tree(spans, CLIENT)
    assert {each.service for each in spans} == {"order-sagas"}
    names = Counter(each.name for each in spans)
    assert {name: names[name] for name in PLACED} == PLACED
    assert collector.twice == []
    assert {"call stripe", "sql INSERT", "sql UPDATE"} <= names.keys()
    lines = [json.loads(line) for line in logs.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("trace_id") == spans[0].trace_id.hex()]
    assert {line.get("order_id") for line in told} == {"traced"}


async def waits(client: Client, order_id: str) -> bool:
    try:
        view = await client.get_workflow_handle(order_id).query("status")
    except Exception:  # noqa: BLE001 (it has not begun)
        return False
    return bool(view["stage"] == "awaiting_customer")


async def ended(client: Client, order_id: str) -> None:
    await client.get_workflow_handle(order_id, result_type=OrderOutcome).result()


async def has(collector: Collector, name: str, times: int) -> bool:
    return sum(each.name == name for each in collector.spans) >= times
