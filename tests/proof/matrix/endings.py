"""What a cell of the matrix comes to: how its run ends, what the caller is told, what the row says, and the money."""

import asyncio
import uuid
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.service import RPCError

from orders.names import RECONCILE_ORDERS, cancel_order_id
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.scenarios import Ending, Run, ending_of, is_running
from tests.support.shop import PATIENCE, Shop

T = TypeVar("T")

O: Final = "o1"  # noqa: E741 (the one order of each cell)
TOTAL: Final = 5998  # of the order that tests place, in minor units

A_LOOK: Final = 0.1  # seconds between two looks at a run
A_PAUSE: Final = timedelta(minutes=2)  # longer than any that comes after a first failure


@dataclass(frozen=True)
class End:
    """`how` the run ends and its `code`; the row's `status`; what was `captured` and `refunded`, in minor units."""

    how: str
    code: str | None
    status: str | None
    captured: int = 0
    refunded: int = 0


PLACED: Final = End("completed", None, "processing", captured=TOTAL)


async def check_end(shop: Shop, run: Run, end: End) -> None:
    """The run ended so, and the books agree."""
    ending = await see_to_the_end(shop, run)
    assert (ending.how, ending.code) == (end.how, end.code), ending
    money = shop.world.provider_records()["orders"].get(run.id, {"captured": 0, "refunded": 0})
    found = (await shop.status(run.id), money["captured"], money["refunded"])
    assert found == (end.status, end.captured, end.refunded)
    await assert_invariants(shop, run.id)


async def see_to_the_end(shop: Shop, run: Run) -> Ending:
    """How process-order ends; nobody sits out the pauses between its attempts."""
    return await without_pauses(shop, run, ending_of(run))


async def without_pauses(shop: Shop, run: Run, end: Coroutine[Any, Any, T]) -> T:
    """What the end of the run comes to; nobody sits out the pauses between its attempts."""
    ending = asyncio.ensure_future(end)
    try:
        async with asyncio.timeout(PATIENCE):
            while not (await asyncio.wait({ending}, timeout=A_LOOK))[0]:
                if await is_paused(run):
                    with suppress(RPCError):  # it may end at this very moment
                        await shop.advance(run, A_PAUSE)
        return ending.result()
    finally:
        ending.cancel()


async def is_paused(run: Run) -> bool:
    """An activity of the run waits for its next attempt, which after a local one is a timer."""
    found = (await run.describe()).raw_description
    scheduled = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    if any(each.attempt > 1 and each.state == scheduled for each in found.pending_activities):
        return True
    is_idle = not found.pending_activities and not found.HasField("pending_workflow_task")
    return is_idle and await _waits_to_retry(run)


async def _waits_to_retry(run: Run) -> bool:
    events = (await run.fetch_history()).events
    fired = {each.timer_fired_event_attributes.timer_id for each in events}
    return any(
        each.timer_started_event_attributes.timer_id not in fired
        for each in events
        if each.HasField("timer_started_event_attributes") and each.user_metadata.summary.data.startswith(b'"retry ')
    )


async def has_looked(shop: Shop, cancel: Run) -> bool:
    """cancel-order has claimed the row, or found that there is nothing to claim."""
    claims = shop.hooks.calls.count((cancel_order_id(O), "claim_cancellation"))
    claimed = await shop.status(O) in {"undoing", "cancelling"}
    return claims > 1 or (claims > 0 and claimed) or not await is_running(cancel)


async def reconcile(shop: Shop) -> None:
    """Look after the orders without a run, the payments and the refunds, once."""
    sweep = f"reconcile-{uuid.uuid4().hex[:8]}"
    await shop.client.execute_workflow(RECONCILE_ORDERS, id=sweep, task_queue=shop.task_queue)


def strike(shop: Shop, service: str, route: str, fault: dict[str, Any]) -> None:
    """Let one request, or all of them, suffer the fault."""
    shop.world.faults.add(Fault.model_validate({"service": service, "route": route, **fault}))
