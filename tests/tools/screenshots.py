"""The pictures in docs/images/, taken from the real Web UI and sandbox by headless Chromium: `make screenshots`."""

import asyncio
import os
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from temporalio.client import Client

from client.orders import cancel_order, refund_order, submit_order
from config.links import workflow_link
from config.temporal import plugin
from deploy.local.postgres import temporary_folder
from deploy.local.stack import Ports, Stack
from orders.names import cancel_order_id, refund_order_id
from tests.support.shop import an_order
from tests.tools.chromium import Tab, browser, open_tab

IMAGES: Final = Path(__file__).parent.parent.parent / "docs" / "images"
REFUSED: Final = {"shippingAddress": an_order()["shippingAddress"] | {"street": "1 Refuse Street"}}
DECLINED: Final = {"paymentMethodId": "pm_card_chargeDeclined"}

# What happened last in the run of each picture.
LAST: Final = {
    "placed": "track_order",
    "refused": "send_email",
    "cancelled": "send_email",
    "parked": "post_alert",
    "refunded": "send_email",
}

# The columns of the list of runs, as the Web UI keeps them in the browser: docs/operating.md says how to choose them.
COLUMNS: Final = """
    const columns = ["Workflow ID", "Type", "OrderStage", "OrderOutcome", "NeedsAttention", "Status", "Start"];
    const shown = columns.map(label => ({label, pinned: label === "Workflow ID"}));
    localStorage.setItem("namespace-workflow-table-columns", JSON.stringify({default: shown}));
"""


async def place_orders(client: Client) -> None:
    """An order for each ending that a picture shows; the last one is parked, because Stripe refuses its refund."""
    await submit_order(client, "order-1001", an_order())
    await submit_order(client, "order-1002", an_order(**REFUSED))
    await submit_order(client, "order-1003", an_order(**DECLINED))
    await submit_order(client, "order-1006", an_order())
    back = {"lines": [{"productId": "1", "quantity": 1, "restock": True}], "customerEmail": "customer@example.com"}
    await refund_order(client, {"orderId": "order-1006", "refundId": "return-1", **back})
    for order_id in ("order-1004", "order-1005"):
        await submit_order(client, order_id, an_order())
        await cancel_order(client, order_id, "customer@example.com")


async def take_run(tab: Tab, stack: Stack, client: Client, name: str, workflow_id: str) -> None:
    """The timeline of the workflow's latest run, once it shows what happened last."""
    run = await client.get_workflow_handle(workflow_id).describe()
    link = workflow_link(stack.temporal.ui_url, client.namespace, workflow_id, run.run_id)
    await take(tab, link.replace("/history", "/timeline"), name, LAST[name])


async def take(tab: Tab, url: str, name: str, text: str) -> None:
    """A picture of a page, once it shows a text."""
    await tab.go(url)
    await tab.wait_for(f"document.body.innerText.includes({text!r})")
    await tab.take(IMAGES / f"{name}.png")
    Console().print(f"docs/images/{name}.png")


async def main() -> None:
    browser()
    with temporary_folder() as folder:
        stack = Stack(folder / "data", Ports.free(), fast=True)
        async with stack.running(), stack.programs(stack.environment(os.environ)), open_tab() as tab:
            client = await Client.connect(stack.temporal.address, plugins=[plugin()])
            async with httpx.AsyncClient(base_url=stack.sandbox.url, trust_env=False) as sandbox:
                fault = {"scenario": "refund-refused", "order": "order-1005"}
                (await sandbox.post("/actions/break", data=fault, follow_redirects=True)).raise_for_status()
            await place_orders(client)

            await tab.resize(1500, 1180)
            await take_run(tab, stack, client, "placed", "order-1001")
            await take_run(tab, stack, client, "refused", "order-1002")
            await take_run(tab, stack, client, "cancelled", cancel_order_id("order-1004"))
            await take_run(tab, stack, client, "parked", cancel_order_id("order-1005"))
            await take_run(tab, stack, client, "refunded", refund_order_id("order-1006", "return-1"))
            await tab.resize(1500, 760)
            await tab.look(COLUMNS)
            await take(tab, f"{stack.temporal.ui_url}/namespaces/{client.namespace}/workflows", "runs", "order-1001")

            await tab.resize(1400, 1250)
            await tab.go(f"{stack.sandbox.url}/?open=order-1005")
            await tab.look("document.querySelector('#order-order-1005 .request:has(.tag)').open = true")
            await tab.take(IMAGES / "sandbox.png")
            Console().print("docs/images/sandbox.png")


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # see tests/conftest.py
