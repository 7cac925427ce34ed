"""What an OpenTelemetry collector is sent by a server that serves."""

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from websockets.asyncio.client import connect

from moonshine_client import transcribe
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import END_SECONDS, exporting

KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.paths = set[str]()
        self.received = list[ExportTraceServiceRequest | ExportMetricsServiceRequest]()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def spans(self) -> list[Span]:
        traces = [each for each in self.received if isinstance(each, ExportTraceServiceRequest)]
        return [
            span for each in traces for resource in each.resource_spans for scope in resource.scope_spans for span in scope.spans
        ]

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each, of all its labels together."""
        found: dict[str, float] = {}
        for each in [each for each in self.received if isinstance(each, ExportMetricsServiceRequest)]:
            for resource in each.resource_metrics:
                for metric in [metric for scope in resource.scope_metrics for metric in scope.metrics]:
                    points = metric.gauge.data_points or metric.sum.data_points
                    found[metric.name] = sum(point.as_double for point in points)
        return found


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.paths.add(self.path)
        self.server.received.append(KINDS[self.path].FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def value(span: Span, name: str) -> object:
    found = next(each.value for each in span.attributes if each.key == name)
    return getattr(found, found.WhichOneof("value"))


def test_each_session_is_a_trace_and_metrics_are_those_of_prometheus(start_server, collector, recordings):
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    server = start_server(ASR_TARGET="onnxruntime", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, NO_PROXY="*")
    audio = recordings["short"].samples

    async def fail() -> None:
        async with connect(f"ws://{server.address}/ws", proxy=None) as socket:
            await socket.send('{"op":"init"}')
            await socket.send("no JSON")
            assert "ready" in await socket.recv() and "bad_message" in await socket.recv()

    final = asyncio.run(transcribe(server.address, audio, rtf=2)).final
    asyncio.run(fail())
    assert server.stop() == 0
    spans = collector.spans
    done, failed = sorted((span for span in spans if span.name == "session"), key=lambda span: span.start_time_unix_nano)
    assert value(done, "asr.ended") == "final" and value(done, "asr.words") == len(final["text"].split())
    assert failed.status.code == failed.status.STATUS_CODE_ERROR and failed.status.message == "bad_message"
    inner = [span for span in spans if span.parent_span_id == done.span_id]
    assert [span.name for span in inner] == ["connect", *["update"] * (len(inner) - 2), "final"] and len(inner) > 2
    assert all(span.trace_id == done.trace_id != failed.trace_id for span in inner)
    assert all(done.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano for span in inner)
    latency_ms = (inner[-1].end_time_unix_nano - inner[-1].start_time_unix_nano) / 1e6
    assert latency_ms == pytest.approx(final["latency_ms"], abs=5)
    metrics = collector.metrics
    assert metrics["asr_sessions_total"] == 2 and metrics["asr_sessions_open"] == 0
    assert metrics["asr_engine_step_seconds_count"] > 10 and metrics["asr_message_latency_seconds_sum"] > 0
    assert "better" not in str(collector.received), "what was said is nobody's business"


@pytest.mark.parametrize(("signal", "wanted"), [("TRACES", {"/v1/traces"}), ("METRICS", {"/v1/metrics"})])
def test_one_signal_alone_and_the_environment_s_own_names(collector, monkeypatch, signal, wanted):
    path = "/v1/" + signal.lower()
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", f"http://127.0.0.1:{collector.server_port}{path}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7,service.name=ours")
    monkeypatch.setenv("NO_PROXY", "*")
    with exporting(Metrics().registry) as tracing:
        trace = tracing("session-1", "webrtc")
        trace.connected()
        trace.end({"words": 3}, None)
    assert collector.paths == wanted
    said = str(collector.received)
    assert "pod-7" in said and "ours" in said and "moonshine-asr" not in said.replace('name: "moonshine-asr"', "")


@pytest.mark.slow
def test_the_end_does_not_wait_for_a_collector_that_is_silent(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "*")
        with exporting(Metrics().registry) as tracing:
            tracing("session-1", "webrtc").end({}, None)
            began = time.monotonic()
        assert time.monotonic() - began < 2 * END_SECONDS


def test_a_collector_that_is_not_there_stops_nobody(start_server, recordings):
    server = start_server(
        ASR_TARGET="onnxruntime", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1"
    )
    assert "better" in asyncio.run(transcribe(server.address, recordings["short"].samples, rtf=0)).final["text"]
    assert server.stop() == 0
