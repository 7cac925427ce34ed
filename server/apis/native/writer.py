"""Writes the events of a stream as messages of the server's own protocol."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET, UnsetType

from server.apis.native.messages import (
    Error,
    FinalMessage,
    FlushedMessage,
    Init,
    Interim,
    Message,
    SegmentMessage,
    SpeechStartedMessage,
    SpeechStoppedMessage,
    TurnMessage,
)
from server.stream.events import Event, Failed, Final, Flushed, SpeechStarted, SpeechStopped, TurnPause, Update
from server.stream.transcript import Segment
from server.stream.word_times import Word


@dataclass
class ClientKnowledge:
    """State that the client knows, from messages that were not dropped."""

    messages: int = 0
    stable: int = 0
    segments: int = 0


class NativeWriter:
    """Writes one stream's events; remembers which of them the client has."""

    def __init__(self, init: Init, channel: int = 0):
        """channel: channel of the stream, counted from 0."""
        self._init = init
        self._channel = channel if init.channels > 1 else UNSET
        self._confirmed = ClientKnowledge()

    def told_ms(self, closed_ms: int, segments: Sequence[Segment]) -> int:
        """Return the milliseconds of audio whose text the client has.

        closed_ms: start of the open segment. Closed segments that were not sent to the client do not count.
        """
        unconfirmed = segments[self._confirmed.segments :]
        return self._moved(unconfirmed[0].start_ms if unconfirmed else closed_ms)

    def write(self, event: Event) -> Message:
        match event:
            case Update():
                return self._write_update(event)
            case SpeechStarted(at_ms):
                return SpeechStartedMessage(self._init.sid, self._moved(at_ms), self._channel)
            case SpeechStopped(at_ms, probability):
                shown = round(probability, 3) if self._init.weighs_pauses else UNSET
                return SpeechStoppedMessage(self._init.sid, self._moved(at_ms), shown, self._channel)
            case TurnPause(at_ms, silence_ms, probability):
                return TurnMessage(self._init.sid, self._moved(at_ms), silence_ms, round(probability, 3), self._channel)
            case Flushed():
                return self._write_flushed(event)
            case Final():
                return self._write_final(event)
            case Failed():
                return self._write_failure(event)

    def confirm(self, event: Event) -> None:
        """Note that the event's message was sent."""
        if isinstance(event, Update):
            self._confirmed = ClientKnowledge(self._confirmed.messages + 1, event.stable, len(event.segments))
        elif isinstance(event, Flushed):
            self._confirmed = ClientKnowledge(self._confirmed.messages, len(event.text), len(event.segments))

    def _write_update(self, update: Update) -> Interim:
        tail = self._tail(update.segments) if self._init.tail else {}
        return Interim(
            sid=self._init.sid,
            seq=self._confirmed.messages,
            text=self._new(update.text),
            stable=update.stable,
            audio_ms=self._moved(update.audio_ms),
            latency_ms=round(update.latency_ms, 1),
            channel=self._channel,
            **tail,
        )

    def _write_flushed(self, flushed: Flushed) -> FlushedMessage:
        return FlushedMessage(
            sid=self._init.sid,
            text=self._new(flushed.text),
            stable=len(flushed.text),
            audio_ms=self._moved(flushed.audio_ms),
            latency_ms=round(flushed.latency_ms, 1),
            channel=self._channel,
            **(self._tail(flushed.segments) if self._init.tail else {}),
        )

    def _write_final(self, final: Final) -> FinalMessage:
        tail = self._tail(final.segments) if self._init.tail else {"segments": described(final.segments, self._init.from_ms)}
        return FinalMessage(
            sid=self._init.sid,
            text=self._new(final.text),
            stable=len(final.text),
            audio_ms=self._moved(final.audio_ms),
            latency_ms=round(final.latency_ms, 1),
            channel=self._channel,
            words=words_of(tail["segments"]) if self._init.words else UNSET,
            **tail,
        )

    def _write_failure(self, failed: Failed) -> Error:
        tail = self._tail(failed.segments) if self._init.tail else {}
        text = self._new(failed.text)
        audio_ms = self._moved(failed.audio_ms)
        return Error(failed.code, failed.message, sid=self._init.sid, text=text, audio_ms=audio_ms, channel=self._channel, **tail)

    def _new(self, text: str) -> str:
        return text[self._confirmed.stable :] if self._init.tail else text

    def _tail(self, segments: Sequence[Segment]) -> dict[str, Any]:
        return {"offset": self._confirmed.stable, "segments": described(segments[self._confirmed.segments :], self._init.from_ms)}

    def _moved(self, ms: int) -> int:
        """Convert a time of the stream to the client's own."""
        return self._init.from_ms + ms


def described(segments: Sequence[Segment], from_ms: int) -> tuple[SegmentMessage, ...]:
    return tuple(
        SegmentMessage(each.text, each.start_ms + from_ms, each.end_ms + from_ms, moved(each.words, from_ms)) for each in segments
    )


def moved(words: tuple[Word, ...] | None, from_ms: int) -> tuple[Word, ...] | UnsetType:
    if words is None:
        return UNSET
    return tuple(word.later(from_ms) for word in words) if from_ms else words


def words_of(segments: Sequence[SegmentMessage]) -> tuple[Word, ...]:
    return tuple(word for segment in segments for word in segment.words or ())
