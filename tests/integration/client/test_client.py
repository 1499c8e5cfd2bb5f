"""The client, as a program uses it: orders and runs."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    FetchWorkflowHistoryEventsInput,
    Interceptor,
    OutboundInterceptor,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHistoryEventAsyncIterator,
)
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment

import client.waiting
from client.orders import cancel_order, submit_order
from client.resolutions import resolve
from client.runs import list_runs, order_status
from orders.errors import InvalidInput, NoAnswer, NotParked, Permanent, UnknownOrder
from orders.models import CancelReason, ErrorCode, OrderOutcome, Stage
from orders.names import CUSTOMER_ID, ORDER_STAGE, PROCESS_ORDER, cancel_order_id
from saga import Resolution
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.scenarios import final_error, outage, until_attempts, until_marked
from tests.support.shop import Shop, an_order, eventually, new_order_id, open_shop

ASKS_THE_CUSTOMER = "pm_card_threeDSecure2Required"


async def submit(shop: Shop, order_id: str, **changes: object) -> OrderOutcome:
    return await submit_order(shop.client, order_id, an_order(**changes), task_queue=shop.task_queue)


@asynccontextmanager
async def a_waiting_order(shop: Shop, order_id: str) -> AsyncIterator[asyncio.Task[OrderOutcome]]:
    """A submit whose order waits for the customer, until the block or the order ends."""
    task = asyncio.create_task(submit(shop, order_id, paymentMethodId=ASKS_THE_CUSTOMER))
    try:
        await eventually(lambda: is_waiting(shop, order_id), "the customer is asked")
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def is_waiting(shop: Shop, order_id: str) -> bool:
    try:
        return (await order_status(shop.client, order_id)).stage is Stage.AWAITING_CUSTOMER
    except (UnknownOrder, NoAnswer):
        return False


async def is_open(shop: Shop, order_id: str) -> bool:
    run = await shop.client.get_workflow_handle(order_id).describe()
    return run.status is WorkflowExecutionStatus.RUNNING


async def authenticate(shop: Shop, order_id: str) -> None:
    view = await order_status(shop.client, order_id)
    assert view.payment_intent
    shop.world.stripe.account.authenticate(view.payment_intent, succeeds=True)
    await shop.client.get_workflow_handle(order_id).signal("payment-updated")


async def test_twenty_at_once_are_one_order(shop: Shop) -> None:
    """Later submits of an order join the first: one answer, one update (a run takes ten at a time), one payment."""
    order_id = new_order_id()
    answers = await asyncio.gather(*(submit(shop, order_id) for _ in range(20)))

    assert answers[0].success
    assert answers == [answers[0]] * 20
    history = await shop.client.get_workflow_handle(order_id).fetch_history()
    kinds = [event.WhichOneof("attributes") for event in history.events]
    assert kinds.count("workflow_execution_update_accepted_event_attributes") == 1
    assert len(shop.world.provider_records()["orders"][order_id]["payment_intents"]) == 1
    assert await shop.stock() == (98, 0)


@pytest.mark.parametrize("payment_method", ["pm_123", "pm_card_chargeDeclined"])
async def test_submitting_again_gives_the_first_answer(shop: Shop, payment_method: str) -> None:
    """A closed run gives its first answer for ever."""
    order_id = new_order_id()
    first = await submit(shop, order_id, paymentMethodId=payment_method)
    await asyncio.wait([asyncio.ensure_future(shop.client.get_workflow_handle(order_id).result())])

    assert await submit(shop, order_id, paymentMethodId=payment_method) == first


async def test_another_payload_is_a_conflict_while_the_first_runs(shop: Shop) -> None:
    """The first order stays, and ends as without the second submit."""
    order_id = new_order_id()
    async with a_waiting_order(shop, order_id) as first:
        other = await submit(shop, order_id, customerId="cus_other")
        assert other.error_code is ErrorCode.ORDER_ID_CONFLICT
        assert not first.done()
        await authenticate(shop, order_id)

        assert (await first).success


async def test_another_payload_is_a_conflict_when_the_first_is_closed(shop: Shop) -> None:
    """The client compares the payload of the closed run; where it is another payload, the row decides."""
    order_id = new_order_id()
    first = await shop.place(order_id=order_id)

    assert (await submit(shop, order_id, customerId="cus_other")).error_code is ErrorCode.ORDER_ID_CONFLICT
    assert await submit(shop, order_id) == first


async def test_an_id_that_was_wasted_on_bad_input_can_be_used(shop: Shop) -> None:
    """A run that refuses its input leaves no row."""
    order_id = new_order_id()
    assert (await shop.place({"customerId": "cus_123"}, order_id)).error_code is ErrorCode.INVALID_ORDER

    assert (await submit(shop, order_id)).success


async def test_a_technical_failure_is_answered_before_and_after_its_run_closes(shop: Shop) -> None:
    """The failed run keeps the outcome in its failure."""
    order_id = new_order_id()
    shop.hooks.fail("request_fulfillment", Permanent("no", type="fulfillment_refuses_us"))
    first = await submit(shop, order_id)
    await asyncio.wait([asyncio.ensure_future(shop.client.get_workflow_handle(order_id).result())])

    assert first.error_code is ErrorCode.FAILED
    assert await submit(shop, order_id) == first


async def test_an_operators_cancel_is_answered_before_and_after_its_run_closes(shop: Shop) -> None:
    """A cancelled run has no result, but the client returns an outcome."""
    order_id = new_order_id()
    async with a_waiting_order(shop, order_id) as first:
        await shop.client.get_workflow_handle(order_id).cancel()
        assert (await first).error_code is ErrorCode.CANCELLED
    await asyncio.wait([asyncio.ensure_future(shop.client.get_workflow_handle(order_id).result())])

    assert (await submit(shop, order_id, paymentMethodId=ASKS_THE_CUSTOMER)).error_code is ErrorCode.CANCELLED


async def test_a_terminated_run_is_taken_up(shop: Shop) -> None:
    """A submit that waits for a terminated run starts another, which goes on from the row: one charge."""
    order_id = new_order_id()
    async with a_waiting_order(shop, order_id) as first:
        await shop.client.get_workflow_handle(order_id).terminate()
        await eventually(lambda: is_open(shop, order_id), "another run is open")
        await eventually(lambda: is_waiting(shop, order_id), "it waits for the customer")
        await authenticate(shop, order_id)
        assert (await first).success
    await assert_invariants(shop, order_id)


@pytest.mark.prove
async def test_a_run_that_had_too_little_time_is_taken_up(shop: Shop) -> None:
    """Any client may give a run a time-out; the next submit starts another run, which goes on from the row."""
    order_id = new_order_id()
    payload = an_order(paymentMethodId=ASKS_THE_CUSTOMER)
    run = await shop.client.start_workflow(
        PROCESS_ORDER, payload, id=order_id, task_queue=shop.task_queue, run_timeout=timedelta(seconds=3)
    )
    with pytest.raises(WorkflowFailureError):
        await run.result()
    async with a_waiting_order(shop, order_id) as second:
        await eventually(lambda: is_open(shop, order_id), "another run is open")
        await eventually(lambda: is_waiting(shop, order_id), "it waits for the customer")
        await authenticate(shop, order_id)
        assert (await second).success
    await assert_invariants(shop, order_id)


async def test_an_undo_that_keeps_failing_is_resolved_through_the_client(shop: Shop) -> None:
    """It is not parked, so the view does not name it; the run takes the resolution all the same."""
    order_id = new_order_id()
    shop.hooks.fail("request_fulfillment", final_error(), "after")
    shop.hooks.fail("void_payment", outage(), times=None)
    run = await shop.start(order_id=order_id)
    await until_attempts(shop, "void_payment", 1)
    resolution = Resolution(step="void_payment", action="resolved", reason="by hand")
    with pytest.raises(NotParked):
        await resolve(shop.client, order_id, resolution)
    await shop.advance(run, timedelta(minutes=15))
    await until_marked(run, "void_payment")

    assert (await resolve(shop.client, order_id, resolution)).answer == "resolved: void_payment"


class Forgetful(Interceptor):
    """Temporal answers once that it does not have a run, as when it stalls, or when retention is over."""

    def __init__(self) -> None:
        self.forgot: list[str] = []

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002
        return Forgetting(next, self.forgot)


class Forgetting(OutboundInterceptor):
    def __init__(self, following: OutboundInterceptor, forgot: list[str]) -> None:
        super().__init__(following)
        self._forgot = forgot

    def fetch_workflow_history_events(
        self,
        input: FetchWorkflowHistoryEventsInput,  # noqa: A002
    ) -> WorkflowHistoryEventAsyncIterator:
        if not self._forgot:
            self._forgot.append(input.id)
            raise RPCError(f"workflow not found for ID: {input.id}", RPCStatusCode.NOT_FOUND, b"")
        return super().fetch_workflow_history_events(input)


async def test_a_run_that_is_gone_when_it_is_asked_is_no_unknown_order(shop: Shop) -> None:
    """Another run reads the order's row, and returns the first outcome."""
    order_id = new_order_id()
    first = await shop.place(order_id=order_id)
    temporal = Forgetful()
    client = Client(**shop.client.config() | {"interceptors": [temporal]})

    again = await submit_order(client, order_id, an_order(), task_queue=shop.task_queue)
    assert (again, temporal.forgot) == (first, [order_id])
    await assert_invariants(shop, order_id)


async def test_a_reset_is_followed(shop: Shop) -> None:
    """A submit that waits while its run is reset gets the answer of the new run."""
    order_id = new_order_id()
    async with a_waiting_order(shop, order_id) as first:
        await shop.client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=shop.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=order_id),
                workflow_task_finish_event_id=4,
                request_id=str(uuid.uuid4()),
            )
        )
        await eventually(lambda: is_waiting(shop, order_id), "the new run asks the customer")
        await authenticate(shop, order_id)

        assert (await first).success


async def test_numbers_stay_exact(shop: Shop) -> None:
    """A Decimal is sent as the JSON number that it prints as; one without such a number is refused."""
    order_id = new_order_id()
    items = [{"productId": "1", "quantity": 1, "price": Decimal("29.99")}]
    assert (await submit(shop, order_id, items=items)).success

    async for event in shop.client.get_workflow_handle(order_id).fetch_history_events():
        started = event.workflow_execution_started_event_attributes
        assert b'"price": 29.99}' in started.input.payloads[0].data
        break
    items[0]["price"] = Decimal("29.990000000000000001")
    with pytest.raises(InvalidInput):
        await submit(shop, new_order_id(), items=items)


async def test_nothing_is_started_with_bad_input(shop: Shop) -> None:
    """Every field is named, and Temporal gets no request."""
    order_id = new_order_id()
    with pytest.raises(InvalidInput, match=r"customerEmail.*items\[0\]\.quantity"):
        await submit(shop, order_id, customerEmail="nobody", items=[{"productId": "1", "quantity": 0}])
    with pytest.raises(UnknownOrder):
        await order_status(shop.client, order_id)


async def test_no_address_is_in_what_lists_show(shop: Shop) -> None:
    """The summary says what is ordered, not by whom."""
    order_id = new_order_id()
    await submit(shop, order_id)

    description = await shop.client.get_workflow_handle(order_id).describe()
    assert await description.static_summary() == "2 units of 1 products, standard"


async def test_without_a_worker_it_says_so_and_the_order_waits(
    shop: Shop, temporal: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run exists; a later worker does it, and a second submit joins."""
    monkeypatch.setattr(client.waiting, "FIRST_DOUBT", 0.2)
    order_id, queue = new_order_id(), f"orders-{uuid.uuid4().hex[:8]}"
    with pytest.raises(NoAnswer, match=f"no worker polls the task queue `{queue}`"):
        await submit_order(shop.client, order_id, an_order(), task_queue=queue)

    async with open_shop(shop.database_url, temporal, queue) as late:
        assert (await submit(late, order_id)).success


async def test_patience_has_an_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the caller's time is over, the error says that the order goes on."""
    monkeypatch.setattr(client.waiting, "FIRST_DOUBT", 0.2)
    order_id = new_order_id()
    with pytest.raises(NoAnswer, match="still under way after 0 seconds; it goes on"):
        await submit_order(
            shop.client,
            order_id,
            json.dumps(an_order(paymentMethodId=ASKS_THE_CUSTOMER)),
            task_queue=shop.task_queue,
            patience=timedelta(0),
        )
    await eventually(lambda: is_waiting(shop, order_id), "the customer is asked")
    await cancel_order(shop.client, order_id, task_queue=shop.task_queue)


async def test_a_cancel_that_is_parked_is_answered(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller does not wait for an operator."""
    monkeypatch.setattr(client.waiting, "FIRST_DOUBT", 0.2)
    order_id = new_order_id()
    await submit(shop, order_id)
    shop.hooks.fail("void_payment", Permanent("no", type="refund_failed"))
    outcome = await cancel_order(shop.client, order_id, task_queue=shop.task_queue)

    assert not outcome.cancelled
    assert outcome.reason == CancelReason.UNDO_PARKED


async def test_a_cancel_is_answered_before_its_email(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the e-mail service is out, the caller gets the outcome and the run retries the e-mail."""
    monkeypatch.setattr(client.waiting, "FIRST_DOUBT", 0.2)
    order_id = new_order_id()
    await submit(shop, order_id)
    shop.world.faults.add(Fault(service="email", kind="status", times=None))

    cancelled = await cancel_order(shop.client, order_id, "customer@example.com", task_queue=shop.task_queue)

    assert (cancelled.cancelled, cancelled.refunded) == (True, True)
    run = await shop.client.get_workflow_handle(cancel_order_id(order_id)).describe()
    assert run.status is WorkflowExecutionStatus.RUNNING


async def test_runs_are_listed_by_stage(shop: Shop) -> None:
    """A run is listed under its stage, and under no other."""
    order_id = new_order_id()
    await submit(shop, order_id)

    async def listed() -> bool:
        return order_id in [run.order_id for run in await list_runs(shop.client, stage="completed")]

    await eventually(listed, "the run is listed")
    assert order_id not in [run.order_id for run in await list_runs(shop.client, stage="rejected")]


async def test_an_order_that_is_being_placed_is_listed_from_its_start(shop: Shop) -> None:
    """With its customer, and without an event of its history; whichever step one asks for."""
    order_id = new_order_id()
    held = shop.hooks.hold("reserve_stock", "before", order_id)
    placing = asyncio.create_task(submit(shop, order_id))
    await held.reached.wait()

    async def listed() -> bool:
        return order_id in [run.order_id for run in await list_runs(shop.client, stage="authorizing")]

    await eventually(listed, "the run is listed")
    found = await shop.client.get_workflow_handle(order_id).describe()
    assert found.typed_search_attributes.get(ORDER_STAGE) == "placing"
    assert found.typed_search_attributes.get(CUSTOMER_ID) == "cus_123"
    held.let_go()
    await placing
