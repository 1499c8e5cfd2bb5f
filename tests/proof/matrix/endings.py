"""How a cell of the matrix must end: its run, the caller's answer, the row and the money."""

import asyncio
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.service import RPCError

from orders.names import RECONCILE_ORDERS
from sandbox.faults import Fault
from tests.support.invariants import assert_invariants
from tests.support.scenarios import Ending, Run, ending_of
from tests.support.shop import PATIENCE, Shop

ORDER_ID: Final = "o1"  # the one order of each cell
TOTAL: Final = 5998  # of the order that tests place, in minor units

POLL_EVERY: Final = 0.1  # seconds
RETRY_PAUSE: Final = timedelta(minutes=2)  # longer than the pause after a first failure


@dataclass(frozen=True)
class ExpectedEnding:
    """`how` the run ends and its `code`, the row's `status`, and the minor units `captured` and `refunded`."""

    how: str
    code: str | None
    status: str | None
    captured: int = 0
    refunded: int = 0


PLACED: Final = ExpectedEnding("completed", None, "processing", captured=TOTAL)


async def check_ending(shop: Shop, run: Run, expected: ExpectedEnding) -> None:
    """Wait for the end of the run, and check it, the row, the money and all rules."""
    ending = await wait_for_ending(shop, run)
    assert (ending.how, ending.code) == (expected.how, expected.code), ending
    money = shop.world.books()["orders"].get(run.id, {"captured": 0, "refunded": 0})
    found = (await shop.status(run.id), money["captured"], money["refunded"])
    assert found == (expected.status, expected.captured, expected.refunded)
    await assert_invariants(shop, run.id)


async def wait_for_ending(shop: Shop, run: Run) -> Ending:
    """How the run ends; the clock is moved over the pauses between its attempts."""
    ending = asyncio.ensure_future(ending_of(run))
    try:
        async with asyncio.timeout(PATIENCE):
            while not (await asyncio.wait({ending}, timeout=POLL_EVERY))[0]:
                if await is_paused(run):
                    with suppress(RPCError):  # the run may end meanwhile
                        await shop.advance(run, RETRY_PAUSE)
        return ending.result()
    finally:
        ending.cancel()


async def is_paused(run: Run) -> bool:
    """An activity of the run waits for its next attempt."""
    pending = (await run.describe()).raw_description.pending_activities
    scheduled = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    return any(each.attempt > 1 and each.state == scheduled for each in pending)


async def reconcile(shop: Shop) -> None:
    """Run reconcile-orders once."""
    workflow_id = f"reconcile-{uuid.uuid4().hex[:8]}"
    await shop.client.execute_workflow(RECONCILE_ORDERS, id=workflow_id, task_queue=shop.task_queue)


def inject_fault(shop: Shop, service: str, route: str, fault: dict[str, Any]) -> None:
    """Let one request of the route fail, or more as the fault says."""
    shop.world.faults.add(Fault.model_validate({"service": service, "route": route, **fault}))
