"""What the programs count and measure. Each metric is declared here once; docs/operating.md explains it.

Metrics go through the SDK's meters to the one address METRICS_ADDRESS; without it they cost nothing. A workflow's meter
is silent while the run is replayed, and writes nothing into its history. The values of labels are names of this code or
of an enumeration: never an id, an address or a text from outside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from temporalio import activity, workflow
from temporalio.common import MetricMeter
from temporalio.runtime import Runtime

# In seconds: calls of external services end within five, steps may be retried for hours.
CALL_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STEP_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 600.0, 3600.0)


@dataclass(frozen=True)
class Metric:
    """One metric. `name` is the exporter's, which adds `_total` to the name of a counter."""

    name: str
    meaning: str
    labels: Sequence[str] = ()


class Counter(Metric):
    def add(self, **labels: str) -> None:
        """Count one event."""
        _meter().create_counter(self.name, self.meaning).add(1, labels)


class Gauge(Metric):
    def show(self, value: float, **labels: str) -> None:
        """Show this value until the next one."""
        _meter().create_gauge_float(self.name, self.meaning).set(value, labels)


@dataclass(frozen=True)
class Histogram(Metric):
    buckets: Sequence[float] = STEP_BUCKETS

    def observe(self, value: float, **labels: str) -> None:
        """Count one event, and its length in seconds."""
        _meter().create_histogram_float(self.name, self.meaning).record(value, labels)


def _meter() -> MetricMeter:
    """That of the workflow or activity that runs here, else that of the process."""
    if workflow.in_workflow():
        return workflow.metric_meter()
    if activity.in_activity():
        return activity.metric_meter()
    return Runtime.default().metric_meter


# ------------------------------------------------------------------------------------------------- of runs, in workers

ORDERS: Final = Counter(
    "order_sagas_orders",
    "Orders that process-order answered: `placed`, `rejected`, `failed` or `cancelled`, and why (`none`: placed). "
    "Each answer of a run counts: an order whose run is restarted or reset counts again.",
    ("outcome", "error_code"),
)
ORDER_SECONDS: Final = Histogram(
    "order_sagas_order_seconds",
    "From the start of process-order to its answer; an order that waits for its customer counts too. "
    "Each answer of a run counts, so a restart or a reset counts again.",
    ("outcome",),
)
CANCELS: Final = Counter(
    "order_sagas_cancels",
    "Answers of cancel-order: whether the order was cancelled, and the reason (`refunded` if it names none).",
    ("cancelled", "reason"),
)
REFUNDS: Final = Counter(
    "order_sagas_refunds",
    "Answers of refund-order: whether the refund was made, and the reason (`refunded` if it names none).",
    ("refunded", "reason"),
)
STEP_SECONDS: Final = Histogram(
    "order_sagas_step_seconds",
    "Steps and undos of orders, with all their attempts: `done`, or `failed` (the time for a round of attempts is "
    "over, or it failed for good). One that a cancel ended is not counted.",
    ("step", "outcome"),
)
UNDOS: Final = Counter(
    "order_sagas_undos",
    "Orders that began to be undone before they were paid, by the status in which they will close.",
    ("closing",),
)
PARKS: Final = Counter("order_sagas_parks", "Undos that failed for good, and wait for an operator.", ("step",))
RESOLUTIONS: Final = Counter(
    "order_sagas_resolutions", "Decisions of operators about parked undos.", ("step", "action")
)
KEEPS_FAILING: Final = Counter(
    "order_sagas_keeps_failing", "Rounds of attempts at what must happen that ended without success.", ("step",)
)
NOTIFICATIONS_GIVEN_UP: Final = Counter(
    "order_sagas_notifications_given_up", "E-mails and events that were refused, or not delivered in time.", ("kind",)
)
ALERTS_LOST: Final = Counter("order_sagas_alerts_lost", "Alerts to operators that could not be posted.")

# ------------------------------------------------------------------------------------------------ of calls and events

EXTERNAL_CALL_SECONDS: Final = Histogram(
    "order_sagas_external_call_seconds",
    "Calls of external services, by the HTTP status of the answer; `none`: there was no answer.",
    ("service", "status"),
    CALL_BUCKETS,
)
WEBHOOKS: Final = Counter(
    "order_sagas_webhooks",
    "Deliveries of events: `applied`, `duplicate`, `not ours`, `unknown type`, `refused` or `not now`. The type of an "
    "event that is not known, or not authentic, is `other`.",
    ("source", "type", "result"),
)

# -------------------------------------------------------------------------- what is, read by the web process regularly

OPEN_ORDERS: Final = Gauge(
    "order_sagas_open_orders",
    "Orders in a status that passes: unfinished ones, and `processing` and `shipping`, of which not all has left.",
    ("status",),
)
PARKED_ORDERS: Final = Gauge("order_sagas_parked_orders", "Orders whose undo is parked now.")
OLDEST_OPEN_ORDER_SECONDS: Final = Gauge(
    "order_sagas_oldest_open_order_seconds", "Age of the oldest order that is unfinished and not parked; 0: none."
)
FAILED_REFUNDS: Final = Gauge(
    "order_sagas_failed_refunds", "Payments whose refund failed, and that neither Stripe nor an operator has settled."
)
OPEN_WARNINGS: Final = Gauge(
    "order_sagas_open_warnings", "Disputes, early fraud warnings and reviews of payments that are open.", ("kind",)
)
BROKEN_INVARIANTS: Final = Gauge(
    "order_sagas_broken_invariants", "Violations in the newest report of verify-orders; absent before the first."
)
SCHEDULE_APPLIED: Final = Gauge("order_sagas_schedule_applied", "1: Temporal has this Schedule.", ("schedule",))
SCHEDULE_LATE_INTERVALS: Final = Gauge(
    "order_sagas_schedule_late_intervals",
    "Time since the last success of a Schedule, in its own intervals; 0 while it is paused or not applied.",
    ("schedule",),
)
READ_TIMESTAMP_SECONDS: Final = Gauge(
    "order_sagas_read_timestamp_seconds",
    "When the web process last read the gauges above from this source, as Unix time.",
    ("source",),
)

ALL: Final[tuple[Metric, ...]] = tuple(each for each in list(vars().values()) if isinstance(each, Metric))
BUCKETS: Final[Mapping[str, Sequence[float]]] = {each.name: each.buckets for each in ALL if isinstance(each, Histogram)}
