"""make dashboards: two Grafana dashboards as JSON files, "Orders" for who runs the shop and "Workers" for engineers.

    python -m deploy.monitoring.dashboards FOLDER

It needs the package grafana-foundation-sdk alone (requirements-dashboards.txt). Import the files in Grafana, or let it
provision the folder.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, Row, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueColorMode, LegendDisplayMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, Threshold, ThresholdsMode

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
REFRESH: Final = "30s"


class Number(NamedTuple):
    """One number as it is now, and what it means; from `limit` on it is red."""

    title: str
    expression: str
    meaning: str
    limit: float | None = None
    unit: str = "short"


class Graph(NamedTuple):
    """Curves over time, each named by `legend`, in Grafana's unit."""

    title: str
    expression: str
    legend: str
    unit: str = "short"


class Section(NamedTuple):
    title: str
    panels: Sequence[Number | Graph]


def rate(metric: str, by: str, labels: str = "") -> str:
    """Events in a second."""
    return f"sum by ({by}) (rate({metric}{labels}[$__rate_interval]))"


def in_an_hour(counter: str, by: str, labels: str = "") -> str:
    """Events of the last hour. `increase` misses the first of a kind, so a new kind is counted from its start."""
    count = f"sum by ({by}) ({counter}{labels}"
    return f"({count}) unless {count} offset 1h)) or sum by ({by}) (increase({counter}{labels}[1h]))"


def quantile(share: float, histogram: str, by: str, labels: str = "") -> str:
    """The length in seconds that this share of the events does not exceed."""
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', f'le, {by}' if by else 'le', labels)})"


ORDERS: Final = (
    Section(
        "Now",
        (
            Number(
                "Open orders", "sum(max by (status) (order_sagas_open_orders))", "Unfinished, or paid and not shipped"
            ),
            Number("Parked", "max(order_sagas_parked_orders)", "They wait for you: starter.py stuck", 1),
            Number(
                "Oldest open order",
                "max(order_sagas_oldest_open_order_seconds)",
                "Unfinished, and not parked",
                3600,
                "s",
            ),
            Number("Failed refunds", "max(order_sagas_failed_refunds)", "These customers do not have their money", 1),
            Number("Disputes and warnings", "sum(max by (kind) (order_sagas_open_warnings))", "Open at Stripe", 1),
            Number(
                "Broken invariants", "max(order_sagas_broken_invariants)", "In the newest report of verify-orders", 1
            ),
        ),
    ),
    Section(
        "Orders",
        (
            Graph("Orders in an hour", in_an_hour("order_sagas_orders_total", "outcome"), "{{outcome}}"),
            Graph(
                "Why orders did not succeed, in an hour",
                in_an_hour("order_sagas_orders_total", "error_code", '{outcome!="placed"}'),
                "{{error_code}}",
            ),
            Graph(
                "Until nine of ten are answered",
                quantile(0.9, "order_sagas_order_seconds", "outcome"),
                "{{outcome}}",
                "s",
            ),
            Graph("Open orders by status", "max by (status) (order_sagas_open_orders)", "{{status}}"),
        ),
    ),
    Section(
        "Cancels and undos",
        (
            Graph("Cancels in an hour", in_an_hour("order_sagas_cancels_total", "reason"), "{{reason}}"),
            Graph("Refunds of parts in an hour", in_an_hour("order_sagas_refunds_total", "reason"), "{{reason}}"),
            Graph("Undos in an hour", in_an_hour("order_sagas_undos_total", "closing"), "{{closing}}"),
            Graph("Parked since the workers started", "sum by (step) (order_sagas_parks_total)", "{{step}}"),
            Graph("Resolved since then", "sum by (action) (order_sagas_resolutions_total)", "{{action}}"),
        ),
    ),
    Section(
        "Messages, events and Schedules",
        (
            Graph(
                "Notifications given up since the workers started",
                "sum by (kind) (order_sagas_notifications_given_up_total)",
                "{{kind}}",
            ),
            Graph("Alerts that could not be posted", "sum(order_sagas_alerts_lost_total)", "alerts"),
            Graph(
                "Events in an hour",
                in_an_hour("order_sagas_webhooks_total", "source, result"),
                "{{source}} {{result}}",
            ),
            Graph(
                "Since the last success, in intervals",
                "max by (schedule) (order_sagas_schedule_late_intervals)",
                "{{schedule}}",
            ),
        ),
    ),
)

WORKERS: Final = (
    Section(
        "Processes",
        (
            Number("Workers", 'sum(up{job="order-sagas-worker"})', "That answer Prometheus"),
            Number("Web processes", 'sum(up{job="order-sagas-webhooks"})', "That answer Prometheus"),
            Number(
                "State read",
                "time() - min(max by (source) (order_sagas_read_timestamp_seconds))",
                "Age of what the web process has read",
                120,
                "s",
            ),
            Graph(
                "Pollers", "sum by (task_queue, poller_type) (temporal_num_pollers)", "{{task_queue}} {{poller_type}}"
            ),
            Graph(
                "Slots left",
                'min by (task_queue, worker_type) (temporal_worker_task_slots_available{worker_type!~"Local.*"})',
                "{{task_queue}} {{worker_type}}",
            ),
            Graph(
                "Slots in use",
                'sum by (task_queue, worker_type) (temporal_worker_task_slots_used{worker_type!~"Local.*"})',
                "{{task_queue}} {{worker_type}}",
            ),
            Graph("Runs in the cache", "sum by (task_queue) (temporal_sticky_cache_size)", "{{task_queue}}"),
        ),
    ),
    Section(
        "Tasks",
        (
            Graph(
                "Wait for a worker, workflow tasks (95 %)",
                quantile(0.95, "temporal_workflow_task_schedule_to_start_latency_seconds", "task_queue"),
                "{{task_queue}}",
                "s",
            ),
            Graph(
                "Wait for a worker, activities (95 %)",
                quantile(0.95, "temporal_activity_schedule_to_start_latency_seconds", "task_queue"),
                "{{task_queue}}",
                "s",
            ),
            Graph(
                "Workflow tasks (95 %)",
                quantile(0.95, "temporal_workflow_task_execution_latency_seconds", "workflow_type"),
                "{{workflow_type}}",
                "s",
            ),
            Graph(
                "Workflow tasks that failed",
                "sum by (workflow_type, failure_reason) (temporal_workflow_task_execution_failed_total)",
                "{{workflow_type}} {{failure_reason}}",
            ),
            Graph(
                "Activities (95 %)",
                quantile(0.95, "temporal_activity_execution_latency_seconds", "activity_type"),
                "{{activity_type}}",
                "s",
            ),
            Graph(
                "Activities within workflow tasks (95 %)",
                quantile(0.95, "temporal_local_activity_execution_latency_seconds", "activity_type"),
                "{{activity_type}}",
                "s",
            ),
            Graph(
                "Attempts that failed, in a second",
                rate("temporal_activity_execution_failed_total", "activity_type"),
                "{{activity_type}}",
                "reqps",
            ),
        ),
    ),
    Section(
        "Steps of orders",
        (
            Graph(
                "Steps, with all their attempts (95 %)",
                quantile(0.95, "order_sagas_step_seconds", "step", '{outcome="done"}'),
                "{{step}}",
                "s",
            ),
            Graph(
                "Steps and rounds that failed, in an hour",
                in_an_hour("order_sagas_step_seconds_count", "step", '{outcome="failed"}'),
                "{{step}}",
            ),
            Graph(
                "Rounds without success since the workers started",
                "sum by (step) (order_sagas_keeps_failing_total)",
                "{{step}}",
            ),
        ),
    ),
    Section(
        "External services",
        (
            Graph(
                "Calls in a second",
                rate("order_sagas_external_call_seconds_count", "service, status"),
                "{{service}} {{status}}",
                "reqps",
            ),
            Graph("Calls (95 %)", quantile(0.95, "order_sagas_external_call_seconds", "service"), "{{service}}", "s"),
        ),
    ),
    Section(
        "Temporal",
        (
            Graph("Requests in a second", rate("temporal_request_total", "operation"), "{{operation}}", "reqps"),
            Graph(
                "Requests (95 %)", quantile(0.95, "temporal_request_latency_seconds", "operation"), "{{operation}}", "s"
            ),
            Graph(
                "Requests that failed, in a second",
                rate("temporal_request_failure_total", "operation, status_code"),
                "{{operation}} {{status_code}}",
                "reqps",
            ),
        ),
    ),
)

DASHBOARDS: Final = {"orders": ("Orders", ORDERS), "workers": ("Workers", WORKERS)}


def dashboard(name: str, title: str, sections: Iterable[Section]) -> str:
    """The dashboard as JSON."""
    builder = (
        Dashboard(f"Order sagas: {title}")
        .uid(f"order-sagas-{name}")
        .tags(["order-sagas"])
        .refresh(REFRESH)
        .time("now-3h", "now")
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    for section in sections:
        builder = builder.with_row(Row(section.title))
        for panel in section.panels:
            builder = builder.with_panel(_number(panel) if isinstance(panel, Number) else _graph(panel))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(builder.build()))


def _number(number: Number) -> Stat:
    query = Dataquery().expr(number.expression).instant().ref_id("A")
    panel = Stat().title(number.title).description(number.meaning).unit(number.unit).datasource(SOURCE)
    steps = [Threshold(value=None, color="green")]
    if number.limit is not None:
        steps.append(Threshold(value=number.limit, color="red"))
    limits = ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    return panel.thresholds(limits).color_mode(BigValueColorMode.VALUE).span(4).height(4).with_target(query)


def _graph(graph: Graph) -> TimeSeries:
    query = Dataquery().expr(graph.expression).legend_format(graph.legend).ref_id("A")
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).show_legend(True)  # noqa: FBT003 (a setter)
    panel = TimeSeries().title(graph.title).unit(graph.unit).min(0).datasource(SOURCE).legend(legend)
    return panel.span(12).height(8).with_target(query)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, sections) in DASHBOARDS.items():
        path = folder / f"{name}.json"
        path.write_text(f"{dashboard(name, title, sections)}\n")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
