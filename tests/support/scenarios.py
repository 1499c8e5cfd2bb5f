"""How a run ended, and the moments on the way there, as tests ask for them."""

from dataclasses import dataclass
from typing import Any, Final

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from orders.models import ErrorCode, OrderOutcome, OrderView, Stage
from orders.names import NEEDS_ATTENTION, ORDER_OUTCOME, ORDER_STAGE
from saga import Resolution
from tests.support.shop import Shop, eventually, new_order_id

Run = WorkflowHandle[Any, Any]

ADD_PARCEL: Final = (
    "INSERT INTO shipments (order_id, id, carrier, tracking, shipped_at) VALUES ($1, 'par_1', 'UPS', '1Z', now())"
)
MARK_SHIPPED: Final = """
    WITH moved AS (UPDATE orders SET status = 'shipped' WHERE id = $1 RETURNING id)
    INSERT INTO order_events (order_id, from_status, to_status, actor, why)
    SELECT id, 'processing', 'shipped', 'test', 'a parcel has left' FROM moved
"""

REFUSED_ADDRESS: Final = {"street": "1 Refuse Street", "city": "San Francisco", "state": "CA", "zip": "94102"}


@dataclass(frozen=True)
class Ending:
    """`how` is completed, failed or cancelled; `outcome` what the run answered, also inside its failure."""

    how: str
    outcome: OrderOutcome | None
    words: str = ""

    @property
    def code(self) -> ErrorCode | None:
        return self.outcome.error_code if self.outcome else None


async def ending_of(run: Run) -> Ending:
    """The end of process-order, whatever it is."""
    try:
        return Ending("completed", OrderOutcome.model_validate(await run.result()))
    except WorkflowFailureError as failure:
        match failure.cause:
            case CancelledError():
                return Ending("cancelled", None)
            case ApplicationError(type="order_failed", details=[details], message=words):
                return Ending("failed", OrderOutcome.model_validate(details), words)
        raise


async def marks(run: Run) -> tuple[str | None, str | None]:
    """The search attributes OrderStage and NeedsAttention."""
    found = (await run.describe()).typed_search_attributes
    return found.get(ORDER_STAGE), found.get(NEEDS_ATTENTION)


async def shown_outcome(run: Run) -> str | None:
    """The search attribute OrderOutcome."""
    return (await run.describe()).typed_search_attributes.get(ORDER_OUTCOME)


async def look(run: Run) -> OrderView:
    view: OrderView = await run.query("status", result_type=OrderView)
    return view


async def until_stage(run: Run, stage: Stage) -> None:
    async def reached() -> bool:
        return (await look(run)).stage is stage

    await eventually(reached, f"the run is {stage}")


async def until_stuck(run: Run) -> tuple[str, ...]:
    """The parked undos, once there are any."""

    async def stuck() -> tuple[str, ...]:
        return (await look(run)).parked

    parked: tuple[str, ...] = await eventually(stuck, "an undo is parked")
    return parked


async def until_marked(run: Run, what: str) -> None:
    async def marked() -> bool:
        return (await marks(run))[1] == what

    await eventually(marked, f"the run asks for attention: {what}")


async def until_attempts(shop: Shop, activity: str, count: int) -> None:
    async def tried() -> bool:
        return sum(name == activity for _, name in shop.hooks.calls) >= count

    await eventually(tried, f"{activity} was tried {count} times")


async def seconds_to_retry(run: Run) -> int:
    """How long the first pending activity waits for its next attempt, once an attempt has failed.

    Moving the clock cannot show it: the test server makes the next attempt as soon as the clock of its run is moved.
    """

    async def interval() -> int:
        pending = (await run.describe()).raw_description.pending_activities
        return round(pending[0].current_retry_interval.ToTimedelta().total_seconds()) if pending else 0

    seconds: int = await eventually(interval, "an attempt has failed")
    return seconds


async def resolve(run: Run, step: str, action: Any, reason: str = "looked at it") -> str:
    said: str = await run.execute_update("resolve", Resolution(step=step, action=action, reason=reason))
    return said


async def is_running(run: Run) -> bool:
    return (await run.describe()).status is WorkflowExecutionStatus.RUNNING


def emails_to_customer(shop: Shop, order_id: str) -> list[str]:
    """What was written to the customer, oldest first."""
    emails = shop.world.provider_records()["emails"]
    return [email["template"] for email in emails if email["data"]["orderNumber"] == order_id]


def final_error() -> ApplicationError:
    """What no further attempt can heal."""
    return ApplicationError("scripted", type="scripted", non_retryable=True)


def outage() -> ApplicationError:
    """What the next attempt may heal."""
    return ApplicationError("scripted outage", type="scripted")


async def ship(shop: Shop) -> str:
    """A shipped order, of whose parcel `par_1` nobody was told."""
    order_id = new_order_id()
    assert (await shop.place(order_id=order_id)).success
    await shop.pool.execute(MARK_SHIPPED, order_id)
    await shop.pool.execute(ADD_PARCEL, order_id)
    return order_id
