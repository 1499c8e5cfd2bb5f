"""A collector of traces: a real HTTP endpoint that takes what programs export, and keeps the spans."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(NamedTuple):
    service: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    attributes: dict[str, str]


class Collector:
    """What has been exported so far; `raw` has every request as it came."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []

    @property
    def spans(self) -> list[Span]:
        return [span for body in [*self.raw] for span in _spans(body)]

    def trace_of(self, name: str, order_id: str) -> list[Span]:
        """All spans of the trace of the first span with that name about the order; empty: there is none."""
        spans = self.spans
        of_order = (each for each in spans if each.attributes.get("temporalWorkflowID") == order_id)
        first = next((each for each in of_order if each.name == name), None)
        return [each for each in spans if first and each.trace_id == first.trace_id]

    @property
    def twice(self) -> list[Span]:
        """The spans whose id was exported more than once."""
        counts = Counter((each.trace_id, each.span_id) for each in self.spans)
        return [each for each in self.spans if counts[each.trace_id, each.span_id] > 1]


def _spans(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                attributes = {each.key: each.value.string_value for each in span.attributes}
                yield Span(service, span.trace_id, span.span_id, span.parent_span_id, span.name, attributes)


@contextmanager
def collecting() -> Iterator[tuple[str, Collector]]:
    """Collect while the block lasts: the address for OTEL_EXPORTER_OTLP_ENDPOINT, and what has come."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.raw.append(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
            """Write nothing to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", collector
        finally:
            server.shutdown()
            thread.join()
