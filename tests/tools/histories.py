"""Record the histories that tests/test_replay.py replays: every way in which an order or its cancelling can end.

`make histories` writes them anew. Do so when a workflow changes on purpose, in the same commit as the change, and only
once no run of the old shape is left in production.
"""

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from orders.intake import parse_order, read_json
from orders.models import OrderView, Stage
from sandbox.faults import Fault
from tests.servers import open_everything
from tests.shop import Shop, an_order, eventually
from workflows.saga import Resolution

FOLDER = Path(__file__).parent.parent / "histories"

Scenario = Callable[[Shop, str], Awaitable[list[str]]]
SCENARIOS: dict[str, Scenario] = {}

# What says where and by whom a history was recorded, and nothing about the order.
LOCAL = {"identity": "tests", "stackTrace": "", "workerIdentity": "tests"}


def scenario(record: Scenario) -> Scenario:
    SCENARIOS[record.__name__] = record
    return record


@scenario
async def placed(shop: Shop, order_id: str) -> list[str]:
    await shop.place(order_id=order_id)
    return [order_id]


@scenario
async def submitted(shop: Shop, order_id: str) -> list[str]:
    """Started by an update, as starter.py does."""
    handle = await shop.start(order_id=order_id)
    order = parse_order(order_id, read_json(json.dumps(an_order())))
    await handle.execute_update("submit", order.request_hash)
    await handle.result()
    return [order_id]


@scenario
async def invalid(shop: Shop, order_id: str) -> list[str]:
    await shop.place({"customerId": "cus_123"}, order_id=order_id)
    return [order_id]


@scenario
async def out_of_stock(shop: Shop, order_id: str) -> list[str]:
    await shop.place(an_order(items=[{"productId": "5", "quantity": 2}]), order_id=order_id)
    return [order_id]


@scenario
async def declined(shop: Shop, order_id: str) -> list[str]:
    await shop.place(an_order(paymentMethodId="pm_card_chargeDeclined"), order_id=order_id)
    return [order_id]


@scenario
async def authenticated(shop: Shop, order_id: str) -> list[str]:
    handle = await _waiting_for_customer(shop, order_id)
    shop.world.stripe.account.authenticate((await shop.row(order_id))["payment_intent_id"], succeeds=True)
    await handle.signal("payment-updated")
    await handle.result()
    return [order_id]


@scenario
async def never_authenticated(shop: Shop, order_id: str) -> list[str]:
    handle = await _waiting_for_customer(shop, order_id)
    await shop.advance(handle, timedelta(minutes=20))
    await handle.result()
    return [order_id]


@scenario
async def fulfillment_refused(shop: Shop, order_id: str) -> list[str]:
    await shop.place(_refused_by_the_warehouse(), order_id=order_id)
    return [order_id]


@scenario
async def technical_failure(shop: Shop, order_id: str) -> list[str]:
    error = ApplicationError("scripted", type="scripted", non_retryable=True)
    shop.stagehand.fail("request_fulfillment", error, "after", workflow_id=order_id)
    await _to_the_end(await shop.start(order_id=order_id))
    return [order_id]


@scenario
async def cancelled_by_operator(shop: Shop, order_id: str) -> list[str]:
    handle = await _waiting_for_customer(shop, order_id)
    await handle.cancel()
    await _to_the_end(handle)
    return [order_id]


@scenario
async def cancelled_in_flight(shop: Shop, order_id: str) -> list[str]:
    handle = await _waiting_for_customer(shop, order_id)
    await shop.cancel(order_id)
    await handle.result()
    return [order_id, f"cancel-order:{order_id}"]


@scenario
async def cancelled_after_completion(shop: Shop, order_id: str) -> list[str]:
    await shop.place(order_id=order_id)
    await shop.cancel(order_id)
    return [f"cancel-order:{order_id}"]


@scenario
async def cancelled_after_shipping(shop: Shop, order_id: str) -> list[str]:
    await shop.place(order_id=order_id)
    await shop.ship(order_id)
    await shop.cancel(order_id)
    return [f"cancel-order:{order_id}"]


@scenario
async def cancelled_when_terminated(shop: Shop, order_id: str) -> list[str]:
    handle = await _waiting_for_customer(shop, order_id)
    await handle.terminate()
    await shop.cancel(order_id)
    return [f"cancel-order:{order_id}"]


@scenario
async def unknown_to_cancel(shop: Shop, order_id: str) -> list[str]:
    await shop.cancel(order_id)
    return [f"cancel-order:{order_id}"]


@scenario
async def restarted(shop: Shop, order_id: str) -> list[str]:
    await (await _waiting_for_customer(shop, order_id)).terminate()
    handle = await shop.start(_authentication_required(), order_id)
    shop.world.stripe.account.authenticate((await shop.row(order_id))["payment_intent_id"], succeeds=True)
    await handle.signal("payment-updated")
    await handle.result()
    return [order_id]


@scenario
async def parked_and_resolved(shop: Shop, order_id: str) -> list[str]:
    error = ApplicationError("scripted", type="scripted", non_retryable=True)
    shop.stagehand.fail("void_payment", error, workflow_id=order_id)
    handle = await shop.start(_refused_by_the_warehouse(), order_id)
    await _until_stuck(handle)
    await handle.execute_update("resolve", Resolution(step="void_payment", action="retry", reason="looked at it"))
    await handle.result()
    return [order_id]


@scenario
async def notice_given_up(shop: Shop, order_id: str) -> list[str]:
    shop.world.faults.add(Fault(service="email", kind="status", status=503, times=None, order=order_id))
    handle = await shop.start(order_id=order_id)

    async def is_placed() -> bool:
        return await shop.status(order_id) == "processing"

    await eventually(is_placed, "the order is placed")
    await shop.advance(handle, timedelta(minutes=20))
    await handle.result()
    return [order_id]


def _authentication_required() -> dict[str, Any]:
    return an_order(paymentMethodId="pm_card_authenticationRequired")


def _refused_by_the_warehouse() -> dict[str, Any]:
    return an_order(shippingAddress=an_order()["shippingAddress"] | {"street": "1 Refuse Street"})


async def _waiting_for_customer(shop: Shop, order_id: str) -> WorkflowHandle[Any, Any]:
    handle = await shop.start(_authentication_required(), order_id)

    async def waits() -> bool:
        view = await handle.query("status", result_type=OrderView)
        return view.stage is Stage.AWAITING_CUSTOMER

    await eventually(waits, "the run waits for the customer")
    return handle


async def _until_stuck(handle: WorkflowHandle[Any, Any]) -> None:
    async def stuck() -> bool:
        return bool((await handle.query("status", result_type=OrderView)).stuck)

    await eventually(stuck, "the undo is parked")


async def _to_the_end(handle: WorkflowHandle[Any, Any]) -> None:
    try:
        await handle.result()
    except WorkflowFailureError:
        assert (await handle.describe()).status is not WorkflowExecutionStatus.RUNNING


def without_place(value: Any) -> Any:
    """A history that does not tell on which machine it was recorded."""
    if isinstance(value, dict):
        return {key: LOCAL.get(key, without_place(item)) for key, item in value.items()}
    return [without_place(item) for item in value] if isinstance(value, list) else value


async def record() -> None:
    """Play every scenario in one shop and write what its runs left behind."""
    logging.disable(logging.WARNING)  # of failures that are meant
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.json"):
        old.unlink()
    async with open_everything(notice_deadline_seconds=600) as shop:
        for name, play in SCENARIOS.items():
            for workflow_id in await play(shop, name.replace("_", "-")):
                history = await shop.client.get_workflow_handle(workflow_id).fetch_history()
                kind = "cancel-order" if workflow_id.startswith("cancel-order:") else "process-order"
                text = json.dumps(without_place(json.loads(history.to_json())), indent=1, sort_keys=True)
                (FOLDER / f"{name}.{kind}.json").write_text(text + "\n")
                print(f"{name}.{kind}: {len(history.events)} events")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(record())
    os._exit(0)  # see tests/conftest.py
