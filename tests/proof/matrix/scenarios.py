"""Orders that between them reach every activity of process-order, cancel-order and their undos.

A scenario plays one order from outside, whatever workers come and go meanwhile, and says how it must end.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio.client import WorkflowHandle

from orders.models import CancelOutcome, CancelReason, ErrorCode, OrderOutcome, RefundReason
from sandbox.faults import Fault
from tests.support.manual_actions import refund_by_hand
from tests.support.scenarios import REFUSED_ADDRESS, ending_of, resolve, until_marked
from tests.support.shop import PATIENCE, VOUCHER, Shop, an_order, eventually

Scenario = Callable[[Shop, str], Awaitable[None]]

FREE: dict[str, Any] = {"charges": [VOUCHER], "paymentMethodId": None}

# What a worker was told just before its death is told again when this is over; by default it is ten seconds.
TASK_TIMEOUT = timedelta(seconds=3)


async def placed(shop: Shop, order_id: str) -> None:
    """An order that is paid and shipped."""
    await _is_placed(await _start(shop, order_id))


async def placed_together(shop: Shop, order_id: str) -> None:
    """Orders for one product that come at the same time."""
    runs = [await _start(shop, each) for each in together_with(order_id)]
    for run in runs:
        await _is_placed(run)


def together_with(order_id: str) -> list[str]:
    """The ids of orders that come at the same time as this one, itself included."""
    return [order_id, *(f"{order_id}-{number}" for number in range(5))]


async def refused(shop: Shop, order_id: str) -> None:
    """The warehouse refuses the address: the payment is voided or refunded, the stock put back."""
    await _ends_with(await _start(shop, order_id, shippingAddress=REFUSED_ADDRESS), ErrorCode.FULFILLMENT_REFUSED)


async def given_away(shop: Shop, order_id: str) -> None:
    """An order that costs nothing, and has no payment."""
    await _is_placed(await _start(shop, order_id, **FREE))


async def given_and_refused(shop: Shop, order_id: str) -> None:
    """The warehouse refuses the address of an order that costs nothing."""
    run = await _start(shop, order_id, **FREE, shippingAddress=REFUSED_ADDRESS)
    await _ends_with(run, ErrorCode.FULFILLMENT_REFUSED)


async def given_and_cancelled(shop: Shop, order_id: str) -> None:
    """An order that costs nothing is called off."""
    await given_away(shop, order_id)
    answer = await _cancel(shop, order_id)
    assert (answer.cancelled, answer.reason) == (True, CancelReason.NOT_CHARGED)


async def authenticated(shop: Shop, order_id: str) -> None:
    """The customer authenticates the payment first."""
    run, payment = await is_asked(shop, order_id)
    shop.world.stripe.account.authenticate(payment, succeeds=True)
    await run.signal("payment-updated")
    await _is_placed(run)


async def expired(shop: Shop, order_id: str) -> None:
    """The authorization lapses while it is being captured."""
    shop.world.faults.add(Fault(service="stripe", route="*/capture", kind="delay", seconds=PATIENCE))
    run = await _start(shop, order_id)

    async def struck() -> bool:
        return not shop.world.faults.pending()

    await eventually(struck, "the capture is on its way")
    shop.world.stripe.account.expire((await shop.row(order_id))["payment_intent_id"])
    shop.world.faults.clear()
    await _ends_with(run, ErrorCode.AUTHORIZATION_EXPIRED)


async def shipped_meanwhile(shop: Shop, order_id: str) -> None:
    """The warehouse ships an order that it never said it had accepted, and an operator's cancel comes too late."""
    await _ships_meanwhile(shop, order_id)


async def given_meanwhile(shop: Shop, order_id: str) -> None:
    """The same of an order that costs nothing."""
    await _ships_meanwhile(shop, order_id, **FREE)


async def _ships_meanwhile(shop: Shop, order_id: str, **changes: Any) -> None:
    deaf = Fault(service="fulfillment", route="POST /orders", kind="status", after_effect=True, times=None)
    shop.world.faults.add(deaf)
    run = await _start(shop, order_id, **changes)

    async def accepted() -> bool:
        return bool(shop.world.provider_records()["fulfillment"])

    await eventually(accepted, "the warehouse has the order")
    await shop.ship(order_id)
    await run.cancel()
    await _is_placed(run)


async def parked(shop: Shop, order_id: str) -> None:
    """The undo is stuck at the warehouse until an operator has it tried again."""
    refusal = Fault(service="fulfillment", route="POST /orders/*/cancel", kind="status", status=422)
    shop.world.faults.add(refusal)
    run = await _start(shop, order_id, shippingAddress=REFUSED_ADDRESS)
    await until_marked(run, "cancel_fulfillment")
    await resolve(run, "cancel_fulfillment", "retry")
    await _ends_with(run, ErrorCode.FULFILLMENT_REFUSED)


async def unwritten(shop: Shop, order_id: str) -> None:
    """The e-mail service refuses the confirmation for good: somebody is told."""
    shop.world.faults.add(Fault(service="email", kind="status", status=422))
    await _is_placed(await _start(shop, order_id))


async def cancelled(shop: Shop, order_id: str) -> None:
    """A paid order is called off and its money refunded."""
    await placed(shop, order_id)
    assert await _cancel(shop, order_id) == CancelOutcome(cancelled=True, refunded=True)


async def cancelled_short(shop: Shop, order_id: str) -> None:
    """A paid order is called off after one of its units fell short, which nobody told."""
    await placed(shop, order_id)
    await shop.at_warehouse(order_id, "short", {"lines": [{"productId": "1", "quantity": 1}]})
    assert await _cancel(shop, order_id) == CancelOutcome(cancelled=True, refunded=True)
    assert await shop.pool.fetchval("SELECT written_off FROM reservations") == 1


async def cancelled_late(shop: Shop, order_id: str) -> None:
    """A paid order is called off after it was shipped."""
    await placed(shop, order_id)
    await shop.ship(order_id)
    assert (await _cancel(shop, order_id)).reason == CancelReason.ALREADY_SHIPPED


async def cancelled_early(shop: Shop, order_id: str) -> None:
    """An order is cancelled before it begins."""
    await shop.start(an_order(), order_id, task_timeout=TASK_TIMEOUT, start_delay=timedelta(hours=1))
    assert (await _cancel(shop, order_id)).reason == CancelReason.NOT_CHARGED


async def cancelled_without_a_run(shop: Shop, order_id: str) -> None:
    """A paid order is cancelled; its run was terminated while it captured."""
    shop.world.faults.add(Fault(service="stripe", route="*/capture", kind="status", status=503, times=None))
    run = await _start(shop, order_id)

    async def is_capturing() -> bool:
        return await shop.status(order_id) == "capturing"

    await eventually(is_capturing, "the capture is claimed")
    await run.terminate()
    shop.world.faults.clear()
    assert await _cancel(shop, order_id) == CancelOutcome(cancelled=True, refunded=True)


async def refunded(shop: Shop, order_id: str) -> None:
    """One of two units comes back, and its price is refunded."""
    await placed(shop, order_id)
    outcome = await (await shop.start_refund(order_id, "r1", task_timeout=TASK_TIMEOUT)).result()
    assert (outcome.refunded, outcome.restocked) == (True, 1), outcome


async def refund_forestalled(shop: Shop, order_id: str) -> None:
    """Somebody has refunded more in the dashboard than this refund leaves: it is withdrawn."""
    await placed(shop, order_id)
    await refund_by_hand(shop, (await shop.row(order_id))["payment_intent_id"], 4000)
    outcome = await (await shop.start_refund(order_id, "r1", task_timeout=TASK_TIMEOUT)).result()
    assert outcome.reason is RefundReason.MORE_THAN_LEFT, outcome


async def is_asked(shop: Shop, order_id: str) -> tuple[WorkflowHandle[Any, OrderOutcome], str]:
    """The run of an order whose customer is asked to authenticate, and the payment."""
    run = await _start(shop, order_id, paymentMethodId="pm_card_threeDSecureRequired")
    return run, await eventually(lambda: _payment(shop, order_id, "requires_action"), "the customer is asked")


async def _start(shop: Shop, order_id: str, **changes: Any) -> WorkflowHandle[Any, OrderOutcome]:
    return await shop.start(an_order(**changes), order_id, task_timeout=TASK_TIMEOUT)


async def _cancel(shop: Shop, order_id: str) -> CancelOutcome:
    return await (await shop.start_cancel(order_id, task_timeout=TASK_TIMEOUT)).result()


async def _is_placed(run: WorkflowHandle[Any, OrderOutcome]) -> None:
    outcome = await run.result()
    assert outcome.success, outcome


async def _ends_with(run: WorkflowHandle[Any, OrderOutcome], code: ErrorCode) -> None:
    ending = await ending_of(run)
    assert ending.code is code, ending


async def _payment(shop: Shop, order_id: str, status: str) -> str | None:
    """The id of the order's payment, once it is in that state."""
    intent_id = await shop.pool.fetchval("SELECT payment_intent_id FROM orders WHERE id = $1", order_id)
    account = shop.world.stripe.account
    return intent_id if intent_id and account.intent(intent_id).status == status else None
