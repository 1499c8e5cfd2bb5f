"""Alerts about problems that go on: one a day for each problem, by the first run that finds it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from activities.reconciliation import Reconciliation
    from orders.metrics import ALERTS_LOST
    from orders.models import Alert
    from orders.reconciliation import Problem
    from saga import SLOW_RETRY, raise_if_cancelled, reason, run_activity, within
    from workflows.timeline import Timeline

MAX_ALERTS: Final = 200  # of one run; the next run sends the rest

BRIEFLY: Final = within(timedelta(minutes=5), SLOW_RETRY)  # for one activity; the next run does what was not done


class AlertResult(NamedTuple):
    """The texts of the alerts that were sent, and why the others could not be sent."""

    sent: list[str]
    failure: str = ""


async def alert_operators(problems: Sequence[Problem], timeline: Timeline) -> AlertResult:
    """Send an alert about every problem that no alert of the last day was about."""
    if not problems:
        return AlertResult([])
    summary = "which problems are unreported?"
    try:
        due = await run_activity(Reconciliation.unreported_problems, problems, BRIEFLY, summary)
    except ActivityError as error:
        return AlertResult([], _failure(timeline, summary, error))
    sent: list[str] = []
    for problem in [problem for problem in problems if problem.key in due][:MAX_ALERTS]:
        key = f"{problem.key}:{workflow.info().run_id}"
        alert = Alert(order_id=problem.order_id, key=key, text=problem.text, run=problem.run, command=problem.command)
        try:
            await run_activity(Notifications.post_alert, alert, BRIEFLY, problem.text)
            await run_activity(Reconciliation.mark_alerted, problem.key, BRIEFLY, "record the alert")
        except ActivityError as error:
            return AlertResult(sent, _failure(timeline, problem.text, error))  # the next run tries the others
        sent.append(problem.text)
    return AlertResult(sent)


def _failure(timeline: Timeline, what: str, error: ActivityError) -> str:
    raise_if_cancelled(error)
    ALERTS_LOST.add()
    text = f"no alert could be sent: {what}: {reason(error)}"
    timeline.mark(workflow.info().workflow_type, text)
    return text
