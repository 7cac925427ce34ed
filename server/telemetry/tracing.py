"""OpenTelemetry: one trace for each session, and the metrics, for the collector that the environment names.

The SDK reads its usual variables itself: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and so on.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from runtime.version import version
from server.errors import StartError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import Tracer

TRACES, METRICS = "TRACES", "METRICS"  # as OpenTelemetry's variables name them
SERVICE_NAME = "moonshine-asr"
END_SECONDS = 2.0  # to send the remaining data
UPDATES_A_SPAN = 10  # one of this many updates gets a span: a session has two a second
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
"""Suffixes of a metric's samples, by its kind, as Prometheus names them."""


class Trace:
    """The trace of one session. This base class records nothing."""

    def connected(self) -> None:
        """Report that the session's first stream has begun."""

    def said(self, what: str, latency_ms: float) -> None:
        """Report an "update", "flush" or "final" that came `latency_ms` after its audio."""

    def end(self, fields: Mapping[str, Any], error: str | None) -> None:
        """End the trace. fields: those that the log has of the session. error: code of the error that ended it."""


Tracing = Callable[[str, str], Trace]
"""Function that begins the trace of a session, of the given session_id and api."""


def no_tracing(session_id: str, api: str) -> Trace:
    return Trace()


class SpanTrace(Trace):
    """A span for the session, with a child span for each thing that it waited for."""

    def __init__(self, tracer: "Tracer", session_id: str, api: str):
        from opentelemetry.trace import set_span_in_context

        self._tracer = tracer
        self._began_ns, self._updates, self._is_connected = time.time_ns(), 0, False
        self._root = tracer.start_span(
            "session", start_time=self._began_ns, attributes={"asr.session": session_id, "asr.api": api}
        )
        self._context = set_span_in_context(self._root)

    def connected(self) -> None:
        if not self._is_connected:
            self._is_connected = True
            self._span("connect", self._began_ns)

    def said(self, what: str, latency_ms: float) -> None:
        self._updates += what == "update"
        if what != "update" or self._updates % UPDATES_A_SPAN == 1:
            self._span(what, time.time_ns() - round(latency_ms * 1e6))

    def _span(self, name: str, began_ns: int) -> None:
        """Record a span that ends now."""
        self._tracer.start_span(name, self._context, start_time=began_ns).end()

    def end(self, fields: Mapping[str, Any], error: str | None) -> None:
        from opentelemetry.trace import StatusCode

        self._root.set_attributes({f"asr.{name}": value for name, value in fields.items()})
        if error is not None:
            self._root.set_status(StatusCode.ERROR, error)
        self._root.end()


@contextlib.contextmanager
def exporting(registry: CollectorRegistry) -> Iterator[Tracing]:
    """Send this process's metrics within the context, and the traces that begin in it. Without an endpoint, send nothing.

    Raises StartError if there is an endpoint but no OpenTelemetry.
    """
    wanted = [name for name in (TRACES, METRICS) if has_endpoint(name)]
    if not wanted:
        yield no_tracing
        return
    tracing: Tracing = no_tracing
    ends = list[Callable[[], object]]()
    try:
        if TRACES in wanted:
            tracing, end = export_traces()
            ends.append(end)
        if METRICS in wanted:
            ends.append(export_metrics(registry))
    except ImportError as exc:
        raise StartError(f"an OTLP endpoint is set, and the package's extra [tracing] is not installed ({exc})") from exc
    try:
        yield tracing
    finally:
        end_all(ends)


def has_endpoint(signal: str) -> bool:
    return bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))


def end_all(ends: Sequence[Callable[[], object]]) -> None:
    """Send the remaining data. A collector that does not answer must not hold up the end of the process."""
    threads = [threading.Thread(target=end, daemon=True) for end in ends]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + END_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def export_traces() -> tuple[Tracing, Callable[[], object]]:
    """Begin to export traces; returns the tracing and a function that ends it. Raises ImportError."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer(SERVICE_NAME)
    return lambda session_id, api: SpanTrace(tracer, session_id, api), provider.shutdown


def export_metrics(registry: CollectorRegistry) -> Callable[[], object]:
    """Begin to export metrics; returns a function that ends it. Raises ImportError."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], resource(), shutdown_on_exit=False)
    bridge(registry, provider.get_meter(SERVICE_NAME))
    return provider.shutdown


def resource() -> "Resource":
    """Describe the sender; the environment's description takes precedence."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    instance = f"{socket.gethostname()}-{os.getpid()}"
    own = {"service.name": SERVICE_NAME, "service.version": version(), "service.instance.id": instance}
    return Resource.create(own).merge(OTELResourceDetector().detect())


def bridge(registry: CollectorRegistry, meter: Any) -> None:
    """Export everything that Prometheus gets, under the same names."""
    from opentelemetry.metrics import Observation

    def observe(name: str) -> Callable[[Any], list[Observation]]:
        return lambda _: [
            Observation(sample.value, sample.labels)
            for family in registry.collect()
            for sample in family.samples
            if sample.name == name
        ]

    for family in registry.collect():
        create = meter.create_observable_gauge if family.type == "gauge" else meter.create_observable_counter
        for suffix in SUFFIXES[family.type]:
            name = family.name + suffix
            create(name, [observe(name)], description=family.documentation)
