"""check-and-alert-inventory: report which products run short, and alert Slack once about each."""

from datetime import timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities.stock_alerts import StockAlerts
    from orders.metrics import ALERTS_LOST
    from orders.names import CHECK_INVENTORY
    from orders.parsing import parse_nothing
    from orders.stock import StockReport
    from saga import SLOW_RETRY, raise_if_cancelled, reason, run_activity, within
    from workflows.inputs import parsed
    from workflows.timeline import Timeline

OUTAGE: Final = within(timedelta(hours=2), SLOW_RETRY)  # how long an outage may last before this run gives up

MAX_LISTED: Final = 5_000
MAX_NAMED: Final = 100  # in one message
MAX_MESSAGES: Final = 200  # of one run: its history must stay below Temporal's limit


@workflow.defn(name=CHECK_INVENTORY)
class CheckInventory:
    """Checks the stock once. An outage of Slack delays the end of the run and appears in its report."""

    def __init__(self) -> None:
        self._timeline = Timeline()
        self._alerted = 0

    @workflow.run
    async def run(self, raw: RawValue = None) -> StockReport:  # type: ignore[assignment]
        """Find the products that are low and alert Slack; the input is `{}`, null or nothing.

        Raises:
            ApplicationError: InvalidInput, naming every field that is not expected.
        """
        parsed(parse_nothing, raw)
        report = await run_activity(StockAlerts.find_low_stock, MAX_LISTED, OUTAGE, "which products run short?")
        low = len(report.low_stock_items) + report.unlisted
        self._timeline.note(f"products at or below their reorder level: {low}")
        undelivered = await self._alert_slack() if low else None
        return report.model_copy(update={"alerted": self._alerted, "undelivered": undelivered})

    async def _alert_slack(self) -> str | None:
        """Post messages until every product is reported; the result says why some are not."""
        try:
            for _ in range(MAX_MESSAGES):
                posted = await run_activity(StockAlerts.post_low_stock, MAX_NAMED, OUTAGE, "alert Slack")
                if posted is None:
                    self._timeline.note("every low product is reported")
                    return None
                self._alerted += posted.products
                self._timeline.note(f"products reported to Slack: {posted.products}")
        except ActivityError as error:
            raise_if_cancelled(error)
            ALERTS_LOST.add()
            text = f"Slack could not be alerted: {reason(error)}; the next run tries again"
            self._timeline.mark(error.activity_type, text)
            return reason(error)
        self._timeline.note("the next run reports the rest")
        return f"{MAX_MESSAGES} messages were posted: the next run reports the rest"
