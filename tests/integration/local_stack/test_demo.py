"""The demo, on a local stack."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from deploy.local.postgres import temporary_folder
from deploy.local.process import ROOT
from deploy.local.stack import DEMO_SETTINGS, Ports, Stack

DEADLINE = 100


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


async def demo(environment: dict[str, str]) -> tuple[int, str, str]:
    """Run `starter.py demo --json`; return its exit status, its JSON and what it shows operators."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "starter.py", "demo", "--json"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out.decode(), err.decode()


@pytest.mark.prove
async def test_the_demo_twice_on_the_same_data(folder: Path) -> None:
    """Every order ends as expected, each has its link, and all invariants hold; in a second run too."""
    stack = Stack(folder, Ports.free(), fast=True)
    environment = stack.environment({"PATH": os.environ["PATH"], **DEMO_SETTINGS})
    async with stack.running(), stack.programs(environment):
        for _ in range(2):
            status, out, shown = await demo(environment)
            report = json.loads(out)

            assert status == 0, shown
            assert report["passed"]
            assert [order["got"] for order in report["orders"]] == [order["expected"] for order in report["orders"]]
            assert len({order["orderId"] for order in report["orders"]}) == len(report["orders"])
            assert all(order["link"] in shown for order in report["orders"])
            assert report["violations"] == []
            assert "✗" not in shown

        deliveries = [json.loads(line) for line in (stack.logs / "webhooks.log").read_text().splitlines()]
        applied = [each["type"] for each in deliveries if each.get("outcome") == "applied"]
        assert "payment_intent.amount_capturable_updated" in applied


async def test_the_demo_runs_on_the_sandbox_only(temporal: WorkflowEnvironment) -> None:
    """With a Stripe key that is not the sandbox's the demo places no order."""
    address = temporal.client.service_client.config.target_host
    environment = {"PATH": os.environ["PATH"], "STRIPE_SECRET_KEY": "sk_test_own", "TEMPORAL_ADDRESS": address}
    status, _, said = await demo(environment)
    assert (status, said) == (2, "STRIPE_SECRET_KEY: the demo runs on the sandbox only; unset this key\n")
