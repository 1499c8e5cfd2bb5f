"""Record the histories that tests/workflows/test_replay.py replays: every way in which a run can end.

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

from orders.models import OrderView, Stage
from orders.names import CHECK_INVENTORY, INDEX_PRODUCTS, PRODUCT_RECOMMENDATIONS, RECONCILE_ORDERS, VERIFY_ORDERS
from orders.parsing import parse_order, read_json
from orders.recommendations import RecommendationsOutcome, Source
from saga import Resolution
from sandbox.faults import Fault
from tests.support.shop import Shop, an_order, eventually, open_everything

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
    shop.hooks.fail("request_fulfillment", error, "after", workflow_id=order_id)
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
    shop.hooks.fail("void_payment", error, workflow_id=order_id)
    handle = await shop.start(_refused_by_the_warehouse(), order_id)
    await _until_stuck(handle)
    await handle.execute_update("resolve", Resolution(step="void_payment", action="retry", reason="looked at it"))
    await handle.result()
    return [order_id]


@scenario
async def notification_given_up(shop: Shop, order_id: str) -> list[str]:
    shop.world.faults.add(Fault(service="email", kind="status", status=503, times=None, order=order_id))
    handle = await shop.start(order_id=order_id)

    async def is_placed() -> bool:
        return await shop.status(order_id) == "processing"

    await eventually(is_placed, "the order is placed")
    await shop.advance(handle, timedelta(minutes=20))
    await handle.result()
    return [order_id]


@scenario
async def stock_is_low(shop: Shop, name: str) -> list[str]:
    await shop.set_stock(4)
    return [await _check_inventory(shop, name)]


@scenario
async def no_stock_is_low(shop: Shop, name: str) -> list[str]:
    await shop.pool.execute("UPDATE inventory SET quantity = reorder_level + 1")
    return [await _check_inventory(shop, name)]


@scenario
async def nobody_told_of_low_stock(shop: Shop, name: str) -> list[str]:
    await shop.set_stock(3)
    shop.world.faults.add(Fault(service="slack", kind="status", status=404))
    return [await _check_inventory(shop, name)]


@scenario
async def products_indexed(shop: Shop, name: str) -> list[str]:
    await shop.client.execute_workflow(INDEX_PRODUCTS, {}, id=name, task_queue=shop.task_queue)
    return [name]


@scenario
async def recommended_by_the_model(shop: Shop, name: str) -> list[str]:
    await _buy(shop, name)
    return [await _recommend(shop, name, Source.MODEL)]


@scenario
async def recommended_by_similarity(shop: Shop, name: str) -> list[str]:
    """After two answers that were of no use."""
    await _buy(shop, name)
    shop.world.openai.script("unknown_id", times=2)
    return [await _recommend(shop, name, Source.SIMILARITY)]


@scenario
async def recommended_while_the_model_is_out(shop: Shop, name: str) -> list[str]:
    await _buy(shop, name)
    shop.world.faults.add(Fault(service="openai", kind="status", status=401))
    return [await _recommend(shop, name, Source.SIMILARITY)]


@scenario
async def recommended_by_popularity(shop: Shop, name: str) -> list[str]:
    return [await _recommend(shop, name, Source.POPULAR)]


@scenario
async def recommended_to_nobody(shop: Shop, name: str) -> list[str]:
    handle = await shop.client.start_workflow(PRODUCT_RECOMMENDATIONS, {}, id=name, task_queue=shop.task_queue)
    await _to_the_end(handle)
    return [name]


@scenario
async def reconciled(shop: Shop, name: str) -> list[str]:
    """An order whose run is gone, and one that is parked."""
    await shop.set_stock(100)
    held = shop.hooks.hold("authorize_payment", "after", f"{name}-order")
    run = await shop.start(order_id=f"{name}-order")
    await held.reached.wait()
    await run.terminate()
    held.let_go()
    shop.hooks.fail("void_payment", ApplicationError("no", type="no", non_retryable=True), times=None)
    await _until_stuck(await shop.start(_refused_by_the_warehouse(), f"{name}-parked"))
    await shop.client.execute_workflow(RECONCILE_ORDERS, {}, id=name, task_queue=shop.task_queue)
    await _to_the_end(shop.client.get_workflow_handle(f"{name}-order"))
    return [name]


@scenario
async def verified(shop: Shop, name: str) -> list[str]:
    """One order whose stock somebody has changed by hand."""
    await shop.place(order_id=f"{name}-order")
    await shop.pool.execute("UPDATE inventory SET reserved = reserved + 1 WHERE product_id = '3'")
    await shop.client.execute_workflow(VERIFY_ORDERS, {}, id=name, task_queue=shop.task_queue)
    return [name]


async def _buy(shop: Shop, name: str) -> None:
    outcome = await shop.place(an_order(customerId=f"cus_{name}", items=[{"productId": "2", "quantity": 1}]))
    assert outcome.success, outcome


async def _recommend(shop: Shop, name: str, source: Source) -> str:
    customer = {"customerId": f"cus_{name}"}
    outcome = await shop.client.execute_workflow(
        PRODUCT_RECOMMENDATIONS, customer, id=name, task_queue=shop.task_queue, result_type=RecommendationsOutcome
    )
    assert outcome.source is source, outcome
    return name


async def _check_inventory(shop: Shop, name: str) -> str:
    await shop.client.execute_workflow(CHECK_INVENTORY, {}, id=name, task_queue=shop.task_queue)
    return name


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
    async with open_everything(notification_deadline_seconds=600, reconcile_after_seconds=0) as shop:
        for name, play in SCENARIOS.items():
            for workflow_id in await play(shop, name.replace("_", "-")):
                history = await shop.client.get_workflow_handle(workflow_id).fetch_history()
                kind = history.events[0].workflow_execution_started_event_attributes.workflow_type.name
                text = json.dumps(without_place(json.loads(history.to_json())), indent=1, sort_keys=True)
                (FOLDER / f"{name}.{kind}.json").write_text(text + "\n")
                print(f"{name}.{kind}: {len(history.events)} events")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(record())
    os._exit(0)  # see tests/conftest.py
