"""notify-shipment: notify the customer that a parcel has left, once."""

from typing import Final

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from activities.notifications import Notifications
    from activities.parcels import Parcels
    from orders.names import NOTIFY_SHIPMENT
    from orders.parcels import parse_notice
    from saga import UNTIL_DONE, run_activity
    from workflows.inputs import parsed
    from workflows.notifications import deliver, give_up
    from workflows.timeline import OrderTimeline

UNKNOWN_ADDRESS: Final = (
    "nobody knows the customer's address: Temporal no longer has the order's request, or PAYLOAD_KEYS lacks its key"
)


@workflow.defn(name=NOTIFY_SHIPMENT)
class NotifyShipment:
    """The message about one parcel; its workflow id is `notify-shipment:<order id>:<shipment id>`."""

    @workflow.run
    async def run(self, raw: RawValue = None) -> None:  # type: ignore[assignment]
        """Notify the customer of the parcel that the input names; see orders.parcels.ParcelNotice.

        Raises:
            ApplicationError: `InvalidInput`, naming every field that is wrong.
        """
        notice = parsed(parse_notice, raw)
        timeline = OrderTimeline(notice.order_id)
        due = await run_activity(Parcels.find_recipient, notice, UNTIL_DONE, "whom to notify")
        if due is None:
            timeline.note("nobody has to be notified")
            return
        if due.notification.to is None:
            await give_up(due.notification, UNKNOWN_ADDRESS, timeline)
        else:
            await deliver(Notifications.send_email, due.notification, due.deadline, timeline)
        await timeline.flush()
