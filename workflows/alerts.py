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
KEYS_AT_ONCE: Final = 1_000  # of problems, in one payload
WHICH: Final = "which problems are unreported?"

BRIEFLY: Final = within(timedelta(minutes=5), SLOW_RETRY)  # for one activity; the next run does what was not done


class AlertResult(NamedTuple):
    """The texts of the alerts that were sent, and why the others could not be sent."""

    sent: list[str]
    failure: str = ""


async def alert_operators(problems: Sequence[Problem], timeline: Timeline) -> AlertResult:
    """Send an alert about every problem that no alert of the last day was about."""
    if not problems:
        return AlertResult([])
    try:
        due = await _find_unreported(problems)
    except ActivityError as error:
        return AlertResult([], _failure(timeline, WHICH, error))
    sent: list[str] = []
    for problem in due:
        key = f"{problem.key}:{workflow.info().run_id}"
        alert = Alert(order_id=problem.order_id, key=key, text=problem.text, run=problem.run, command=problem.command)
        try:
            await run_activity(Notifications.post_alert, alert, BRIEFLY, problem.text)
            await run_activity(Reconciliation.mark_alerted, problem.key, BRIEFLY, "record the alert")
        except ActivityError as error:
            return AlertResult(sent, _failure(timeline, problem.text, error))  # the next run tries the others
        sent.append(problem.text)
    return AlertResult(sent)


async def _find_unreported(problems: Sequence[Problem]) -> list[Problem]:
    """As many of them as one run alerts operators of. On a bad day all of them are more than one payload holds."""
    due: list[Problem] = []
    for start in range(0, len(problems), KEYS_AT_ONCE):
        page = problems[start : start + KEYS_AT_ONCE]
        keys = await run_activity(Reconciliation.unreported_problems, [each.key for each in page], BRIEFLY, WHICH)
        due += [each for each in page if each.key in keys]
        if len(due) >= MAX_ALERTS:
            break
    return due[:MAX_ALERTS]


def _failure(timeline: Timeline, what: str, error: ActivityError) -> str:
    raise_if_cancelled(error)
    ALERTS_LOST.add()
    text = f"no alert could be sent: {what}: {reason(error)}"
    timeline.mark(workflow.info().workflow_type, text)
    return text
