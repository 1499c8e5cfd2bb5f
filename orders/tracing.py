"""Spans of the trace of an order. Where the program exports no traces, they cost nothing; see config/tracing.py.

The attributes of a span hold names and numbers, never a value of a request, an address or a key.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_tracers: list["Tracer"] = []  # the one of this program; empty: it exports no traces


def trace_with(tracer: "Tracer") -> None:
    """Record the spans of this program from now on."""
    _tracers[:] = [tracer]


def is_traced() -> bool:
    """Whether this program exports traces."""
    return bool(_tracers)


def current_trace_id() -> str | None:
    """The id of the trace that the caller's work belongs to; None: it belongs to none."""
    if not _tracers:
        return None
    from opentelemetry.trace import format_trace_id, get_current_span  # noqa: PLC0415 (only loaded where it is used)

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else None


@contextmanager
def span(name: str, attributes: dict[str, str]) -> Iterator[None]:
    """A span around the block, as a part of what the caller does. `attributes` are read when it ends.

    Outside of a trace there is none: the program's own work, such as the reading of gauges, is about no order.
    """
    if current_trace_id() is None:
        yield
        return
    with _tracers[0].start_as_current_span(name, record_exception=False, set_status_on_exception=False) as started:
        try:
            yield
        finally:
            started.set_attributes(attributes)


def record_span(name: str, start: int, end: int, attributes: Mapping[str, str]) -> None:
    """A span of what has been done already, between two times in nanoseconds since 1970."""
    if current_trace_id() is not None:
        _tracers[0].start_span(name, start_time=start, attributes=attributes).end(end)
