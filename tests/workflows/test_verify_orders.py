"""The invariants in operation: checked against Stripe, the warehouse and Temporal, and reported to operators."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleIntervalSpec,
    ScheduleSpec,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from activities import verification
from audit.evidence import OpenRun, read_runs
from audit.invariants import IN_OPERATION
from client.schedules import pause_schedule
from orders.models import Stage
from orders.names import (
    CHECK_INVENTORY,
    INDEX_PRODUCTS,
    NEEDS_ATTENTION,
    PROCESS_ORDER,
    RECONCILE_ORDERS,
    VERIFY_ORDERS,
)
from orders.verification import VerifyReport, Violation
from sandbox.faults import Fault
from tests.support.scenarios import REFUSED_ADDRESS, final_error, until_attempts, until_stage, until_stuck
from tests.support.schedules import passing_schedules
from tests.support.shop import FREE, Shop, an_order, eventually
from workflows.verify_orders import MAX_OUTAGES, PAGE

NEEDS_3DS = an_order(paymentMethodId="pm_card_authenticationRequired")


async def test_a_shop_in_order(shop: Shop) -> None:
    """Orders of every kind, settled and under way; no alert is sent."""
    await shop.place(order_id="placed")
    await shop.place(FREE, "free")
    await shop.place(FREE, "free-returned")
    await shop.cancel("free-returned")
    await shop.place(an_order(items=[{"productId": "5", "quantity": 2}]), "too-many")
    await shop.place(an_order(paymentMethodId="pm_card_chargeDeclined"), "declined")
    await shop.place(an_order(shippingAddress=REFUSED_ADDRESS), "refused")
    await shop.place(an_order(paymentMethodId="pm_card_pendingRefund"), "returned")
    await shop.cancel("returned")
    shop.hooks.fail("void_payment", final_error(), workflow_id="parked")
    await until_stuck(await shop.start(an_order(shippingAddress=REFUSED_ADDRESS), "parked"))
    await until_stage(await shop.start(NEEDS_3DS, "authenticating"), Stage.AWAITING_CUSTOMER)
    await age(shop)
    alerts = len(shop.world.inbox.alerts)
    run = await start(shop)

    assert await report_of(run) == VerifyReport(
        checked=9, count=0, violations=(), rules={rule.__name__: rule.__doc__ or "" for rule in IN_OPERATION}
    )
    assert len(shop.world.inbox.alerts) == alerts
    assert await attention(run) is None


async def test_violations_are_named_and_told_once_a_day(shop: Shop) -> None:
    """Of an order by what Stripe and the warehouse say of it, and of the stock; the run is marked each time."""
    await shop.place(order_id="unpaid")
    await shop.place(order_id="fine")
    payment = (await shop.row("unpaid"))["payment_intent_id"]
    shop.world.stripe.account.intents[payment].status = "requires_capture"
    shop.world.stripe.account.intents[payment].amount_received = 0
    await shop.pool.execute("UPDATE inventory SET reserved = 1 WHERE product_id = '2'")
    run = await start(shop)
    report = await report_of(run)

    stock = "40 available, 1 reserved while orders hold 0, 0 sold while orders keep 0"
    assert report.violations == (
        Violation(subject="product 2", rule="stock_is_what_orders_say", what=stock),
        Violation(subject="unpaid", rule="paid_orders_are_whole", what="processing, but nothing is charged"),
    )
    assert (report.checked, report.count, report.alerted, report.unverified) == (2, 2, 2, ())
    assert await attention(run) == VERIFY_ORDERS
    told = [alert.text for alert in shop.world.inbox.alerts]
    assert [any(violation.text in text for text in told) for violation in report.violations] == [True, True]

    again = await start(shop)
    assert await report_of(again) == report.model_copy(update={"alerted": 0})
    assert await attention(again) == VERIFY_ORDERS
    await shop.pool.execute("UPDATE reminders SET at = at - interval '25 hours'")
    assert (await report_of(await start(shop))).alerted == 2


@pytest.mark.prove
async def test_each_external_services_is_asked(shop: Shop) -> None:
    """The shipment at the warehouse, the refund at Stripe, the run at Temporal, the events of the row."""
    for order_id in ("shipped", "refund-failed", "unknown-payment", "unrecorded"):
        await shop.place(an_order(paymentMethodId="pm_card_refundFail"), order_id)
    for order_id in ("shipped", "refund-failed"):
        await shop.cancel(order_id)
    run = await shop.start(NEEDS_3DS, "lost")
    await until_stage(run, Stage.AWAITING_CUSTOMER)
    await run.terminate()
    for refund in shop.world.stripe.account.refunds.values():
        if shop.world.stripe.account.intents[refund.payment_intent].metadata["order_id"] == "shipped":
            refund.succeed()
    shipments = shop.world.fulfillment.shipments
    shipments["shipped"] = shipments["shipped"].model_copy(update={"status": "shipped"})
    await shop.pool.execute("UPDATE orders SET payment_intent_id = 'pi_unknown' WHERE id = 'unknown-payment'")
    await shop.pool.execute("UPDATE orders SET status = 'shipped' WHERE id = 'unrecorded'")
    await shop.pool.execute("INSERT INTO shipments (order_id, id, shipped_at) VALUES ('unrecorded', 'par_1', now())")
    assert {each.subject for each in (await verify(shop)).violations} >= {"shipped"}
    assert "lost" not in {each.subject for each in (await verify(shop)).violations}, "it is young"
    await age(shop)

    assert {(each.subject, each.rule) for each in (await verify(shop)).violations} == {
        ("shipped", "closed_orders_are_empty"),
        ("refund-failed", "closed_orders_are_empty"),
        ("unknown-payment", "paid_orders_are_whole"),
        ("unrecorded", "every_change_is_recorded"),
        ("lost", "every_order_is_driven"),
    }


async def test_an_order_whose_email_is_under_way_is_whole(shop: Shop) -> None:
    """Until its run ends the confirmation may still be sent."""
    shop.world.faults.add(Fault(service="email", kind="status", times=None))
    run = await shop.start(order_id="o1")
    await eventually(lambda: is_paid(shop, "o1"), "the order is paid")
    assert not (await verify(shop)).violations
    await run.terminate()
    assert [each.what for each in (await verify(shop)).violations] == [
        "processing, but its confirmation is not recorded"
    ]


@pytest.mark.prove
async def test_an_order_that_moves_meanwhile_is_left_to_the_next_run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the external services answered may belong to either of its states."""
    await shop.place(order_id="o1")
    await shop.place(order_id="o2")

    async def cancel_and_read(client: Client, *of: Any) -> tuple[OpenRun, ...]:
        await shop.cancel("o1")
        return await read_runs(client, *of)

    monkeypatch.setattr(verification, "read_runs", cancel_and_read)
    report = await verify(shop)
    assert (report.checked, report.violations, report.unverified) == (1, (), ())
    assert (await verify(shop)).checked == 2


@pytest.mark.prove
async def test_an_outage_of_stripe_is_no_violation(shop: Shop) -> None:
    """The report says what could not be checked, and why; the rest is checked."""
    await shop.place(order_id="o1")
    await shop.pool.execute("UPDATE inventory SET reserved = 1 WHERE product_id = '2'")
    shop.world.faults.add(Fault(service="stripe", kind="status", times=None))
    run = await start(shop)
    await until_attempts(shop, "check_orders", 1)
    await shop.advance(run, timedelta(minutes=6))
    report = await report_of(run)

    assert [each.subject for each in report.violations] == ["product 2"]
    assert (report.checked, len(report.unverified)) == (0, 1)
    assert report.unverified[0].startswith("the orders o1 to o1: stripe")
    shop.world.faults.clear()
    assert (await verify(shop)).unverified == ()


REFUSAL: dict[str, Any] = {"error": {"type": "invalid_request_error", "code": "parameter_invalid", "param": "intent"}}


@pytest.mark.prove
@pytest.mark.parametrize(
    ("status", "body", "error"),
    [(503, None, "stripe: scripted: This failure was asked for."), (400, REFUSAL, "stripe: parameter_invalid intent")],
    ids=["an outage of its own", "a refusal"],
)
async def test_an_order_that_cannot_be_checked_stops_no_other_one(
    shop: Shop, status: int, body: Any, error: str
) -> None:
    """The report names it; what is wrong with another order of its page is found."""
    for order_id in ("odd", "unpaid"):
        await shop.place(order_id=order_id)
    odd, unpaid = [(await shop.row(order_id))["payment_intent_id"] for order_id in ("odd", "unpaid")]
    shop.world.stripe.account.intents[unpaid].amount_received = 0
    route = f"GET */{odd}"
    shop.world.faults.add(Fault(service="stripe", route=route, kind="status", status=status, body=body, times=None))
    report = await verify(shop)

    assert (report.checked, report.unverified) == (1, (f"the order odd: {error}",))
    assert [each.subject for each in report.violations] == ["unpaid"]


async def test_a_long_outage_is_not_waited_for_on_every_page(shop: Shop) -> None:
    """After some pages in a row the rest is not tried; the report says all of it."""
    pages = MAX_OUTAGES + 2
    await shop.pool.execute(
        """INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms)
        SELECT 'o' || n, 'cus_1', '', 'rejected', 'usd', 'manual', '{}' FROM generate_series(1, $1) n""",
        pages * PAGE,
    )
    shop.hooks.fail("check_orders", final_error(), times=None)
    report = await verify(shop)
    assert len(report.unverified) == MAX_OUTAGES + 1
    assert report.unverified[-1].startswith("all other orders")
    assert len([name for _, name in shop.hooks.calls if name == "check_orders"]) == MAX_OUTAGES


@pytest.mark.prove
async def test_more_than_fits_into_one_answer(shop: Shop) -> None:
    """The first hundred are listed and alerted, the others are counted; one alert says that there are more."""
    await shop.pool.execute(
        """INSERT INTO orders (id, customer_id, request_hash, status, currency, capture_mode, terms)
        SELECT 'o' || n, 'cus_1', '', 'rejected', 'usd', 'manual', '{}' FROM generate_series(1, 105) n"""
    )
    report = await verify(shop)
    assert (report.checked, report.count, len(report.violations), report.alerted) == (105, 105, 100, 101)
    assert "broken 105 times" in shop.world.inbox.alerts[-1].text


@workflow.defn(name=PROCESS_ORDER, sandboxed=False)
class Broken:
    """Its code cannot go on, whatever is tried."""

    @workflow.run
    async def run(self) -> None:
        raise RuntimeError("a bug")


@pytest.fixture
async def broken_run(shop: Shop) -> AsyncIterator[str]:
    queue = f"broken-{uuid.uuid4().hex[:8]}"
    async with Worker(shop.client, task_queue=queue, workflows=[Broken]):
        run = await shop.client.start_workflow(PROCESS_ORDER, id=f"broken-{uuid.uuid4().hex[:8]}", task_queue=queue)
        yield run.id
        await run.terminate()


async def test_a_run_whose_workflow_task_fails_is_seen(shop: Shop, broken_run: str) -> None:
    """As Temporal tells it of the run itself."""

    async def failed() -> bool:
        [run] = await read_runs(shop.client, [broken_run])
        return run.attempt > 1

    await eventually(failed, "its workflow task is tried again")


@pytest.mark.parametrize("payload", [{"orderId": "o1"}, "text", 5])
async def test_it_takes_no_input(shop: Shop, payload: Any) -> None:
    """An input that names one order is refused: the workflow takes none."""
    with pytest.raises(WorkflowFailureError) as failed:
        await (await start(shop, payload)).result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "InvalidInput"


# ------------------------------------------------------------------------------------------------------------- helpers


async def start(shop: Shop, *payload: Any) -> WorkflowHandle[Any, Any]:
    return await shop.client.start_workflow(
        VERIFY_ORDERS, args=payload, id=f"verify-{uuid.uuid4().hex[:8]}", task_queue=shop.task_queue
    )


@pytest.mark.prove
async def test_a_schedule_whose_runs_hang(shop: Shop) -> None:
    """It is reported after three of its intervals. One whose runs succeed is not, nor one that is paused."""
    async with passing_schedules(shop.client):
        await make_schedule(shop, RECONCILE_ORDERS, seconds=3, task_queue=shop.task_queue)
        await make_schedule(shop, INDEX_PRODUCTS, seconds=1, task_queue="nobody")
        await pause_schedule(shop.client, INDEX_PRODUCTS, "stock-taking")
        await make_schedule(shop, CHECK_INVENTORY, seconds=1, task_queue="nobody")
        await asyncio.sleep(10)
        [violation] = (await verify(shop)).violations

    assert (violation.subject, violation.rule) == (f"schedule {CHECK_INVENTORY}", "every_schedule_succeeds")
    assert violation.what.endswith("its last run: running")
    assert any(violation.text in alert.text for alert in shop.world.inbox.alerts)


async def make_schedule(shop: Shop, workflow: str, *, seconds: int, task_queue: str) -> None:
    action = ScheduleActionStartWorkflow(workflow, id=workflow, task_queue=task_queue)
    spec = ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=seconds))])
    await shop.client.create_schedule(workflow, Schedule(action=action, spec=spec))


async def report_of(run: WorkflowHandle[Any, Any]) -> VerifyReport:
    return VerifyReport.model_validate(await run.result())


async def verify(shop: Shop) -> VerifyReport:
    return await report_of(await start(shop))


async def attention(run: WorkflowHandle[Any, Any]) -> str | None:
    return (await run.describe()).typed_search_attributes.get(NEEDS_ATTENTION)


async def age(shop: Shop) -> None:
    """All orders are a day old."""
    await shop.pool.execute("UPDATE orders SET created_at = created_at - interval '1 day'")


async def is_paid(shop: Shop, order_id: str) -> bool:
    return await shop.status(order_id) == "processing"
