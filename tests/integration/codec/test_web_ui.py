"""The real Web UI shows encrypted payloads decrypted, and the `temporal` command reads and sends them."""

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Final

import pytest
from temporalio.client import Client

from client.orders import submit_order
from config.links import workflow_link
from config.payload_keys import parse_payload_keys
from config.temporal import plugin
from deploy.local.postgres import temporary_folder
from deploy.local.process import StackError, binary
from deploy.local.stack import Ports, Stack
from orders.names import PROCESS_ORDER, TASK_QUEUE
from tests.support.shop import an_order
from tests.tools.chromium import browser, open_tab

pytestmark = pytest.mark.prove

KEYS: Final = f"k1:{base64.b64encode(bytes(range(32))).decode()}"
ADDRESS: Final = "canary@canary.example"
BEGINNING: Final = base64.b64encode(b'{"customerId": "cus_1').decode()  # the command prints payloads in base64


async def temporal(*arguments: str) -> str:
    """What the command prints."""
    process = await asyncio.create_subprocess_exec(
        binary("temporal"), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return out.decode()


@pytest.mark.timeout(240)
async def test_operators_read_what_is_encrypted() -> None:
    """By the address that `make up` gives to the Web UI, in a browser; and by that of the command."""
    try:
        browser()
    except StackError as missing:
        pytest.skip(str(missing))
    with temporary_folder() as folder:
        stack = Stack(folder / "data", Ports.free(), fast=True, sealed=True)
        environment = stack.environment(os.environ | {"PAYLOAD_KEYS": KEYS})
        async with stack.running(), stack.programs(environment), open_tab() as tab:
            client = await Client.connect(stack.temporal.address, plugins=[plugin(keys=parse_payload_keys(KEYS))])
            assert (await submit_order(client, "order-1", an_order(customerEmail=ADDRESS))).success
            await client.get_workflow_handle("order-1").result()

            at = f"--address={stack.temporal.address}"
            codec = (
                f"--codec-endpoint=http://127.0.0.1:{stack.ports.codec}",
                f"--codec-auth=Bearer {stack.codec_token}",
            )
            show = ("workflow", "show", at, "--workflow-id=order-1", "--output=json")
            hidden, shown = await temporal(*show), await temporal(*show, *codec)
            assert (BEGINNING in shown, BEGINNING in hidden) == (True, False)
            payload = ("--input", json.dumps(an_order()))
            start = ("workflow", "start", at, f"--type={PROCESS_ORDER}", f"--task-queue={TASK_QUEUE}", *payload)
            await temporal(*start, "--workflow-id=order-2", *codec)
            assert (await client.get_workflow_handle("order-2").result())["success"]
            first = await anext(client.get_workflow_handle("order-2").fetch_history_events())
            assert b"123 Main St" not in first.SerializeToString()

            await tab.resize(1500, 1180)
            await tab.go(f"{workflow_link(stack.temporal.ui_url, client.namespace, 'order-1')}")
            await tab.wait_for(f"document.body.innerText.includes({ADDRESS!r})")
            if taken := os.environ.get("SCREENSHOT"):
                await tab.take(Path(taken))
