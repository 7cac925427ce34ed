"""Metrics of the server, for Prometheus."""

import bisect
import contextlib
import enum
import os
from collections import Counter as Counted
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from runtime.engine.protocol import Engine
from runtime.exceptions import RequestCancelled
from runtime.scheduler.batcher import Batcher
from runtime.scheduler.observer import Observer
from runtime.scheduler.requests import Priority, Result
from runtime.scheduler.steps import Step
from server.errors import Code, Refused

STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
LATENCY_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 10.0)
LATE_INTERVALS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
SHARED_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus-client's: the directory where processes share their counts
LAG_SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
ALARMING_ERRORS = (Code.ENGINE_FAILED, Code.INTERNAL_ERROR, Code.SLOW_READER)
ALARMING_REFUSALS = (
    Code.SERVER_FULL,
    Code.CONNECT_TIMEOUT,
    Code.INVALID_KEY,
    Code.FORBIDDEN_ORIGIN,
    Code.FORBIDDEN_HOST,
    Code.RATE_LIMITED,
    Code.TOO_MANY_SESSIONS,
)
"""Refusals that docker/alerts.yaml watches. These counters begin at 0: one that appears with its first event shows no
increase."""
USAGE_PREFIX = "asr_usage_"
USAGE_AUDIO, USAGE_SESSIONS = "asr_usage_audio_seconds_total", "asr_usage_sessions_total"
PRIORITY_NAMES = {priority: priority.name.lower() for priority in Priority}
PASSES = (1, 2, 3, 4, 6, 8, 12, 20, 40, 80)


class Api(enum.StrEnum):
    """Names of the APIs in metrics."""

    WEBRTC = "webrtc"
    WEBSOCKET = "websocket"
    OPENAI_REST = "openai_rest"
    OPENAI_REALTIME = "openai_realtime"
    DEEPGRAM = "deepgram"
    WYOMING = "wyoming"
    WHIP = "whip"
    JAMBONZ = "jambonz"
    VAPI = "vapi"
    VOSK = "vosk"
    TWILIO = "twilio"
    AUDIOSOCKET = "audiosocket"


@dataclass
class Usage:
    """Use of one API key since the server began."""

    audio_seconds: float = 0.0
    sessions: int = 0
    """Sessions and recordings."""


class WithoutUsage(CollectorRegistry):
    """The metrics of a registry, without the usage of each API key."""

    def __init__(self, registry: CollectorRegistry):
        super().__init__()
        self._whole = registry

    def collect(self) -> Iterator[Metric]:
        return (metric for metric in self._whole.collect() if not metric.name.startswith(USAGE_PREFIX))


class SentMessage(Protocol):
    """A message of any API; one that answers audio also has a latency_ms."""

    @property
    def op(self) -> str: ...


class GatheredCounter:
    """A counter that collects additions, and publishes them ten times a second.

    If processes share their counts, adding to one takes as long as the rest of a message.
    """

    def __init__(self, counter: Counter):
        self._counter = counter
        self._gathered: dict[tuple[str, ...], float] = {}  # by the values of its labels

    def inc(self, amount: float, *labels: str) -> None:
        self._gathered[labels] = self._gathered.get(labels, 0.0) + amount

    def publish(self) -> None:
        for labels, amount in self._gathered.items():
            (self._counter.labels(*labels) if labels else self._counter).inc(amount)
        self._gathered = {}


class BatchHistogram(Histogram):
    """A histogram that takes many amounts at a time: if processes share their counts, each addition takes microseconds."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe each of the amounts, with one addition to each bucket."""
        if amounts:
            self._sum.inc(sum(amounts))
            for index, count in Counted(bisect.bisect_left(self._upper_bounds, amount) for amount in amounts).items():
                self._buckets[index].inc(count)


class Metrics(Observer):
    """The metrics of one server. The engine loop reports here, too, from its own thread (prometheus-client locks).

    If several processes serve, each has its own metrics, and each renders those of all together.
    """

    def __init__(self) -> None:
        self._engine: Engine | None = None
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self._add_sessions(self.registry)
        self._add_usage(self.registry)
        self._add_messages(self.registry)
        self._add_engine(self.registry)
        self._show_from_the_beginning()

    def _add_sessions(self, registry: CollectorRegistry) -> None:
        self.sessions = Gauge(
            "asr_sessions_open", "Sessions connected now", ["api"], registry=registry, multiprocess_mode="livesum"
        )
        self.sessions_max = Gauge(
            "asr_sessions_max", "Sessions that may be open at once", registry=registry, multiprocess_mode="livemax"
        )
        self.draining = Gauge(
            "asr_draining", "1 while the server is about to end", registry=registry, multiprocess_mode="livemax"
        )
        self.sessions_total = Counter("asr_sessions_total", "Sessions accepted", ["api"], registry=registry)
        self.refused_total = Counter("asr_offers_refused_total", "Offers refused", ["reason"], registry=registry)
        self.errors_total = Counter(
            "asr_session_errors_total", "Sessions ended by an error", ["api", "reason"], registry=registry
        )

    def _add_usage(self, registry: CollectorRegistry) -> None:
        self.usage_audio_seconds_total = GatheredCounter(
            Counter(USAGE_AUDIO, "Audio received, by the name of its API key", ["key"], registry=registry)
        )
        self.pauses_total = Counter(
            "asr_turn_model_pauses_total",
            "Pauses that the turn model judged or left out",
            ["outcome"],
            registry=registry,
        )
        self.usage_sessions_total = Counter(
            USAGE_SESSIONS, "Sessions and recordings, by the name of their API key", ["key", "api"], registry=registry
        )

    def _add_messages(self, registry: CollectorRegistry) -> None:
        self.audio_seconds_total = GatheredCounter(Counter("asr_audio_seconds_total", "Audio received", registry=registry))
        self.messages_total = Counter("asr_messages_sent_total", "Messages sent", ["api", "op"], registry=registry)
        self.interims_dropped_total = Counter(
            "asr_interims_dropped_total", "Interims not sent because the client reads too slowly", registry=registry
        )
        self.latency = Histogram(
            "asr_message_latency_seconds",
            "latency_ms of the messages sent",
            ["api", "op"],
            buckets=LATENCY_SECONDS,
            registry=registry,
        )
        self.update_late = Histogram(
            "asr_update_late_intervals",
            "From when an update was due to its start, in update intervals",
            buckets=LATE_INTERVALS,
            registry=registry,
        )
        self.backlog_seconds = Gauge(
            "asr_backlog_seconds_max",
            "Of all sessions, the most audio that waits to be transcribed",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.ready = Gauge(
            "asr_ready", "1 while the engine is warm and sessions are accepted", registry=registry, multiprocess_mode="livemax"
        )
        self.loop_lag = Histogram(
            "asr_event_loop_lag_seconds", "How late the event loop comes to what is due", buckets=LAG_SECONDS, registry=registry
        )

    def _add_engine(self, registry: CollectorRegistry) -> None:
        self.step_seconds = Histogram(
            "asr_engine_step_seconds", "Engine steps", ["kind"], buckets=STEP_SECONDS, registry=registry
        )
        self.batch_rows = Histogram("asr_engine_step_rows", "Rows in a step", ["kind"], buckets=ROWS, registry=registry)
        self.waiting = Gauge("asr_requests_waiting", "Requests without a slot", registry=registry, multiprocess_mode="livesum")
        self.in_flight = Gauge("asr_requests_in_flight", "Requests with a slot", registry=registry, multiprocess_mode="livesum")
        self.requests_total = Counter("asr_requests_total", "Requests answered", ["priority", "outcome"], registry=registry)
        self.queue_seconds = BatchHistogram(
            "asr_request_queue_seconds", "From submission to a slot", ["priority"], buckets=LATENCY_SECONDS, registry=registry
        )
        self._queue_seconds = {priority: self.queue_seconds.labels(name) for priority, name in PRIORITY_NAMES.items()}
        self.passes = BatchHistogram("asr_request_passes", "Decoder passes of a request", buckets=PASSES, registry=registry)
        self.uncaptured_runs = Gauge(
            "asr_engine_uncaptured_runs",
            "Passes on a device that no CUDA graph was captured for",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.recovered_total = Counter(
            "asr_segments_recovered_total", "Segments asked for again because their text was doubted", registry=registry
        )
        self.cut_short_total = Counter(
            "asr_segments_cut_short_total", "Segments whose text reached the most that their audio can hold", registry=registry
        )
        self.single_steps_total = Counter("asr_single_steps_total", "Passes that fed one token only", registry=registry)

    def _show_from_the_beginning(self) -> None:
        for api in Api:
            self.sessions.labels(api)
            self.sessions_total.labels(api)
            for code in ALARMING_ERRORS:
                self.errors_total.labels(api, code.value)
        for code in ALARMING_REFUSALS:
            self.refused_total.labels(code.value)

    def watch(self, engine: Engine) -> None:
        """Report the counts of this engine, too."""
        self._engine = engine

    def step(self, step: Step, seconds: float, batcher: Batcher) -> None:
        kind = type(step).__name__.lower()
        self.step_seconds.labels(kind).observe(seconds)
        self.batch_rows.labels(kind).observe(len(step.jobs))
        self.waiting.set(batcher.waiting)
        self.in_flight.set(batcher.in_flight)
        if self._engine is not None:
            self.uncaptured_runs.set(self._engine.uncaptured_runs)

    def results(self, results: Sequence[Result]) -> None:
        """Count the results together: if processes share their counts, adding to each counter takes time."""
        for (priority, outcome), count in Counted((each.request.priority, outcome_of(each)) for each in results).items():
            self.requests_total.labels(PRIORITY_NAMES[priority], outcome).inc(count)
        done = [each for each in results if each.error is None]
        for priority, observed in self._queue_seconds.items():
            observed.observe_all([each.timings.queue_ms / 1000 for each in done if each.request.priority == priority])
        self.passes.observe_all([each.timings.passes for each in done])
        self.single_steps_total.inc(sum(each.timings.single_steps for each in done))
        self.cut_short_total.inc(sum(each.cut_short and each.request.uncovered_seconds is None for each in done))
        self.recovered_total.inc(sum(each.request.is_retry for each in done))

    def count_pauses(self, judged: int, skipped: int) -> None:
        """Count pauses that the turn model has judged, and pauses for which it was too busy."""
        self.pauses_total.labels("judged").inc(judged)
        self.pauses_total.labels("skipped").inc(skipped)

    def session_began(self, api: Api, key: str | None) -> None:
        """Count a new session. key: name of the caller's API key; None: its usage is counted once the key is known."""
        self.sessions_total.labels(api).inc()
        if key is not None:
            self.session_identified(api, key)
        self.sessions.labels(api).inc()

    def session_identified(self, api: Api, key: str) -> None:
        """Count the session of a caller that is known only now. key: name of its API key."""
        self.usage_sessions_total.labels(key, api).inc()

    def session_ended(self, api: Api, error: str | None) -> None:
        """Count the end of a session. error: code of the error that ended it."""
        self.sessions.labels(api).dec()
        if error is not None:
            self.errors_total.labels(api, error).inc()

    @contextlib.contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count a Refused that is raised within the context."""
        try:
            yield
        except Refused as refused:
            self.refused_total.labels(refused.code.value).inc()
            raise

    def sent(self, api: Api, message: SentMessage) -> None:
        """Count a message that was passed to a client's connection."""
        self.messages_total.labels(api, message.op).inc()
        if (latency_ms := getattr(message, "latency_ms", None)) is not None:
            self.latency.labels(api, message.op).observe(latency_ms / 1000)

    def publish(self) -> None:
        """Publish the collected counts."""
        self.audio_seconds_total.publish()
        self.usage_audio_seconds_total.publish()

    def count_audio(self, seconds: float, key: str) -> None:
        """Count audio that a stream receives. key: name of the caller's API key."""
        self.audio_seconds_total.inc(seconds)
        self.usage_audio_seconds_total.inc(seconds, key)

    def usage(self) -> list[tuple[str, Usage]]:
        """Return the usage of each API key by its name, in the order of the names."""
        self.publish()
        found: dict[str, Usage] = {}
        for metric in self._readable().collect():
            for sample in metric.samples:
                if sample.name == USAGE_AUDIO:
                    found.setdefault(sample.labels["key"], Usage()).audio_seconds += sample.value
                elif sample.name == USAGE_SESSIONS:
                    found.setdefault(sample.labels["key"], Usage()).sessions += int(sample.value)
        return sorted(found.items())

    def render(self, with_usage: bool = False) -> bytes:
        """Return the metrics in Prometheus's format. with_usage: add the usage of each API key, which others should not see."""
        self.publish()
        readable = self._readable()
        return generate_latest(readable if with_usage else WithoutUsage(readable))

    def _readable(self) -> CollectorRegistry:
        """Return the registry of all processes together."""
        if SHARED_VARIABLE not in os.environ:
            return self.registry
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return registry


def outcome_of(result: Result) -> str:
    if result.error is None:
        return "done"
    return "cancelled" if isinstance(result.error, RequestCancelled) else "failed"
