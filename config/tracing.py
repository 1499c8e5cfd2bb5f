"""Traces: spans of Temporal's calls, workflows and activities, and of our own calls, sent by OTLP over HTTP.

Only a program whose environment has OTEL_EXPORTER_OTLP_ENDPOINT loads this module, and OpenTelemetry with it. The SDK
of OpenTelemetry reads its other variables itself, e.g. OTEL_EXPORTER_OTLP_HEADERS and OTEL_TRACES_SAMPLER.
"""

import logging
from functools import cache
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.contrib.opentelemetry import OpenTelemetryPlugin, create_tracer_provider

from orders.tracing import trace_with

# A collector that is out holds up the end of a program for so long, and nothing else.
EXPORT_SECONDS: Final = 3


@cache
def tracing_plugin(service_name: str) -> OpenTelemetryPlugin:
    """The plugin for this program's connections. What is recorded is sent in the background, and when it ends.

    Ids of spans come from a generator of the workflow's own, so a replay records nothing twice, and the run's other
    random numbers stay as they are.
    """
    provider = create_tracer_provider(resource=Resource.create({SERVICE_NAME: service_name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=EXPORT_SECONDS)))
    trace.set_tracer_provider(provider)
    logging.getLogger("opentelemetry.exporter").setLevel(
        logging.ERROR
    )  # one line for a batch, not one for each attempt
    trace_with(provider.get_tracer("order-sagas"))
    return OpenTelemetryPlugin(add_temporal_spans=True)
