"""What a program does with orders: submit, pay, cancel, refund.

    client = await connect()
    outcome = await submit_order(client, "order-1", {"customerId": "cus_123", …})

Every call may be repeated, also after a crash: the order id is the idempotency key. Workflows are called by the names
of their types.
"""

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import (
    RawValue,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, CancelledError, TemporalError, WorkflowAlreadyStartedError

from client import waiting
from client.runs import view_run
from client.waiting import PATIENCE, answer
from config.payload_keys import customer_tags
from gateways.run_inputs import read_input
from gateways.run_starts import start_refund
from gateways.temporal import find_run, is_absent, reaching_temporal
from orders.errors import InvalidInput, NoAnswer, NotPayable
from orders.models import (
    WAS_CANCELLED,
    CancelOutcome,
    CancelReason,
    CancelView,
    ErrorCode,
    Order,
    OrderOutcome,
    OrderView,
    Refund,
    RefundOutcome,
    RefundReason,
    RefundView,
    Stage,
    View,
)
from orders.names import (
    CANCEL_ORDER,
    CUSTOMER_ID,
    ORDER_STAGE,
    PROCESS_ORDER,
    TASK_QUEUE,
    cancel_order_id,
)
from orders.parcels import SHORTAGE_REFUND
from orders.parsing import (
    CancelRequest,
    PayRequest,
    as_utf8,
    parse_cancel,
    parse_order,
    parse_pay,
    parse_refund,
    read_json,
)

MAX_RUNS: Final = 3  # that one submit starts, where the latest run cannot answer

OrderData = bytes | str | Mapping[str, Any]
ResultT = TypeVar("ResultT")


class Submission(NamedTuple):
    """An order that is parsed, and the JSON that its workflow is started with."""

    order: Order
    payload: RawValue


def read_order(order_id: str, data: OrderData) -> Submission:
    """The order that `data` describes.

    Args:
        order_id: the workflow id and the idempotency key.
        data: the order in the names of orders.parsing.OrderRequest; text and bytes are JSON.

    Raises:
        InvalidInput: every problem is named.
    """
    text = data if isinstance(data, bytes | str) else _to_json(data)
    order = parse_order(order_id, read_json(text))
    payload = Payload(metadata={"encoding": b"json/plain"}, data=as_utf8(text))
    return Submission(order, RawValue(payload))


async def submit_order(
    client: Client, order_id: str, data: OrderData, *, task_queue: str = TASK_QUEUE, patience: timedelta = PATIENCE
) -> OrderOutcome:
    """Place an order, and wait for its outcome. A second submit of the same order joins the first.

    Args:
        client: see config.temporal.connect.
        order_id: see read_order.
        data: see read_order.
        task_queue: where the workers are.
        patience: how long to wait; the order goes on without the caller.

    Raises:
        InvalidInput: nothing was started; every problem is named.
        NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
    """
    return await submit(client, read_order(order_id, data), task_queue=task_queue, patience=patience)


async def submit(
    client: Client, submission: Submission, *, task_queue: str = TASK_QUEUE, patience: timedelta = PATIENCE
) -> OrderOutcome:
    """Place an order that is parsed already; see submit_order.

    Raises:
        NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
    """
    return await answer(
        client,
        lambda: _submit(client, submission, task_queue),
        what=f"order {submission.order.id}",
        task_queue=task_queue,
        patience=patience,
    )


async def cancel_order(
    client: Client,
    order_id: str,
    customer_email: str | None = None,
    *,
    task_queue: str = TASK_QUEUE,
    patience: timedelta = PATIENCE,
) -> CancelOutcome:
    """Cancel an order at any moment of its life, and wait for the outcome. Without an address no e-mail is sent.

    Raises:
        InvalidInput: nothing was started; every problem is named.
        NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
    """
    request = parse_cancel({"orderId": order_id, "customerEmail": customer_email or None})
    return await answer(
        client,
        lambda: _cancel(client, request, task_queue),
        what=f"the cancellation of {order_id}",
        task_queue=task_queue,
        patience=patience,
    )


def read_refund(data: OrderData) -> Refund:
    """The refund of a part of an order that `data` describes, in the names of orders.parsing.RefundRequest.

    Raises:
        InvalidInput: every problem is named.
    """
    refund = parse_refund(read_json(data if isinstance(data, bytes | str) else _to_json(data)))
    if refund.refund_id.startswith(SHORTAGE_REFUND):
        raise InvalidInput([f"refundId: must not begin with {SHORTAGE_REFUND}, which the refunds of shortages do"])
    return refund


async def refund_order(
    client: Client, data: OrderData, *, task_queue: str = TASK_QUEUE, patience: timedelta = PATIENCE
) -> RefundOutcome:
    """Refund a part of a paid order, once for its refund id, and wait for the outcome.

    Raises:
        InvalidInput: nothing was started; every problem is named.
        NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
    """
    refund = read_refund(data)
    return await answer(
        client,
        lambda: _refund(client, refund, task_queue),
        what=f"the refund {refund.refund_id} of {refund.order_id}",
        task_queue=task_queue,
        patience=patience,
    )


async def pay_order(
    client: Client,
    order_id: str,
    payment_method_id: str,
    *,
    task_queue: str = TASK_QUEUE,
    patience: timedelta = PATIENCE,
) -> OrderOutcome:
    """Pay an order that waits for another payment method, and wait for the answer.

    That is the outcome of the order; or `payment_required`, this payment method is refused too; or
    `authentication_required`, the customer must authenticate the payment.

    Raises:
        InvalidInput: it is no payment method.
        NotPayable: the order does not wait for one, or one is being tried, or too many were.
        UnknownOrder: Temporal has no run of the order.
        NoAnswer: Temporal is out of reach, no worker polls, or `patience` is over.
    """
    request = parse_pay({"paymentMethodId": payment_method_id})
    update_id = uuid.uuid4().hex
    return await answer(
        client,
        lambda: _pay(client, order_id, request, update_id),
        what=f"order {order_id}",
        task_queue=task_queue,
        patience=patience,
    )


class _OnlyTheRowTells(Exception):
    """The latest run was terminated, has another payload, or is gone: only another run, from the row, can answer."""


async def _submit(client: Client, submission: Submission, task_queue: str) -> OrderOutcome:
    for run in range(MAX_RUNS):
        with suppress(_OnlyTheRowTells):
            return await _submit_once(client, submission, task_queue, run)
    raise NoAnswer(f"the runs of order {submission.order.id} are terminated, replaced, or gone before they can answer")


async def _submit_once(client: Client, submission: Submission, task_queue: str, run: int) -> OrderOutcome:
    """The outcome as the latest run tells it; `run` 0 starts one only if there was none, the others also after it."""
    order = submission.order
    units = sum(line.quantity for line in order.lines)
    start = WithStartWorkflowOperation[Any, Any](
        PROCESS_ORDER,
        submission.payload,
        id=order.id,
        task_queue=task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE if run else WorkflowIDReusePolicy.REJECT_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"{units} units of {len(order.lines)} products, {order.priority}",
        # What the run would set itself, without an event of its history.
        search_attributes=TypedSearchAttributes(
            [
                SearchAttributePair(ORDER_STAGE, Stage.PLACING),
                SearchAttributePair(CUSTOMER_ID, customer_tags(client, order.customer_id)[0]),
            ]
        ),
    )
    try:
        outcome: OrderOutcome = await client.execute_update_with_start_workflow(
            "submit",
            order.request_hash,
            start_workflow_operation=start,
            # Temporal repeats the answer of an update from a closed run, and then starts none.
            id=f"{order.request_hash}:{run}" if run else order.request_hash,
            result_type=OrderOutcome,
        )
    except TemporalError as error:
        with suppress(TemporalError, asyncio.CancelledError):
            await start.workflow_handle()  # it holds the same error, and asyncio reports errors that nothing retrieves
        if not _is_over(error):
            raise
        return await _follow(client, order)
    if outcome.error_code is ErrorCode.PAYMENT_REQUIRED:
        return await _submit_again(client, order)
    if outcome.error_code is ErrorCode.UNDO_PARKED:
        # Temporal keeps the first answer of an update for ever; an operator may have resolved the park since.
        view = await view_run(client, order.id)
        if view is None or not view.parked:
            return await _follow(client, order)
    return outcome


async def _submit_again(client: Client, order: Order) -> OrderOutcome:
    """The answer of now: Temporal keeps the first one for ever, and another payment method may have been tried since.

    While the order waits for one, its view has the answer: updates of a run are limited.
    """
    view = await view_run(client, order.id)
    if isinstance(view, OrderView) and view.payment_required:
        return view.payment_required
    handle: WorkflowHandle[Any, OrderOutcome] = client.get_workflow_handle(order.id)
    try:
        answer: OrderOutcome = await handle.execute_update("submit", order.request_hash, result_type=OrderOutcome)
    except TemporalError as error:
        if not _is_over(error):
            raise
        return await _follow(client, order)
    return answer


async def _pay(client: Client, order_id: str, request: PayRequest, update_id: str) -> OrderOutcome:
    handle: WorkflowHandle[Any, OrderOutcome] = client.get_workflow_handle(order_id)
    try:
        paid: OrderOutcome = await handle.execute_update("pay", request, id=update_id, result_type=OrderOutcome)
    except WorkflowUpdateFailedError as refused:
        raise NotPayable(f"{order_id} takes no payment method now: {refused.cause}") from None
    except TemporalError as error:
        run = await find_run(client, order_id) if is_absent(error) else None
        if run is None:
            raise
        raise NotPayable(f"{order_id} takes no payment method any more: its run is {run.state}") from None
    return paid


def _is_over(error: TemporalError) -> bool:
    """The run is closed, closed before it could answer, or has as many updates in flight as a run may have."""
    return is_absent(error) or isinstance(error, WorkflowAlreadyStartedError | WorkflowUpdateFailedError)


async def _follow(client: Client, order: Order) -> OrderOutcome:
    """The outcome of the run with the order's id, if it is a run of this order."""
    handle: WorkflowHandle[Any, OrderOutcome] = client.get_workflow_handle(order.id, result_type=OrderOutcome)
    # None: past its retention, or unknown to a Temporal that stalls, although it was asked to start the run.
    given = await read_input(client, handle)
    known = given.order_of(order.id) if given else None
    if known is None or known.request_hash != order.request_hash:
        raise _OnlyTheRowTells
    try:
        with reaching_temporal(_OnlyTheRowTells()):
            return await handle.result()
    except WorkflowFailureError as failure:
        return _outcome(order.id, failure.cause)


def _outcome(order_id: str, cause: BaseException) -> OrderOutcome:
    if isinstance(cause, ApplicationError) and cause.details:
        with suppress(ValidationError):  # another version of the workflow may have failed with other details
            return OrderOutcome.model_validate(cause.details[0])
    if isinstance(cause, CancelledError):
        return OrderOutcome(success=False, order_id=order_id, error=WAS_CANCELLED, error_code=ErrorCode.CANCELLED)
    raise _OnlyTheRowTells  # terminated, past a time-out that its starter gave it, or with details that are no outcome


async def _cancel(client: Client, request: CancelRequest, task_queue: str) -> CancelOutcome:
    handle: WorkflowHandle[Any, CancelOutcome] = await client.start_workflow(
        CANCEL_ORDER,
        request,
        id=cancel_order_id(request.order_id),
        task_queue=task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        result_type=CancelOutcome,
        static_summary=f"cancel {request.order_id}",
    )
    return await _await_answer(client, handle, _cancel_answer, f"the cancellation of {request.order_id}")


def _cancel_answer(view: View) -> CancelOutcome | None:
    if isinstance(view, CancelView) and view.outcome:
        return view.outcome
    if view.parked or (isinstance(view, CancelView) and view.held_up):
        return CancelOutcome(cancelled=False, refunded=False, reason=CancelReason.UNDO_PARKED)
    return None


async def _refund(client: Client, refund: Refund, task_queue: str) -> RefundOutcome:
    def answer_in(view: View) -> RefundOutcome | None:
        if isinstance(view, RefundView) and view.outcome:
            return view.outcome
        parked = RefundOutcome(refunded=False, refund_id=refund.refund_id, reason=RefundReason.REFUND_PARKED)
        return parked if view.parked else None

    for _ in range(MAX_RUNS):
        started = await start_refund(client, refund, task_queue=task_queue)
        run: WorkflowHandle[Any, RefundOutcome] = client.get_workflow_handle(
            started.id, run_id=started.result_run_id, result_type=RefundOutcome
        )
        outcome = await _await_answer(client, run, answer_in, f"the run {run.id}")
        given = await read_input(client, run)
        # The run that was open may be of another request under this refund id: then a run of this one has the answer.
        if outcome.reason is RefundReason.REFUND_PARKED or given is None or refund.is_same(given.refund):
            return outcome
    raise NoAnswer(f"the runs of the refund {refund.refund_id} of {refund.order_id} are of other requests")


async def _await_answer(
    client: Client, run: WorkflowHandle[Any, ResultT], answer_in: Callable[[View], ResultT | None], what: str
) -> ResultT:
    """The answer of the run: its result, or what is in its status before it sends e-mails, or while it waits."""
    result = asyncio.ensure_future(run.result())
    try:
        while not result.done():
            await asyncio.wait({result}, timeout=waiting.FIRST_DOUBT)
            view = None if result.done() else await view_run(client, run.id)
            if view and (outcome := answer_in(view)):
                return outcome
        return result.result()
    except WorkflowFailureError as failure:
        raise NoAnswer(f"{what} was ended from outside: {failure.cause}") from None
    finally:
        result.cancel()


def _to_json(data: Mapping[str, Any]) -> str:
    try:
        return json.dumps(data, default=_exact_number)
    except (TypeError, ValueError, RecursionError):
        raise InvalidInput(["input: must be JSON"]) from None


def _exact_number(value: object) -> float:
    """A Decimal as the double that prints like it, if there is one."""
    if isinstance(value, Decimal) and Decimal(repr(number := float(value))) == value:
        return number
    raise TypeError
