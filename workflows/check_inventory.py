"""check-and-alert-inventory: say which products run short, and tell the people who reorder once of each shortage."""

from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.stock_alerts import StockAlerts
    from orders.names import CHECK_INVENTORY
    from orders.parsing import parse_nothing
    from orders.stock import StockReport
    from workflows.inputs import parsed
    from workflows.saga import reason
    from workflows.steps import SLOW_RETRY, raise_if_cancelled, step, within
    from workflows.timeline import Timeline

THROUGH_AN_OUTAGE: Final = within(timedelta(hours=2), SLOW_RETRY)

MAX_LISTED: Final = 5_000
MAX_NAMED: Final = 100  # in one message
MAX_MESSAGES: Final = 200  # of one run: its history must not outgrow Temporal's limit


@workflow.defn(name=CHECK_INVENTORY)
class CheckInventory:
    """One look at the shelves. An outage of Slack delays its end and is told in its answer; it fails nothing."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._alerted = 0

    @workflow.run
    async def run(self, raw: RawValue = None) -> StockReport:  # type: ignore[assignment]
        """Look, and tell; the input is `{}`, null or nothing.

        Raises:
            ApplicationError: InvalidInput, naming every field that is there all the same.
        """
        parsed(parse_nothing, raw)
        report = await step(StockAlerts.find_shortages, MAX_LISTED, THROUGH_AN_OUTAGE, "which products run short?")
        low = len(report.low_stock_items) + report.unlisted
        self._timeline.tell(f"products at or below their reorder level: {low}")
        undelivered = await self._tell_slack() if low else None
        return report.model_copy(update={"alerted": self._alerted, "undelivered": undelivered})

    async def _tell_slack(self) -> str | None:
        """One message after the other until there is nothing left to tell, or why that was not possible."""
        try:
            for _ in range(MAX_MESSAGES):
                posted = await step(StockAlerts.post_shortages, MAX_NAMED, THROUGH_AN_OUTAGE, "tell Slack")
                if posted is None:
                    self._timeline.tell("nothing is left to tell")
                    return None
                self._alerted += posted.products
                self._timeline.tell(f"products that Slack was told of: {posted.products}")
        except ActivityError as error:
            raise_if_cancelled(error)
            self._timeline.mark(
                error.activity_type, f"Slack could not be told: {reason(error)}; the next run tries again"
            )
            return reason(error)
        self._timeline.tell("the next run tells the rest")
        return f"{MAX_MESSAGES} messages were posted: the next run tells the rest"
