"""The pictures in docs/images/, taken from the real Web UI and sandbox by headless Chromium: `make screenshots`."""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from temporalio.client import Client, WorkflowHandle

from config.links import workflow_link
from config.temporal import plugin
from deploy.local.postgres import temporary_folder
from deploy.local.process import Command, run
from deploy.local.stack import Ports, Stack
from orders.names import CANCEL_ORDER, PROCESS_ORDER, TASK_QUEUE, cancel_order_id
from tests.support.shop import an_order, eventually
from tests.tools.chromium import browser, open_tab

IMAGES: Final = Path(__file__).parent.parent.parent / "docs" / "images"
SIZE: Final = "1500,1180"


async def take(url: str, image: Path, logs: Path) -> None:
    """A picture of a page, after giving it time to load."""
    image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        await run(
            Command(
                name="Chromium",
                argv=(
                    browser(),
                    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
                    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                    *(f"--user-data-dir={profile}", f"--window-size={SIZE}", "--virtual-time-budget=15000"),
                    *(f"--screenshot={image}", url),
                ),
                log=logs / "chromium.log",
            )
        )


async def _place(client: Client, order_id: str, **changes: Any) -> WorkflowHandle[Any, Any]:
    handle = await client.start_workflow(PROCESS_ORDER, an_order(**changes), id=order_id, task_queue=TASK_QUEUE)
    await handle.result()
    return handle


async def _take_sandbox(client: Client, url: str, order_id: str) -> None:
    """The sandbox's page with a paid order whose refund is refused, open at that request."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await http.post("/actions/break", data={"scenario": "refund-refused", "order": order_id})
        cancel, payload = cancel_order_id(order_id), {"orderId": order_id, "customerEmail": "customer@example.com"}
        await client.start_workflow(CANCEL_ORDER, payload, id=cancel, task_queue=TASK_QUEUE)

        async def is_alerted() -> bool:
            return bool((await http.get("/_sandbox/records")).json()["alerts"])

        await eventually(is_alerted, "operators are alerted about the refused refund")
        await http.post("/actions/break", data={"scenario": "warehouse-down", "times": "3"})
    async with open_tab() as tab:
        await tab.resize(1400, 1250)
        await tab.go(f"{url}/?open={order_id}")
        await tab.look(f"document.querySelector('#order-{order_id} .request:has(.tag)').open = true")
        await tab.take(IMAGES / "sandbox.png")


async def main() -> None:
    browser()
    with temporary_folder() as folder:
        stack = Stack(folder / "data", Ports.free(), fast=True)
        async with stack.running(), stack.programs(stack.environment(os.environ)):
            client = await Client.connect(stack.temporal.address, plugins=[plugin()])
            refused = an_order()["shippingAddress"] | {"street": "1 Refuse Street"}
            runs = {
                "completed": await _place(client, "order-1001"),
                "compensated": await _place(client, "order-1002", shippingAddress=refused),
            }
            for name, handle in runs.items():
                link = workflow_link(stack.temporal.ui_url, client.namespace, handle.id, handle.result_run_id)
                await take(link.replace("/history", "/timeline"), IMAGES / f"{name}.png", stack.logs)
                Console().print(f"docs/images/{name}.png")
            await _take_sandbox(client, stack.sandbox.url, "order-1001")
            Console().print("docs/images/sandbox.png")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # see tests/conftest.py
