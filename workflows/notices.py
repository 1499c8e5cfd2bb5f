"""Messages to customers and analytics: tried within a bound, then given up in plain sight, never a reason to undo."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from orders.models import Notice
    from workflows.progress import Progress
    from workflows.steps import LEISURELY, UNTIL_DONE, step, within


async def deliver(
    send: Callable[[Any, Notice], Awaitable[str]], notice: Notice, deadline_seconds: int, progress: Progress
) -> None:
    """Deliver a notice, or record that it was given up and tell somebody."""
    options = within(timedelta(seconds=deadline_seconds), LEISURELY)
    try:
        await step(send, notice, options, f"{notice.kind} notice")
    except ActivityError:
        await step(Notifications.give_up_notice, notice, UNTIL_DONE, f"give up {notice.kind}")
        progress.call_for_attention(f"notice:{notice.kind}", f"the notice {notice.kind} could not be delivered")
