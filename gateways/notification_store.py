"""What became of messages about orders, as the table `notifications` keeps it."""

from typing import TYPE_CHECKING, Final

from orders.models import Notification

if TYPE_CHECKING:
    from gateways.postgres import Connection

GIVEN_UP: Final = "given_up"

# One that was given up may arrive later all the same.
KEEP: Final = """
    INSERT INTO notifications (order_id, kind, about, state, detail) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (order_id, kind, about) DO UPDATE SET state = excluded.state, detail = excluded.detail
    WHERE notifications.state = 'given_up' AND excluded.state <> 'given_up'
    RETURNING state
"""

READ: Final = "SELECT state FROM notifications WHERE (order_id, kind, about) = ($1, $2, $3) AND state <> 'given_up'"


async def keep_notification(connection: "Connection", notification: Notification, state: str, detail: str) -> bool:
    """Record what became of a notification. False: that is known already."""
    return await connection.fetchval(KEEP, *notification.identity, state, detail) is not None


async def read_end(connection: "Connection", notification: Notification) -> str | None:
    """`sent` or `dropped`; None: neither yet, so it may be delivered, also if it was given up."""
    state: str | None = await connection.fetchval(READ, *notification.identity)
    return state
