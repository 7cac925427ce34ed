"""One trial of live streams: N speakers in real time, and whether the strict rule held.

benchmarks/trial_process.py runs it in a separate process.
"""

import asyncio
import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import speech_sets
from benchmarks.file_sets import Recording, alone, clips_one_by_one, sample_recordings
from benchmarks.harness.accuracy import count_errors, normalise_as_spoken
from benchmarks.servers import running_server
from engine_build.checkpoint import DEFAULT_MODEL
from moonshine_client.errors import StreamError
from moonshine_client.resend_buffer import FRAME_MS
from runtime.audio import SAMPLE_RATE
from runtime.engine import selection
from runtime.scheduler.loop import EngineLoop
from runtime.scheduler.requests import Request, Result
from server.apis.native.messages import Message, Server
from server.apis.native.session import NativeSession
from server.sessions.registry import Sessions
from server.settings import Access, Batching, SessionLimits, Settings
from server.startup import SEGMENT_MARGIN_SECONDS
from server.telemetry.metrics import Api, Metrics

ARRIVAL_SECONDS = 10.0  # at most, in a trial
SAMPLE_SECONDS = 0.5  # between two checks of the backlog
LATE_SHARE, LATE_INTERVALS = 0.001, 1.0  # share of updates that may begin more than this many update intervals late
FINAL_P95_MS = 1000.0
BACKLOG_SECONDS = 3.0
WER_TOLERANCE = 0.02  # relative
WER_WORDS = 2000  # with fewer words, a single word would decide
SPOKEN_SETS = ("vctk", "librispeech_train", "an4", "alphanum_accents")
RULE = (
    "at most 0.1% of updates start more than one update interval after they were due; p95 final latency at most 1,000 ms; "
    "backlog never over 3 s; arrivals spread over 10 s; audio in real time; a fresh process for each trial; every trial passes, "
    "one of them 120 s long; WER within 2% relative of one stream alone on the same recordings, judged over all trials of so "
    "many streams: of at least 2,000 words"
)


@dataclass(frozen=True)
class Trial:
    """Settings of a trial."""

    way: str
    """Way to stream: in process; WebRTC; or processes: an engine process, and `workers` processes of sessions and speakers,
    without a network."""
    streams: int
    seconds: float
    interval_ms: float
    engines: str
    target: str
    precision: str
    drafts: bool = True
    """False means that text which is not stable is decoded again in every update, token by token."""
    max_segment_seconds: float = 12.0
    workers: int = 1
    max_batch: int = 32
    speech: str = ""
    """Folder with sets of real recordings to speak; empty means the evaluation clips and the samples."""
    seed: int = 0
    modelled: dict[str, float] | None = None
    """Costs of a modelled device: modelled_device.Costs. Its words mean nothing."""

    @property
    def limits(self) -> SessionLimits:
        return SessionLimits(interim_interval_ms=self.interval_ms, max_segment_seconds=self.max_segment_seconds)

    @property
    def arrival_seconds(self) -> float:
        """Time over which the beginnings of the streams are spread, and also their ends."""
        return min(ARRIVAL_SECONDS, self.seconds / 4)


@dataclass
class Outcome:
    """Results of a trial."""

    streams: int
    seconds: float
    utterances: int
    updates: int
    late_share: float
    update_p50_ms: float
    """Time from the newest audio in an update to its message, as the messages report it."""
    update_p95_ms: float
    final_p50_ms: float
    final_p95_ms: float
    backlog_seconds: float
    speaking_share: float
    """Audio sent, as a share of the time of all streams from arrival to end; the rest is connecting and waiting for finals."""
    sender_behind_ms: float
    """Largest delay of a sender behind real time."""
    words: int
    """Words of the recordings that were streamed to their end."""
    wer: float
    reference_wer: float
    errors: list[str]
    steps_share: float
    """Seconds of the engine's steps for each second; parallel steps all count."""
    engine_cores: float | None = None
    """Processor cores that a separate engine process used."""
    broken: list[str] = field(default_factory=list)
    """The parts of the rule that did not hold."""


@dataclass(frozen=True)
class Utterance:
    recording: Recording
    text: str | None
    """Text; None if the trial ended before the recording."""
    final_ms: float
    update_ms: tuple[float, ...]
    """latency_ms of its interims."""
    audio_seconds: float
    """Seconds of audio sent."""
    behind_ms: float
    """Largest delay of a sent frame."""


@dataclass(frozen=True)
class Spoken:
    """Results of some of a trial's speakers."""

    utterances: list[Utterance]
    errors: list[str]


Fetch = Callable[[], Coroutine[None, None, str]]
"""Function that returns the server's metrics as Prometheus text."""
Speak = Callable[[Recording, float], Coroutine[None, None, Utterance]]
"""Function that streams a recording in real time until it or the trial (at this time) ends, and waits for its final."""


def judge(outcome: Outcome) -> list[str]:
    """Return the parts of the rule that did not hold, each with its figure."""
    checks = (
        (not outcome.updates, "no update was seen"),
        (outcome.errors, f"{len(outcome.errors)} streams failed: {(outcome.errors or [''])[0]}"),
        (outcome.late_share > LATE_SHARE, f"{outcome.late_share:.2%} of updates were more than an interval late"),
        (outcome.final_p95_ms > FINAL_P95_MS, f"p95 final latency was {outcome.final_p95_ms:,.0f} ms"),
        (outcome.backlog_seconds > BACKLOG_SECONDS, f"backlog reached {outcome.backlog_seconds:.1f} s"),
        (
            outcome.words >= WER_WORDS and outcome.wer > outcome.reference_wer * (1 + WER_TOLERANCE),
            f"WER was {outcome.wer:.2f}%, of one stream alone {outcome.reference_wer:.2f}%",
        ),
    )
    return [said for is_broken, said in checks if is_broken]


def pooled(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the last outcome, with error rates over the words of all outcomes."""
    words = sum(each.words for each in outcomes)

    def over_all(rate: str) -> float:
        return round(sum(getattr(each, rate) * each.words for each in outcomes) / max(1, words), 3)

    together = dataclasses.replace(outcomes[-1], words=words, wer=over_all("wer"), reference_wer=over_all("reference_wer"))
    together.broken = judge(together)
    return together


async def run_trial(trial: Trial, references: dict[str, str], speak: Speak, fetch: Fetch) -> Outcome:
    """Run a trial. references: the text of one stream alone, by name of the recording."""
    began = time.monotonic()
    async with sampling(fetch) as backlogs:
        spoken = await speak_all(trial, range(trial.streams), began, speak)
    seconds = time.monotonic() - began
    said = await fetch()
    return outcome_of(trial, seconds, spoken, references, backlogs, late_updates(said), steps_seconds(said))


async def speak_all(trial: Trial, numbers: Iterable[int], began: float, speak: Speak) -> Spoken:
    """Run speakers. numbers: numbers of these speakers in the trial; began: beginning of the trial, by the monotonic clock."""
    spoken = Spoken([], [])

    async def one(number: int) -> None:
        arrives_at = began + trial.arrival_seconds * number / trial.streams
        end = arrives_at + trial.seconds - trial.arrival_seconds  # they leave one by one, as they came
        await asyncio.sleep(arrives_at - time.monotonic())
        for recording in endless_recordings(trial, number):
            if time.monotonic() > end - 1.0:
                return
            try:
                spoken.utterances.append(await speak(recording, end))
            except (StreamError, OSError, TimeoutError) as exc:
                spoken.errors.append(f"{type(exc).__name__}: {exc}")
                return

    await asyncio.gather(*map(one, numbers))
    return spoken


def outcome_of(
    trial: Trial,
    seconds: float,
    spoken: Spoken,
    references: dict[str, str],
    backlogs: Sequence[float],
    late_updates: tuple[int, int],
    steps_seconds: float,
) -> Outcome:
    """late_updates: number of late updates, and of all."""
    utterances, (late, updates) = spoken.utterances, late_updates
    finals = [each.final_ms for each in utterances] or [float("inf")]
    latencies = [update_ms for each in utterances for update_ms in each.update_ms] or [float("inf")]
    whole = [each for each in utterances if each.text is not None and not trial.modelled]
    words, wer, reference_wer = word_rates(whole, references)
    speaking_seconds = trial.seconds - trial.arrival_seconds
    outcome = Outcome(
        streams=trial.streams,
        seconds=round(seconds, 1),
        utterances=len(utterances),
        updates=updates,
        late_share=round(late / max(1, updates), 5),
        update_p50_ms=round(float(np.percentile(latencies, 50)), 1),
        update_p95_ms=round(float(np.percentile(latencies, 95)), 1),
        final_p50_ms=round(float(np.percentile(finals, 50)), 1),
        final_p95_ms=round(float(np.percentile(finals, 95)), 1),
        backlog_seconds=round(max(backlogs, default=float("inf")), 2),
        speaking_share=round(sum(each.audio_seconds for each in utterances) / (trial.streams * speaking_seconds), 3),
        sender_behind_ms=round(max((each.behind_ms for each in utterances), default=0.0), 1),
        words=words,
        wer=wer,
        reference_wer=reference_wer,
        errors=spoken.errors,
        steps_share=round(steps_seconds / seconds, 3),
    )
    outcome.broken = judge(outcome)
    return outcome


def word_rates(whole: Sequence[Utterance], references: dict[str, str]) -> tuple[int, float, float]:
    """Return the number of spoken words, and the percentage of wrong words here and with one stream alone."""
    spoken = [normalise_as_spoken(each.recording.text) for each in whole]
    words = sum(len(text.split()) for text in spoken)

    def rate(texts: Iterable[str]) -> float:
        errors = sum(count_errors(*two)[0] for two in zip(spoken, map(normalise_as_spoken, texts), strict=True))
        return round(100 * errors / max(1, words), 3)

    return words, rate(each.text or "" for each in whole), rate(references[each.recording.name] for each in whole)


def endless_recordings(trial: Trial, number: int) -> Iterator[Recording]:
    """Yield the recordings of one speaker, in random order, without end."""
    random, recordings = np.random.default_rng((trial.seed, number)), recordings_of(trial.speech)
    while True:
        for index in random.permutation(len(recordings)):
            yield recordings[index]


@functools.cache
def recordings_of(speech: str) -> list[Recording]:
    """Return the clips and the samples, or the native speech of real recordings: odd clips, on which nothing was tuned."""
    if not speech:
        return clips_one_by_one() + sample_recordings()
    clips = [clip for name in SPOKEN_SETS for clip in speech_sets.load(Path(speech), name, "odd")]
    return [alone(clip.name, clip.samples, clip.text) for clip in clips]


def samples_in(text: str) -> Iterator:
    return (sample for family in text_string_to_metric_families(text) for sample in family.samples)


def backlog_seconds(text: str) -> float:
    return max((sample.value for sample in samples_in(text) if sample.name == "asr_backlog_seconds_max"), default=0.0)


def late_updates(text: str) -> tuple[int, int]:
    """Return the number of updates that began more than LATE_INTERVALS late, and of all."""
    buckets = {
        sample.labels["le"]: sample.value for sample in samples_in(text) if sample.name == "asr_update_late_intervals_bucket"
    }
    everything = buckets.pop("+Inf", 0.0)
    return int(everything - buckets.get(str(LATE_INTERVALS), 0.0)), int(everything)


def steps_seconds(text: str) -> float:
    return sum(sample.value for sample in samples_in(text) if sample.name == "asr_engine_step_seconds_sum")


@contextlib.asynccontextmanager
async def sampling(fetch: Fetch) -> AsyncIterator[list[float]]:
    """Yield a list that receives the backlog at intervals."""
    backlogs: list[float] = []

    async def sample() -> None:
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            with contextlib.suppress(httpx.HTTPError):
                backlogs.append(backlog_seconds(await fetch()))

    task = asyncio.create_task(sample())
    try:
        yield backlogs
    finally:
        task.cancel()


@dataclass
class Speaker:
    """Speaks one recording."""

    recording: Recording
    sent: int = 0
    behind_seconds: float = 0.0

    async def frames(self, end: float) -> AsyncIterator[bytes]:
        """Yield each frame when its last sample has been spoken; stops early at the trial's end."""
        samples, began, whole = SAMPLE_RATE * FRAME_MS // 1000, time.monotonic(), self.recording.samples
        for start in range(0, len(whole), samples):
            frame = whole[start : start + samples]
            spoken_at = began + (start + len(frame)) / SAMPLE_RATE
            await asyncio.sleep(spoken_at - time.monotonic())
            self.behind_seconds = max(self.behind_seconds, time.monotonic() - spoken_at)
            if time.monotonic() > end:
                return
            yield frame.tobytes()
            self.sent += len(frame)


def utterance_of(speaker: Speaker, final: dict, final_ms: float, interims: Sequence[dict]) -> Utterance:
    text = final["text"] if speaker.sent == len(speaker.recording.samples) else None
    update_ms = tuple(interim["latency_ms"] for interim in interims)
    return Utterance(speaker.recording, text, final_ms, update_ms, speaker.sent / SAMPLE_RATE, speaker.behind_seconds * 1000)


async def speak_in_process(sessions: Sessions, recording: Recording, end: float) -> Utterance:
    outcome: asyncio.Future[dict] = asyncio.get_running_loop().create_future()
    interims: list[dict] = []

    def receive(sent: Message) -> bool:
        message = json.loads(sent.encode())
        if message["op"] in ("final", "error"):
            outcome.set_result(message)
        elif message["op"] == "interim":
            interims.append(message)
        return True

    seat = sessions.take_seat(Api.WEBRTC, waits=True)
    NativeSession(seat, SessionLimits(), Server(32, "trial"), receive)
    seat.receive_text('{"op":"init","tail":false}')
    speaker = Speaker(recording)
    async for frame in speaker.frames(end):
        seat.receive_audio(frame)
    closed_at = time.monotonic()
    seat.receive_text('{"op":"close"}')
    final = await outcome
    if final["op"] == "error":
        raise StreamError(final["reason"], final["message"])
    return utterance_of(speaker, final, (time.monotonic() - closed_at) * 1000, interims)


async def speak_over_webrtc(address: str, recording: Recording, end: float) -> Utterance:
    from moonshine_client.client import StreamingClient

    async with StreamingClient(address, max_interims=None) as client:
        speaker = Speaker(recording)
        async for frame in speaker.frames(end):
            await client.send(frame)
        closed_at = time.monotonic()
        final = await client.close()
        final_ms = (time.monotonic() - closed_at) * 1000
        return utterance_of(speaker, final, final_ms, [interim async for interim in client])


class WithoutDrafts(EngineLoop):
    """Decodes every update again from the start, as other servers do."""

    def submit(self, request: Request, on_result: Callable[[Result], None]) -> None:
        plain = dataclasses.replace(request, draft=request.draft[: request.forced], uncovered_seconds=None)
        super().submit(plain, lambda result: on_result(dataclasses.replace(result, request=request)))


async def try_in_process(trial: Trial, references: dict[str, str]) -> Outcome:
    choice = selection.choose(Path(trial.engines), DEFAULT_MODEL, trial.precision, trial.target)
    settings = Settings(
        session=trial.limits, access=Access(max_sessions=trial.streams), batching=Batching(max_batch=trial.max_batch)
    )
    longest_seconds = trial.max_segment_seconds + SEGMENT_MARGIN_SECONDS
    engine, tokenizer, _ = selection.open_engine(choice, trial.max_batch, max_seconds=longest_seconds)
    metrics = Metrics()
    loop = (EngineLoop if trial.drafts else WithoutDrafts)(engine, 0.01, metrics, warm_up_seconds=settings.model.warmup_seconds)
    sessions = Sessions(loop, tokenizer, settings, metrics)
    sessions.start()
    await sessions.until_warm()

    async def fetch() -> str:
        return metrics.render().decode()

    outcome = await run_trial(trial, references, lambda recording, end: speak_in_process(sessions, recording, end), fetch)
    await sessions.shut_down(timeout_seconds=10.0)
    return outcome


async def try_over_webrtc(trial: Trial, references: dict[str, str]) -> Outcome:
    variables = {
        "ASR_INTERIM_INTERVAL_MS": f"{trial.interval_ms:g}",
        "ASR_TARGET": trial.target,
        "ASR_MAX_SESSIONS": "100000",
        "ASR_MAX_SEGMENT_SECONDS": f"{trial.max_segment_seconds:g}",
        "ASR_WORKERS": str(trial.workers),
        "MAX_BATCH_SIZE": str(trial.max_batch),
    }
    with running_server(Path(trial.engines), trial.precision, variables) as address:
        async with httpx.AsyncClient(trust_env=False) as http:

            async def fetch() -> str:
                return (await http.get(f"http://{address}/metrics")).text

            return await run_trial(trial, references, lambda recording, end: speak_over_webrtc(address, recording, end), fetch)
