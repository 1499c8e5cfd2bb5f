"""Messages to customers and analytics: tried within a bound, then given up in plain sight, never a reason to undo."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from orders.models import Notification
    from workflows.steps import SLOW_RETRY, UNTIL_DONE, step, within
    from workflows.timeline import OrderTimeline


async def deliver(
    send: Callable[[Any, Notification], Awaitable[str]],
    notification: Notification,
    deadline_seconds: int,
    timeline: OrderTimeline,
) -> None:
    """Deliver a notification, or record that it was given up and tell somebody."""
    options = within(timedelta(seconds=deadline_seconds), SLOW_RETRY)
    try:
        await step(send, notification, options, f"{notification.kind} notification")
    except ActivityError:
        await step(Notifications.give_up_notification, notification, UNTIL_DONE, f"give up {notification.kind}")
        timeline.call_for_attention(
            f"notification:{notification.kind}", f"the notification {notification.kind} could not be delivered"
        )
