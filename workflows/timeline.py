"""What a person sees of a run: its stage, the story so far, and whether it needs attention."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, RetryState

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from orders.models import Alert, Stage
    from orders.names import CUSTOMER_ID, NEEDS_ATTENTION, ORDER_STAGE
    from workflows.saga import reason
    from workflows.steps import MAX_DOUBLINGS, SLOW_RETRY, retry_round, step, within

ArgT = TypeVar("ArgT")
ResultT = TypeVar("ResultT")

ALERT_DEADLINE: Final = timedelta(hours=1)
AFTER_A_FINAL_ERROR: Final = timedelta(minutes=1)
MAX_LINES: Final = 50  # of the story


class Timeline:
    """What has happened so far, line by line: the current details of the run, and its log."""

    def __init__(self, **about: object) -> None:
        """`about` goes with every line of the log."""
        self._about = about
        self._timeline: list[str] = []

    def tell(self, note: str) -> None:
        """One more line."""
        workflow.logger.info(note, extra=dict(self._about))
        self._timeline.append(f"- {workflow.now():%H:%M:%S} {note}")
        workflow.set_current_details("\n".join(self._timeline[-MAX_LINES:]))

    def mark(self, what: str, note: str) -> None:
        """Mark the run for a person."""
        workflow.upsert_search_attributes([NEEDS_ATTENTION.value_set(what)])
        self.tell(f"**{note}**")


class OrderTimeline(Timeline):
    """Search attributes for lists, current details for the run's page, alerts for those who look at neither."""

    def __init__(self, order_id: str) -> None:
        super().__init__(order_id=order_id)
        self._order_id = order_id
        self.stage: Stage | None = None
        self._alerts: list[asyncio.Task[None]] = []

    def enter(self, stage: Stage, note: str, *, customer_id: str | None = None) -> None:
        """The next stage of the order, and what it is about."""
        changed, self.stage = stage is not self.stage, stage
        self._about["stage"] = stage
        self.tell(note)
        if changed:
            customer = [CUSTOMER_ID.value_set(customer_id)] if customer_id else []
            workflow.upsert_search_attributes([ORDER_STAGE.value_set(stage), *customer])

    def call_for_attention(self, what: str, note: str) -> None:
        """Mark the run for a person, and alert one without waiting for it."""
        self.mark(what, note)
        key = f"{self._order_id}:{what}:{len(self._timeline)}:{workflow.info().run_id}"
        alert = Alert(order_id=self._order_id, key=key, text=f"{self._order_id}: {note}")
        self._alerts.append(asyncio.create_task(self._alert(alert)))

    def no_longer_needs_attention(self) -> None:
        workflow.upsert_search_attributes([NEEDS_ATTENTION.value_unset()])

    async def retry_until_done(
        self,
        activity: Callable[[Any, ArgT], Awaitable[ResultT]],
        arg: ArgT,
        summary: str,
        *,
        may_fail: bool,
    ) -> ResultT:
        """Run an activity however long it takes, and call for attention as long as it keeps failing.

        Raises:
            ActivityError: with `may_fail`, that it failed for good.
        """
        rounds = 0
        while True:
            try:
                result = await step(activity, arg, retry_round(rounds), summary)
            except ActivityError as error:
                for_good = error.retry_state is RetryState.NON_RETRYABLE_FAILURE
                if for_good and may_fail:
                    raise
                self.call_for_attention(error.activity_type, f"{error.activity_type} keeps failing: {reason(error)}")
                if for_good:
                    pause = AFTER_A_FINAL_ERROR * 2 ** min(rounds, MAX_DOUBLINGS)
                    await workflow.sleep(pause, summary=f"{error.activity_type} will be tried again")
                rounds += 1
            else:
                if rounds:
                    self.no_longer_needs_attention()
                return result

    async def flush(self) -> None:
        """Wait for the alerts that are still on their way."""
        for alert in self._alerts:
            await alert

    async def _alert(self, alert: Alert) -> None:
        try:
            await step(Notifications.post_alert, alert, within(ALERT_DEADLINE, SLOW_RETRY), "alert the people on call")
        except ActivityError:
            workflow.logger.error("an alert could not be posted", extra={"order_id": alert.order_id, "key": alert.key})
