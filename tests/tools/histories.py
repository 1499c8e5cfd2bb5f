"""Record the histories that tests/workflows/test_replay.py replays: every way in which a run can end.

`make histories` records the scenarios that have no history yet, and keeps the others: they stand for the runs that are
under way in production. If the code of today cannot replay one, it records nothing. `make histories FORCE=1` records
all of them anew. docs/extending.md says when to do that.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import workflow
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer

from app.wiring import WORKFLOWS, open_worker
from config.temporal import plugin
from orders.models import OrderView, Stage, View
from orders.names import (
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    NOTIFY_SHIPMENT,
    PRODUCT_RECOMMENDATIONS,
    RECONCILE_ORDERS,
    VERIFY_ORDERS,
    notify_shipment_id,
)
from orders.parsing import parse_order, read_json
from orders.recommendations import RecommendationsOutcome, Source
from saga import Resolution
from sandbox.faults import Fault
from tests.support.shop import FREE, Shop, an_order, eventually, open_everything

FOLDER = Path(__file__).parent.parent / "histories"

Scenario = Callable[[Shop, str], Awaitable[list[str]]]
SCENARIOS: dict[str, Scenario] = {}

REFUSAL = """Nothing is recorded. The code of today cannot replay these histories:
{histories}
Such runs may be under way in production, and would be suspended by this code. Guard the change (docs/extending.md), or,
once no run of this kind is open: make histories FORCE=1"""

NOTHING_MISSING = (
    "Every scenario has a history that the code of today replays. make histories FORCE=1 records all anew."
)

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
async def placed_locally(shop: Shop, order_id: str) -> list[str]:
    """By a worker that tries steps inside the workflow task first; the warehouse's answer is lost once."""
    settings = shop.settings.model_copy(update={"step_execution": "local-first"})
    shop.world.faults.add(Fault(service="fulfillment", route="POST /orders", kind="reset_after"))
    task_queue = f"{shop.task_queue}-local-first"
    async with open_worker(settings, shop.client, task_queue=task_queue) as worker, worker:
        await replace(shop, task_queue=task_queue).place(order_id=order_id)
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
async def given_away(shop: Shop, order_id: str) -> list[str]:
    """An order that costs nothing has no payment."""
    await shop.place(FREE, order_id)
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
async def customer_told_of_a_parcel(shop: Shop, order_id: str) -> list[str]:
    await _ship_a_parcel(shop, order_id)
    notice = {"orderId": order_id, "shipmentId": "par_1"}
    workflow_id = notify_shipment_id(order_id, "par_1")
    await shop.client.execute_workflow(NOTIFY_SHIPMENT, notice, id=workflow_id, task_queue=shop.task_queue)
    return [workflow_id]


@scenario
async def nobody_to_tell_of_a_parcel(shop: Shop, order_id: str) -> list[str]:
    """Temporal no longer has the order's request."""
    await _ship_a_parcel(shop, order_id)
    await shop.pool.execute("UPDATE orders SET request_hash = 'of another request' WHERE id = $1", order_id)
    notice = {"orderId": order_id, "shipmentId": "par_1"}
    workflow_id = notify_shipment_id(order_id, "par_1")
    await shop.client.execute_workflow(NOTIFY_SHIPMENT, notice, id=workflow_id, task_queue=shop.task_queue)
    return [workflow_id]


@scenario
async def no_such_parcel(shop: Shop, order_id: str) -> list[str]:
    await shop.place(order_id=order_id)
    notice = {"orderId": order_id, "shipmentId": "par_9"}
    workflow_id = notify_shipment_id(order_id, "par_9")
    await shop.client.execute_workflow(NOTIFY_SHIPMENT, notice, id=workflow_id, task_queue=shop.task_queue)
    return [workflow_id]


async def _ship_a_parcel(shop: Shop, order_id: str) -> None:
    """A parcel that the web process would have kept."""
    await shop.place(order_id=order_id)
    await shop.pool.execute("UPDATE orders SET status = 'shipped' WHERE id = $1", order_id)
    await shop.pool.execute(
        "INSERT INTO shipments (order_id, id, carrier, tracking, shipped_at) VALUES ($1, 'par_1', 'UPS', '1Z', now())",
        order_id,
    )


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
async def refunded(shop: Shop, order_id: str) -> list[str]:
    """A unit that comes back, and what the order was charged for its shipping."""
    await shop.place(an_order(charges=[{"type": "shipping", "amount": 4.99}]), order_id)
    lines = [{"productId": "1", "quantity": 1, "restock": True}]
    outcome = await shop.refund(order_id, "r1", lines=lines, charges=[{"type": "shipping", "amount": 4.99}])
    assert outcome.refunded, outcome
    return [f"refund-order:{order_id}:r1"]


@scenario
async def refund_refused(shop: Shop, order_id: str) -> list[str]:
    await shop.refund(order_id, "r1")
    return [f"refund-order:{order_id}:r1"]


@scenario
async def refund_too_late(shop: Shop, order_id: str) -> list[str]:
    """A cancel was faster at Stripe: the claim is withdrawn."""
    await shop.place(order_id=order_id)
    held = shop.hooks.hold("make_refund")
    run = await shop.start_refund(order_id, "r1")
    await held.reached.wait()
    await shop.cancel(order_id)
    held.let_go()
    await run.result()
    return [f"refund-order:{order_id}:r1"]


@scenario
async def refund_parked_and_resolved(shop: Shop, order_id: str) -> list[str]:
    await shop.place(order_id=order_id)
    shop.hooks.fail("make_refund", ApplicationError("no", type="no", non_retryable=True), times=2)
    run = await shop.start_refund(order_id, "r1")
    for action in ("retry", "resolved"):
        await _until_stuck(run)
        await run.execute_update("resolve", Resolution(step="refund:r1", action=action, reason="looked at it"))
    await run.result()
    return [f"refund-order:{order_id}:r1"]


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


@scenario
async def paid_with_another_card(shop: Shop, order_id: str) -> list[str]:
    """The first card is declined, the second must be authenticated, the third pays."""
    settings = shop.settings.model_copy(update={"payment_retry_seconds": 600})
    task_queue = f"{shop.task_queue}-another-card"
    async with open_worker(settings, shop.client, task_queue=task_queue) as worker, worker:
        handle = await replace(shop, task_queue=task_queue).start(_declined(), order_id)
        await _until_stage(handle, Stage.AWAITING_PAYMENT)
        await handle.execute_update("submit")
        await handle.execute_update("pay", {"paymentMethodId": _authentication_required()["paymentMethodId"]})
        await handle.signal("payment-updated")
        await handle.execute_update("pay", {"paymentMethodId": "pm_card_visa"})
        await handle.result()
    return [order_id]


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


def _declined() -> dict[str, Any]:
    return an_order(paymentMethodId="pm_card_chargeDeclined")


def _refused_by_the_warehouse() -> dict[str, Any]:
    return an_order(shippingAddress=an_order()["shippingAddress"] | {"street": "1 Refuse Street"})


async def _waiting_for_customer(shop: Shop, order_id: str) -> WorkflowHandle[Any, Any]:
    handle = await shop.start(_authentication_required(), order_id)
    await _until_stage(handle, Stage.AWAITING_CUSTOMER)
    return handle


async def _until_stage(handle: WorkflowHandle[Any, Any], stage: Stage) -> None:
    async def reached() -> bool:
        view = await handle.query("status", result_type=OrderView)
        return view.stage is stage

    await eventually(reached, f"the run is {stage}")


async def _until_stuck(handle: WorkflowHandle[Any, Any]) -> None:
    async def stuck() -> bool:
        return bool((await handle.query("status", result_type=View)).parked)

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


async def replay(path: Path) -> None:
    """Replay a recorded history with the code of today.

    Raises:
        NondeterminismError: the code gives other commands.
        RuntimeError: the code fails otherwise.
    """
    text = path.read_text()
    workflow_id = json.loads(text)["events"][0]["workflowExecutionStartedEventAttributes"]["workflowId"]
    history = WorkflowHistory.from_json(workflow_id, text)
    await Replayer(workflows=WORKFLOWS, plugins=[plugin()]).replay_workflow(history)


async def broken_histories(folder: Path) -> list[str]:
    """The histories that the code of today cannot replay."""
    broken = []
    for path in sorted(folder.glob("*.json")):
        try:
            await replay(path)
        except (workflow.NondeterminismError, RuntimeError):
            broken.append(path.stem)
    return broken


async def record(shop: Shop, folder: Path, scenarios: Mapping[str, Scenario] = SCENARIOS) -> None:
    """Play every scenario that has no history, and write what its runs left behind."""
    for name, play in scenarios.items():
        if any(folder.glob(f"{name}.*.json")):
            continue
        for workflow_id in await play(shop, name.replace("_", "-")):
            history = await shop.client.get_workflow_handle(workflow_id).fetch_history()
            kind = history.events[0].workflow_execution_started_event_attributes.workflow_type.name
            text = json.dumps(without_place(json.loads(history.to_json())), indent=1, sort_keys=True)
            (folder / f"{name}.{kind}.json").write_text(text + "\n")
            print(f"{name}.{kind}: {len(history.events)} events")  # noqa: T201


async def prepare(folder: Path, *, force: bool) -> str | None:
    """Make the folder ready to be recorded into. The answer is why nothing may be recorded."""
    folder.mkdir(exist_ok=True)
    if force:
        for old in folder.glob("*.json"):
            old.unlink()
        return None
    if broken := await broken_histories(folder):
        return REFUSAL.format(histories="\n".join(f"  {name}" for name in broken))
    return None


async def main(*, force: bool) -> str | None:
    """Record what is missing, or everything. The answer is why nothing was recorded."""
    logging.disable(logging.CRITICAL)  # of failures that are meant
    refusal = await prepare(FOLDER, force=force)
    if refusal is None and all(any(FOLDER.glob(f"{name}.*.json")) for name in SCENARIOS):
        print(NOTHING_MISSING)  # noqa: T201
    elif refusal is None:
        async with open_everything(notification_deadline_seconds=600, reconcile_after_seconds=0) as shop:
            await record(shop, FOLDER)
    return refusal


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record the histories that the replay tests replay.")
    parser.add_argument("--force", action="store_true", help="record all of them anew")
    if why := asyncio.run(main(force=parser.parse_args().force)):
        print(why, file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(1 if why else 0)  # see tests/conftest.py
