"""What an operator sees of a run in the Web UI: its stage, what happened so far, and whether it needs attention."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, RetryState, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from orders.metrics import ALERTS_LOST, KEEPS_FAILING, STEP_SECONDS
    from orders.models import Alert, Attention, Stage
    from orders.names import CUSTOMER_ID, NEEDS_ATTENTION, ORDER_OUTCOME, ORDER_STAGE
    from saga import MAX_DOUBLINGS, SLOW_RETRY, reason, retry_round, run_activity, within

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

ALERT_DEADLINE: Final = timedelta(hours=1)
PAUSE_AFTER_FINAL_ERROR: Final = timedelta(minutes=1)
MAX_LINES: Final = 50


async def measured(step: str, work: Awaitable[ResultT]) -> ResultT:
    """The result of a step or an undo, whose outcome and length are counted."""
    start = workflow.time()
    try:
        result = await work
    except ActivityError as error:
        if not is_cancelled_exception(error):
            STEP_SECONDS.observe(workflow.time() - start, step=step, outcome="failed")
        raise
    STEP_SECONDS.observe(workflow.time() - start, step=step, outcome="done")
    return result


class Timeline:
    """The notes of a run, line by line: its current details in the Web UI, and its log."""

    def __init__(self, **fields: object) -> None:
        """`fields` go with every line of the log."""
        self._fields = fields
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Add a line."""
        workflow.logger.info(text, extra=dict(self._fields))
        self._notes.append(f"- {workflow.now():%H:%M:%S} {text}")
        workflow.set_current_details("\n".join(self._notes[-MAX_LINES:]))

    def mark(self, what: str, text: str) -> None:
        """Mark the run for an operator: lists of runs show `what`, the current details show the text."""
        workflow.upsert_search_attributes([NEEDS_ATTENTION.value_set(what)])
        self.note(f"**{text}**")


class OrderTimeline(Timeline):
    """The timeline of an order. It also keeps the search attributes up to date, and alerts operators."""

    def __init__(self, order_id: str) -> None:
        super().__init__(order_id=order_id)
        self._order_id = order_id
        self.stage: Stage | None = None
        self.attention: dict[str, Attention] = {}  # by what needs it; the newest is shown
        self._alerts: list[asyncio.Task[None]] = []

    def enter(self, stage: Stage, text: str, *, customer: str | None = None) -> None:
        """Begin the next stage of the order; lists of runs show its customer by this name."""
        self._enter(stage, text, [CUSTOMER_ID.value_set(customer)] if customer else [])

    def name_customer(self, tag: str | None) -> None:
        """Let lists of runs find the run by its customer, unless its starter did."""
        if tag and not workflow.info().typed_search_attributes.get(CUSTOMER_ID):
            workflow.upsert_search_attributes([CUSTOMER_ID.value_set(tag)])

    def end(self, stage: Stage, outcome: str, text: str) -> None:
        """Begin the last stage of the order, and tell how it ended; lists of runs show `outcome`."""
        self._enter(stage, text, [ORDER_OUTCOME.value_set(outcome)])

    def call_for_attention(
        self, what: str, text: str, reason: str, *, amount: str | None = None, command: str | None = None
    ) -> None:
        """Mark the run for an operator, and send an alert without waiting for it.

        `text` is a sentence about `what`, `reason` is why, and `command` is what an operator can type about it.
        """
        before = self.attention.pop(what, None)
        since = before.since if before else workflow.now()
        self.attention[what] = Attention(what=what, reason=reason, since=since, amount=amount)
        text = f"{text}: {reason}"
        self.mark(what, f"{text}. To resolve it: {command}" if command else text)
        key = f"{self._order_id}:{what}:{len(self._notes)}:{workflow.info().run_id}"
        at_stake = f" ({amount})" if amount else ""
        alert = Alert(order_id=self._order_id, key=key, text=f"{self._order_id}{at_stake}: {text}", command=command)
        self._alerts.append(asyncio.create_task(self._post(alert)))

    def needs_attention(self, what: str) -> bool:
        """Whether the run is marked for this."""
        return what in self.attention

    def needs_no_more_attention(self, what: str) -> None:
        """Take the mark off, unless something else needs attention."""
        if what not in self.attention:
            return
        del self.attention[what]
        newest = next(reversed(self.attention), None)
        mark = NEEDS_ATTENTION.value_set(newest) if newest else NEEDS_ATTENTION.value_unset()
        workflow.upsert_search_attributes([mark])

    async def retry_until_done(
        self,
        activity: Callable[[Any, ArgT], Awaitable[ResultT]],
        arg: ArgT,
        summary: str,
        *,
        may_fail: bool,
        what: str | None = None,
    ) -> ResultT:
        """Run an activity however long it takes, and call for attention as long as it keeps failing.

        `what` is what operators call it, by default the name of the activity.

        Raises:
            ActivityError: it was canceled; or, with `may_fail`, it failed for good.
        """
        rounds = 0
        name = what or activity.__name__
        while True:
            try:
                work = run_activity(activity, arg, retry_round(rounds), summary)
                result = await measured(activity.__name__, work)
            except ActivityError as error:
                is_final = error.retry_state is RetryState.NON_RETRYABLE_FAILURE
                if is_cancelled_exception(error) or (is_final and may_fail):
                    raise
                KEEPS_FAILING.add(step=error.activity_type)
                self.call_for_attention(name, f"{name} keeps failing", reason(error))
                if is_final:
                    pause = PAUSE_AFTER_FINAL_ERROR * 2 ** min(rounds, MAX_DOUBLINGS)
                    await workflow.sleep(pause, summary=f"retry {error.activity_type}")
                rounds += 1
            else:
                self.needs_no_more_attention(name)
                return result

    async def flush(self) -> None:
        """Wait for the alerts that are still on their way."""
        for alert in self._alerts:
            await alert

    def _enter(self, stage: Stage, text: str, updates: Sequence[SearchAttributeUpdate[str]]) -> None:
        """Update only what lists of runs do not show yet: each update is an event of the history."""
        self.stage = stage
        self._fields["stage"] = stage
        self.note(text)
        shown = workflow.info().typed_search_attributes
        wanted = [ORDER_STAGE.value_set(stage.listed), *updates]
        if changed := [each for each in wanted if shown.get(each.key) != each.value]:
            workflow.upsert_search_attributes(changed)

    async def _post(self, alert: Alert) -> None:
        try:
            await run_activity(Notifications.post_alert, alert, within(ALERT_DEADLINE, SLOW_RETRY), "alert operators")
        except ActivityError:
            ALERTS_LOST.add()
            workflow.logger.error("an alert could not be posted", extra={"order_id": alert.order_id, "key": alert.key})
