"""The pictures in docs/images/, taken from the real Web UI by headless Chromium: `make screenshots`."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from temporalio.client import Client, WorkflowHandle

from config.links import workflow_link
from config.temporal import plugin
from deploy.local.postgres import temporary_folder
from deploy.local.process import Command, StackError, run
from deploy.local.stack import Ports, Stack
from orders.names import PROCESS_ORDER, TASK_QUEUE
from tests.support.shop import an_order

IMAGES: Final = Path(__file__).parent.parent.parent / "docs" / "images"
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
SIZE: Final = "1500,1180"


def browser() -> str:
    """Chromium by any of its names; CHROMIUM names another.

    Raises:
        StackError: there is none.
    """
    found = os.environ.get("CHROMIUM") or next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise StackError("Chromium is missing: install it, or name it with CHROMIUM=/path/to/it.")
    return found


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


async def main() -> None:
    browser()
    with temporary_folder() as folder:
        stack = Stack(folder / "data", Ports.free(), fast=True)
        async with stack.running(), stack.worker(stack.environment(os.environ)):
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


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)  # see tests/conftest.py
