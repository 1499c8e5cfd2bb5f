"""The saga of an order: its steps, and how undos park. process-order, cancel-order and refund-order share it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar, get_args

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.fulfillment import FULFILL
    from activities.inventory import RESERVE
    from activities.order_state import OrderState, ResolutionRecord
    from activities.payments import AUTHORIZE, Payments
    from orders.commands import resolve_command
    from orders.metrics import PARKS, RESOLUTIONS
    from orders.models import Attention, OrderRow, Park, ResolutionAction, Stage, UndoResult, View
    from orders.money import show
    from saga import UNTIL_DONE, Resolution, Saga, Step, StopUndo, run_activity
    from workflows.timeline import OrderTimeline, measured

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

# In the order in which they happen. An undo waits for the undos of later steps, unless it is declared independent.
STEPS: Final[tuple[Step[Any, Any, Any], ...]] = (RESERVE, AUTHORIZE, FULFILL)


class OrderSaga(Saga):
    """A saga whose park is a mark on the order row: nothing moves that row until an operator resolves the park.

    An independent undo may park when the row is closed already, and must not hold up the others: its park is in the run
    alone.
    """

    def __init__(
        self,
        order_id: str,
        timeline: OrderTimeline,
        *,
        steps: tuple[Step[Any, Any, Any], ...] = STEPS,
        if_shipped: Callable[[Any, str], Awaitable[OrderRow]] = Payments.resume_capture,
    ) -> None:
        """`if_shipped` moves the order on when the goods have left before the warehouse could cancel."""
        super().__init__(steps, order_id)
        self._timeline = timeline
        self._if_shipped = if_shipped
        self._stage: Stage | None = None  # before the first park
        self.resolution_count = 0  # of the order, as far as this run knows

    async def do(
        self, step: Step[ArgT, ResultT, Any], arg: ArgT, summary: str, deadline: timedelta | None = None
    ) -> ResultT:
        """Run a step forward; see Saga.do."""
        return await measured(step.do.__name__, super().do(step, arg, summary, deadline))

    async def run_undo(self, step: Step[Any, Any, Any]) -> str | StopUndo:
        """Undo one step, however long it takes."""
        result = await self._retry(step.undo, step.undoing)
        answer = step.read(result)
        note = answer.note if isinstance(answer, StopUndo) else answer
        self._timeline.note(note)
        if isinstance(result, UndoResult) and result.shipped:
            row = await self._retry(self._if_shipped, "the goods have left: go forward")
            return StopUndo(f"{note}; the order is {row.status}")
        return answer

    async def take_over_park(self, row: OrderRow) -> None:
        """Go on from the row: where an earlier run was parked, wait for an operator; see Saga.take_over."""
        self.resolution_count = row.resolution_count
        if row.parked_step:
            await self.take_over(row.parked_step, row.parked_reason or "parked by an earlier run")

    @property
    def attention(self) -> tuple[Attention, ...]:
        """All that the run needs an operator for, and the resolutions that it takes."""
        unmarked = {name: Attention(what=name, reason=why) for name, why in self.parked.items()}
        return tuple(
            each.model_copy(
                update={
                    "parked": name in self.parked,
                    "actions": self._actions(name) if self.is_resolvable(name) else (),
                }
            )
            for name, each in (unmarked | self._timeline.attention).items()
        )

    def is_resolvable(self, name: str) -> bool:
        """Whether an operator may decide about this undo now: it is parked, or it keeps failing."""
        return name in self.parked or (super().is_resolvable(name) and self._timeline.needs_attention(name))

    async def undo(self, cause: BaseException | None = None) -> None:
        """Undo everything now; afterwards no undo needs attention."""
        await super().undo(cause)
        for step in self.steps:
            self._timeline.needs_no_more_attention(step.name)

    async def on_park(self, step: str, reason: str) -> bool:
        """Mark the row and alert operators. False: the row is not marked, because it has moved on."""
        park = Park(
            order_id=self.saga_id,
            step=step,
            reason=reason,
            workflow_id=workflow.info().workflow_id,
            resolution_count=self.resolution_count,
            marks_row=not self._is_independent(step),
        )
        row = await run_activity(OrderState.park_order, park, UNTIL_DONE, f"park {step}")
        self.resolution_count = row.resolution_count
        if park.marks_row and row.parked_step != step:
            return False
        PARKS.add(step=_label(step))
        if self._timeline.stage is not Stage.PARKED:
            self._stage = self._timeline.stage
        self._timeline.enter(Stage.PARKED, f"`{step}` is parked")
        parked = Attention(what=step, reason=reason, parked=True, actions=self._actions(step))
        self._timeline.call_for_attention(
            step,
            f"{step} is parked",
            reason,
            amount=self.at_stake(row),
            command=resolve_command(self.saga_id, parked),
        )
        return True

    def at_stake(self, row: OrderRow) -> str:
        """The amount that operators read in an alert: the order's total, unless a subclass knows a smaller one."""
        return show(row.total, row.currency)

    async def on_resolution(self, resolution: Resolution) -> bool:
        """Record what the operator decided. False: the row is not parked at that step any more."""
        update = workflow.current_update_info()
        record = ResolutionRecord(
            order_id=self.saga_id,
            key=f"{workflow.info().run_id}:{update.id if update else ''}",
            resolution=resolution,
            marks_row=not self._is_independent(resolution.step),
        )
        summary = f"{resolution.action} {resolution.step}"
        row = await run_activity(OrderState.record_resolution, record, UNTIL_DONE, summary)
        self._timeline.needs_no_more_attention(resolution.step)
        if row is None:
            return False
        self.resolution_count = row.resolution_count
        RESOLUTIONS.add(step=_label(resolution.step), action=resolution.action)
        text = f"{resolution.by} says {resolution.action}: {resolution.reason}"
        others_wait = bool(self.parked.keys() - {resolution.step})
        self._timeline.enter(Stage.PARKED if others_wait else self._stage or Stage.UNDOING, text)
        return True

    async def _retry(self, activity: Callable[[Any, str], Awaitable[Any]], summary: str) -> Any:  # noqa: ANN401  per step
        return await self._timeline.retry_until_done(activity, self.saga_id, summary, may_fail=True)

    def _actions(self, name: str) -> tuple[ResolutionAction, ...]:
        only_retry = any(not step.skippable for step in self.steps if step.name == name)
        return ("retry",) if only_retry else get_args(ResolutionAction)

    def _is_independent(self, name: str) -> bool:
        return any(step.independent for step in self.steps if step.name == name)


def view_of(timeline: OrderTimeline, saga: OrderSaga | None) -> View:
    """What every `status` query answers; without a saga nothing is to be undone yet."""
    if saga is None:
        return View(stage=timeline.stage, attention=tuple(timeline.attention.values()))
    return View(stage=timeline.stage, parked=tuple(saga.parked), attention=saga.attention, undone=tuple(saga.undone))


def _label(step: str) -> str:
    """The name of a step without an id: metrics count kinds of steps."""
    return step.partition(":")[0]


def was_reset() -> bool:
    """Whether this run is what a reset made of an earlier one, which may have done anything already."""
    info = workflow.info()
    return info.run_id != info.original_execution_run_id
