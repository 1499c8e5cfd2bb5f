"""Delivery of notifications: retried within a bound, then given up and reported; never a reason to undo."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from orders.metrics import NOTIFICATIONS_GIVEN_UP
    from orders.models import Notification
    from saga import SLOW_RETRY, UNTIL_DONE, reason, run_activity, within
    from workflows.timeline import OrderTimeline


async def deliver(
    send: Callable[[Any, Notification], Awaitable[str]],
    notification: Notification,
    deadline_seconds: int,
    timeline: OrderTimeline,
) -> None:
    """Deliver a notification; at the deadline record that it was given up, and alert operators."""
    options = within(timedelta(seconds=deadline_seconds), SLOW_RETRY)
    try:
        await run_activity(send, notification, options, f"notification {notification.name}")
    except ActivityError as error:
        await give_up(notification, reason(error), timeline)


async def give_up(notification: Notification, why: str, timeline: OrderTimeline) -> None:
    """Record that a notification will not be delivered, and alert operators."""
    name = notification.name
    await run_activity(Notifications.give_up_notification, notification, UNTIL_DONE, f"give up {name}")
    NOTIFICATIONS_GIVEN_UP.add(kind=notification.kind)
    timeline.call_for_attention(f"notification:{name}", f"the notification {name} was not delivered", why)
