"""AlertResult people of troubles that go on: of each one once a day, by whichever run comes upon it."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final, NamedTuple

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from activities.reconciliation import Reconciliation
    from orders.models import Alert
    from orders.reconciliation import Problem
    from workflows.saga import reason
    from workflows.steps import SLOW_RETRY, raise_if_cancelled, step, within
    from workflows.timeline import Timeline

MAX_TOLD: Final = 200  # by one run: the next one tells the rest

PATIENCE: Final = within(timedelta(minutes=5), SLOW_RETRY)  # for one step; what is not done now is for the next run


class AlertResult(NamedTuple):
    """The texts of the problems that somebody was told of, and what kept others from being told."""

    told: list[str]
    failure: str = ""


async def alert_operators(problems: Sequence[Problem], story: Timeline) -> AlertResult:
    """Alert a person of every problem that nobody was told of today."""
    if not problems:
        return AlertResult([])
    try:
        due = await step(Reconciliation.unreported_problems, problems, PATIENCE, "who was told of what?")
    except ActivityError as error:
        return AlertResult([], _failure(story, "who was told of what?", error))
    told: list[str] = []
    for problem in [problem for problem in problems if problem.key in due][:MAX_TOLD]:
        alert = Alert(order_id=problem.order_id, key=f"{problem.key}:{workflow.info().run_id}", text=problem.text)
        try:
            await step(Notifications.post_alert, alert, PATIENCE, problem.text)
            await step(Reconciliation.mark_alerted, problem.key, PATIENCE, "told")
        except ActivityError as error:
            return AlertResult(told, _failure(story, problem.text, error))  # nor the others: the next run tries again
        told.append(problem.text)
    return AlertResult(told)


def _failure(story: Timeline, what: str, error: ActivityError) -> str:
    raise_if_cancelled(error)
    text = f"nobody could be told: {what}: {reason(error)}"
    story.mark(workflow.info().workflow_type, text)
    return text
