"""The product itself, in each way of execution that its settings offer."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from app.wiring import open_worker
from benchmarks.arms.arm import Arm, Entrance, Payload, Place, Post
from client.orders import submit_order
from config.settings import Settings
from config.temporal import connect


@asynccontextmanager
async def work(settings: Settings, post: Post) -> AsyncIterator[None]:
    client = await connect(sandbox=settings.workflow_sandbox)
    async with open_worker(settings, client, task_queue=post.task_queue) as worker, worker:
        yield


def client(entrance: Entrance) -> Place:
    async def place(order_id: str, payload: Payload, answered: Callable[[], None]) -> None:
        outcome = await submit_order(entrance.client, order_id, payload, task_queue=entrance.task_queue)
        if not outcome.success:
            raise RuntimeError(f"the product refused an order: {outcome}")
        answered()
        await entrance.client.get_workflow_handle(order_id).result()

    return place


def product(name: str, title: str, settings: Mapping[str, str]) -> Arm:
    return Arm(name=name, title=title, engine="temporal", worker=work, client=client, settings=settings)


LOCAL_FIRST: Final = {"STEP_EXECUTION": "local-first"}

PRODUCT: Final = product("product", "the product as it is by default", {})
PRODUCT_LOCAL: Final = product("product-local", "the product, STEP_EXECUTION=local-first", LOCAL_FIRST)
PRODUCT_FAST: Final = product(
    "product-fast",
    "the product, STEP_EXECUTION=local-first and WORKFLOW_SANDBOX=false",
    LOCAL_FIRST | {"WORKFLOW_SANDBOX": "false"},
)
