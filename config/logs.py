"""Logs: one line per event, as JSON or as colored text, also for Temporal's loggers, with order and step."""

import logging
import logging.config
from typing import Any, Final

import structlog
from structlog.typing import EventDict
from temporalio import activity, workflow

from orders.names import order_id_of
from orders.tracing import current_trace_id

# The fields that Temporal's loggers attach to a record, and our names for them.
FROM_TEMPORAL: Final = {"workflow_id": "workflow_id", "run_id": "run_id", "activity_type": "step", "attempt": "attempt"}

OURS: Final = ("order_id", "stage", "key")  # the fields that our own code attaches


def configure_logs(log_format: str, level: str) -> None:
    """Send structlog and the standard library's loggers to stderr in one format."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _add_context,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = structlog.processors.JSONRenderer() if log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            *shared,
            structlog.stdlib.ExtraAdder(allow=OURS),
            _from_temporal,
            structlog.processors.format_exc_info,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Temporal repeats these fields in the message.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False
    for noisy in ("httpx", "httpx2", "openai", "stripe"):  # they log URLs and bodies
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _add_context(_logger: object, _method: str, event: EventDict) -> EventDict:
    """What the event is a part of: the trace, if traces are exported; and of an activity, its step and its order."""
    if trace_id := current_trace_id():
        event["trace_id"] = trace_id
    if activity.in_activity():
        info = activity.info()
        event.setdefault("step", info.activity_type)
        _add_order(event, info.workflow_type, info.workflow_id)
    return event


def _add_order(event: EventDict, workflow_type: str | None, workflow_id: str | None) -> None:
    if "order_id" not in event and (order_id := order_id_of(workflow_type or "", workflow_id or "")):
        event["order_id"] = order_id


def _from_temporal(_logger: object, _method: str, event: EventDict) -> EventDict:
    record: logging.LogRecord = event["_record"]
    for source in ("temporal_workflow", "temporal_activity"):
        details = getattr(record, source, None) or {}
        event.update({ours: details[theirs] for theirs, ours in FROM_TEMPORAL.items() if theirs in details})
        _add_order(event, details.get("workflow_type"), details.get("workflow_id"))
    return event
