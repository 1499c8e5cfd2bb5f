"""The same order id started again: after a terminate, a reset, by a foreign client's policy, with another payload."""

from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from client.resolutions import resolve
from gateways.worker_versions import describe_versioned, start_again
from orders.models import CancelOutcome, OrderOutcome
from orders.names import cancel_order_id
from saga import Resolution
from tests.support.activity_hooks import Moment
from tests.support.invariants import assert_invariants
from tests.support.sample import before_and_after, one_in
from tests.support.scenarios import until_stuck
from tests.support.shop import Payload, Shop, an_order, eventually, new_order_id
from workflows.process_order import ProcessOrder

O = "o1"  # noqa: E741 (the one order of each test)

OTHER = an_order(items=[{"productId": "2", "quantity": 1}])
NEEDS_3DS = an_order(paymentMethodId="pm_card_authenticationRequired")
REFUSED = an_order(shippingAddress=an_order()["shippingAddress"] | {"street": "1 Refuse Street"})
DECLINED = an_order(paymentMethodId="pm_card_chargeDeclined")

FORWARD = ("reserve_stock", "authorize_payment", "request_fulfillment", "capture_payment", "finalize_order")
BACKWARD = ("claim_undo", "cancel_fulfillment", "void_payment", "release_stock")
STAGES = before_and_after(FORWARD)
UNDOS = before_and_after(BACKWARD)


@pytest.mark.parametrize(("at", "moment"), [*STAGES, ("send_email", "before"), ("track_order", "after")])
async def test_terminated_and_started_again(shop: Shop, at: str, moment: Moment) -> None:
    """The second run goes on where the row says, charges once, and the late attempt changes nothing."""
    held = shop.hooks.hold(at, moment, O)
    first = await shop.start(order_id=O)
    await held.reached.wait()
    await first.terminate()
    outcome = await shop.place(order_id=O)
    held.let_go()

    assert outcome.success
    await check_placed(shop)


@pytest.mark.parametrize(("at", "moment"), UNDOS)
async def test_terminated_in_its_undo_and_started_again(shop: Shop, at: str, moment: Moment) -> None:
    """The second run finishes the undo and answers for the same reason."""
    held = shop.hooks.hold(at, moment, O)
    first = await shop.start(REFUSED, O)
    await held.reached.wait()
    await first.terminate()
    outcome = await shop.place(REFUSED, O)
    held.let_go()

    assert outcome.error_code == "fulfillment_refused"
    assert await shop.status(O) == "rejected"
    assert await shop.stock() == (100, 0)
    await assert_invariants(shop, O)


async def test_terminated_while_the_customer_authenticates(shop: Shop) -> None:
    """The second run waits for the same PaymentIntent."""
    first = await shop.start(NEEDS_3DS, O)
    await waits_for_the_customer(first)
    await first.terminate()
    second = await shop.start(NEEDS_3DS, O)
    await waits_for_the_customer(second)
    shop.world.stripe.account.authenticate((await shop.row(O))["payment_intent_id"], succeeds=True)
    await second.signal("payment-updated")

    assert (await second.result()).success
    await check_placed(shop)


@pytest.mark.parametrize("at", ["reserve_stock", "authorize_payment", "request_fulfillment", "capture_payment"])
@pytest.mark.parametrize("payload", one_in(2, [OTHER, an_order()]), ids=["other payload", "same payload"])
async def test_a_foreign_client_terminates_what_runs(shop: Shop, at: str, payload: Payload) -> None:
    """TERMINATE_EXISTING: the same payload goes on, another one is refused and the first stands."""
    held = shop.hooks.hold(at, "after", O)
    await shop.start(order_id=O)
    await held.reached.wait()
    outcome = await shop.place(payload, O, id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING)
    held.let_go()

    if payload == OTHER:
        assert outcome.error_code == "order_id_conflict"
        outcome = await shop.place(order_id=O)
    assert outcome.success
    await check_placed(shop)


@pytest.mark.prove
@pytest.mark.parametrize("after", ["placed", "rejected", "cancelled"])
async def test_another_payload_is_refused_once_the_first_is_settled(shop: Shop, after: str) -> None:
    """The id belongs to the first payload for ever."""
    first = await shop.place(DECLINED if after == "rejected" else None, O)
    if after == "cancelled":
        await shop.cancel(O)
    row, events = await shop.row(O), await shop.events(O)
    outcome = await shop.place(OTHER, O)

    assert (outcome.success, outcome.error_code) == (False, "order_id_conflict")
    assert (await shop.row(O), await shop.events(O)) == (row, events)
    assert await shop.place(DECLINED if after == "rejected" else None, O) == first
    await assert_invariants(shop, O)


async def test_another_payload_that_fails_to_reserve_does_not_undo_the_first(shop: Shop) -> None:
    """Its undo finds a row that is not its own, and leaves it."""
    held = shop.hooks.hold("authorize_payment", "after", O)
    first = await shop.start(order_id=O)
    await held.reached.wait()
    await first.terminate()
    shop.hooks.fail("reserve_stock", ApplicationError("scripted", type="scripted", non_retryable=True))
    outcome = await shop.place(OTHER, O)

    assert outcome.error_code == "order_id_conflict"
    assert await shop.events(O) == ["pending"]
    assert (await shop.place(order_id=O)).success
    held.let_go()
    await check_placed(shop)


@pytest.mark.parametrize("payload", [{}, {"customerId": 5}, "text", {**an_order(), "items": []}])
async def test_an_invalid_payload_under_an_existing_id_touches_nothing(shop: Shop, payload: Any) -> None:
    """It is refused before anything is looked at, also when it has terminated the run."""
    held = shop.hooks.hold("authorize_payment", "after", O)
    await shop.start(order_id=O)
    await held.reached.wait()
    outcome = await shop.place(payload, O, id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING)
    held.let_go()

    assert outcome.error_code == "invalid_order"
    assert await shop.events(O) == ["pending"]
    assert (await shop.place(order_id=O)).success
    await check_placed(shop)


@pytest.mark.parametrize(
    "payload", [an_order(items=[{"productId": "5", "quantity": 2}]), DECLINED], ids=["out of stock", "declined"]
)
async def test_a_rejected_order_stays_rejected(shop: Shop, payload: Payload) -> None:
    """A new try is a new order id, even when it would succeed now."""
    first = await shop.place(payload, O)
    await shop.pool.execute("UPDATE inventory SET quantity = quantity + 10")
    calls = len(list(shop.world.journal.about()))

    assert await shop.place(payload, O) == first
    assert not [entry for entry in list(shop.world.journal.about())[calls:] if entry["service"] == "stripe"]


@pytest.mark.parametrize("at", ["authorize_payment", "request_fulfillment", "capture_payment"])
async def test_expired_idempotency_keys_do_not_charge_twice(shop: Shop, at: str) -> None:
    """Stripe forgets keys after a day; the id on the row and the state of the PaymentIntent do not."""
    held = shop.hooks.hold(at, "after", O)
    first = await shop.start(order_id=O)
    await held.reached.wait()
    await first.terminate()
    shop.world.stripe.keys.clear()
    assert (await shop.place(order_id=O)).success
    held.let_go()

    assert len(shop.world.provider_records()["payments"]) == 1
    await check_placed(shop)


@pytest.mark.prove
async def test_expired_idempotency_keys_do_not_refund_twice(shop: Shop) -> None:
    """What was refunded is looked at before anything is refunded."""
    await shop.place(order_id=O)
    held = shop.hooks.hold("void_payment", "after")
    first = await shop.start_cancel(O)
    await held.reached.wait()
    await first.terminate()
    shop.world.stripe.keys.clear()
    assert (await shop.cancel(O)).refunded
    held.let_go()

    assert len(shop.world.stripe.account.refunds) == 1
    await assert_invariants(shop, O)


@pytest.mark.parametrize(("at", "moment"), STAGES)
async def test_reset_in_flight(shop: Shop, at: str, moment: Moment) -> None:
    """An operator resets the run to its beginning while an attempt is under way."""
    held = shop.hooks.hold(at, moment, O)
    first = await shop.start(order_id=O)
    await held.reached.wait()
    again = await reset(shop, first, (await tasks(first))[0])
    held.let_go()

    assert (await again.result()).success
    await check_placed(shop)


@pytest.mark.parametrize("payload", one_in(2, [an_order(), REFUSED, DECLINED]), ids=["placed", "refused", "declined"])
async def test_reset_to_each_workflow_task_after_completion(shop: Shop, payload: Payload) -> None:
    """However far back: the same answer, and nothing happens twice."""
    first = await shop.start(payload, O)
    outcome = await first.result()
    stock = await shop.stock()
    row = await shop.row(O)
    for task in await tasks(first):
        again = await reset(shop, first, task)
        assert await again.result() == outcome
        assert await shop.stock() == stock
    assert await shop.row(O) == row
    await assert_invariants(shop, O)


@pytest.mark.prove
async def test_reset_after_a_cancel_does_not_sell_again(shop: Shop) -> None:
    """The order was placed and is cancelled; going through it again leaves it so, and confirms nothing."""
    first = await shop.start(order_id=O)
    outcome = await first.result()
    await shop.cancel(O)
    for task in await tasks(first):
        assert await (await reset(shop, first, task)).result() == outcome
    assert await shop.status(O) == "cancelled"
    await assert_invariants(shop, O)


@pytest.mark.prove
@pytest.mark.parametrize("taker", ["process-order", "cancel-order"])
async def test_a_park_that_is_taken_over_waits_before_anything_is_undone_again(shop: Shop, taker: str) -> None:
    """The warehouse might answer otherwise the second time; the resolution reaches the run that waits."""
    shop.hooks.fail("void_payment", ApplicationError("scripted", type="scripted", non_retryable=True))
    first = await shop.start(REFUSED, O)
    await until_stuck(first)
    await first.terminate()
    second = await (shop.start(REFUSED, O) if taker == "process-order" else shop.start_cancel(O))
    await eventually(lambda: waits(second), "the second run waits too")
    undos = ["record_resolution", "cancel_fulfillment", "void_payment", "release_stock"]
    assert not set(undos) & set(await scheduled(second))
    resolution = Resolution(step="void_payment", action="retry", reason="repaired", by="ann")
    assert (await resolve(shop.client, O, resolution)).answer == "retry: void_payment"
    await second.result()
    assert [name for name in await scheduled(second) if name in undos] == undos
    assert await shop.status(O) == "rejected"
    await assert_invariants(shop, O)


async def waits(run: WorkflowHandle[Any, Any]) -> bool:
    return bool((await run.query("status"))["parked"])


async def test_the_answer_of_a_technical_failure_is_recorded(shop: Shop) -> None:
    """The first run fails; another run only returns the recorded outcome."""
    shop.hooks.fail("request_fulfillment", ApplicationError("scripted", type="scripted", non_retryable=True))
    with pytest.raises(WorkflowFailureError):
        await shop.place(order_id=O)
    outcome = await shop.place(order_id=O)

    assert outcome.error_code == "failed"
    assert "scripted" in (outcome.error or "")
    await assert_invariants(shop, O)


@pytest.mark.prove
async def test_a_cancel_that_is_reset_while_its_e_mail_is_on_its_way(shop: Shop) -> None:
    """The run finds the order cancelled by itself: it answers so, and its customer gets the e-mail."""
    await shop.place(order_id=O)
    held = shop.hooks.hold("send_email", workflow_id=cancel_order_id(O))
    run = await shop.start_cancel(O)
    await held.reached.wait()
    await reset_to_start(shop, run)

    outcome = await shop.client.get_workflow_handle(run.id, result_type=CancelOutcome).result()
    assert (outcome.cancelled, outcome.refunded, outcome.reason) == (True, True, None)
    assert [email.template for email in shop.world.inbox.emails] == ["order_confirmation", "order_cancelled"]
    assert (await shop.cancel(O)).reason == "already_cancelled"
    held.let_go()


async def test_a_failed_order_that_is_reset_while_its_e_mail_is_on_its_way(shop: Shop) -> None:
    """The run finds the order closed by itself: it fails as it would have, and the customer gets the e-mail."""
    shop.hooks.fail("request_fulfillment", ApplicationError("scripted", non_retryable=True), "after")
    held = shop.hooks.hold("send_email")
    run = await shop.start(order_id=O)
    await held.reached.wait()
    await reset_to_start(shop, run)

    with pytest.raises(WorkflowFailureError) as failed:
        await shop.client.get_workflow_handle(O).result()
    assert isinstance(failed.value.cause, ApplicationError)
    assert (failed.value.cause.type, await shop.status(O)) == ("order_failed", "failed")
    assert [email.template for email in shop.world.inbox.emails] == ["order_failed"]
    held.let_go()


async def test_a_rollback_leaves_a_run_that_has_closed(shop: Shop) -> None:
    """It was open when it was listed; Temporal would reset it all the same."""
    await shop.place(order_id=O)
    before = await describe_versioned(shop.client, O)
    assert before is not None
    assert not await start_again(shop.client, before, "test")
    assert await describe_versioned(shop.client, O) == before


# ------------------------------------------------------------------------------------------------------------- helpers


async def check_placed(shop: Shop) -> None:
    """One order, one charge, two units sold."""
    await assert_invariants(shop, O)
    assert await shop.status(O) == "processing"
    assert await shop.stock() == (98, 0)
    money = shop.world.provider_records()["orders"][O]
    assert (money["captured"], money["refunded"]) == (5998, 0)
    assert len(shop.world.provider_records()["fulfillment"]) == 1


async def tasks(handle: WorkflowHandle[Any, OrderOutcome]) -> list[int]:
    """The workflow tasks that the run has completed: where it can be reset to."""
    done = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
    return [event.event_id async for event in handle.fetch_history_events() if event.event_type == done]


async def scheduled(handle: WorkflowHandle[Any, Any]) -> list[str]:
    """The activities that the run has asked for, in that order."""
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]


async def reset(shop: Shop, handle: WorkflowHandle[Any, OrderOutcome], task: int) -> WorkflowHandle[Any, OrderOutcome]:
    answer = await shop.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=shop.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=O, run_id=handle.result_run_id or ""),
            reason="test",
            workflow_task_finish_event_id=task,
            request_id=new_order_id(),
        )
    )
    return shop.client.get_workflow_handle(O, run_id=answer.run_id, result_type=OrderOutcome)


async def reset_to_start(shop: Shop, handle: WorkflowHandle[Any, Any]) -> None:
    """As a rollback does it."""
    run = await describe_versioned(shop.client, handle.id)
    assert run is not None
    assert await start_again(shop.client, run, "test")


async def waits_for_the_customer(handle: WorkflowHandle[Any, OrderOutcome]) -> None:
    async def waits() -> bool:
        return (await handle.query(ProcessOrder.status)).stage == "awaiting_customer"

    await eventually(waits, "the run waits for the customer")
