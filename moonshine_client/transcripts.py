"""The transcript of a stream, assembled from all its sessions."""

from collections import deque
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]


class TranscriptAssembler:
    """Assembles messages that contain only new text into whole ones."""

    def __init__(self, has_words: bool):
        self._has_words = has_words
        self._closed_text, self._closed_segments = "", list[Message]()  # of the earlier sessions
        self._text, self._stable = "", 0  # of the current one
        self._segments: list[Message] = []
        self.closed_ms = 0
        """Time up to which everything is in closed segments, or silence; a new session begins there."""
        self.received_ms = 0
        """Time up to which the server has received the audio."""

    @property
    def text(self) -> str:
        return joined(self._closed_text, self._text)

    @property
    def segments(self) -> list[Message]:
        return self._closed_segments + self._segments

    @property
    def stable_text(self) -> str:
        return joined(self._closed_text, self._text[: self._stable])

    def go_on(self) -> None:
        """Begin a new session where the closed segments end; the audio of the open one is sent again."""
        self._closed_segments += self._segments
        self._closed_text = joined(self._closed_text, joined(*(segment["text"] for segment in self._segments)))
        self._text, self._stable, self._segments = "", 0, []
        self.received_ms = self.closed_ms

    def take(self, message: Message) -> Message:
        """Return the message with all of the text and all segments in it."""
        self.received_ms = max(self.received_ms, message.get("audio_ms", 0))
        if message["op"] == "pulse":
            self.closed_ms = max(self.closed_ms, message["audio_ms"])
        if "offset" not in message:
            return message
        self._text = self._text[: message["offset"]] + message["text"]
        self._stable = message.get("stable", len(self._text))
        self._segments += message["segments"]
        closed = self._segments[-1]["end_ms"] if self._segments else 0
        if message["op"] in ("final", "flushed"):
            closed = message["audio_ms"]
        self.closed_ms = max(self.closed_ms, closed)
        return self._whole(message)

    def _whole(self, message: Message) -> Message:
        segments = self.segments
        whole = message | {"text": self.text, "segments": segments}
        if "stable" in message:
            whole["stable"] = len(self.stable_text)
        if self._has_words and message["op"] == "final":
            whole["words"] = [word for segment in segments for word in segment["words"]]
        del whole["offset"]
        return whole


class ChannelTranscripts:
    """Transcripts of the channels of one stream. A final or flush is complete when the last channel's has come."""

    def __init__(self, has_words: bool, channels: int = 1):
        self._channels = [TranscriptAssembler(has_words) for _ in range(channels)]
        self._flushed: list[deque[Message]] = [deque() for _ in range(channels)]  # answers that wait for those of other channels
        self._finals: dict[int, Message] = {}

    @property
    def closed_ms(self) -> int:
        """Time up to which everything of every channel is in closed segments, or silence."""
        return min(self.closed_of_each)

    @property
    def closed_of_each(self) -> list[int]:
        return [each.closed_ms for each in self._channels]

    @property
    def received_ms(self) -> int:
        return min(each.received_ms for each in self._channels)

    @property
    def stable_text(self) -> str:
        return joined(*(each.stable_text for each in self._channels))

    def go_on(self) -> None:
        """Begin a new session."""
        self._finals.clear()
        for each, flushed in zip(self._channels, self._flushed, strict=True):
            flushed.clear()
            each.go_on()

    def take(self, message: Message) -> Message | None:
        """Return the whole message; None if other channels must answer first."""
        if "channel" not in message:
            return [each.take(message) for each in self._channels][0]
        channel = message["channel"]
        whole = self._channels[channel].take(message)
        if "segments" in whole:
            whole["segments"] = [{"channel": channel, **segment} for segment in whole["segments"]]
        match message["op"]:
            case "error":
                return whole | {"text": self.stable_text}
            case "flushed":
                self._flushed[channel].append(whole)
                return merged([each.popleft() for each in self._flushed]) if all(self._flushed) else None
            case "final":
                self._finals[channel] = whole
                return merged([*self._finals.values()]) if len(self._finals) == len(self._channels) else None
        return whole


def merged(messages: Sequence[Message]) -> Message:
    """Merge the messages of all channels into one, in order of time. `channels` has each of them."""
    segments = [segment for each in messages for segment in each["segments"]]
    segments.sort(key=lambda segment: (segment["start_ms"], segment["channel"]))
    text = joined(*(segment["text"] for segment in segments))
    whole = messages[-1] | {"text": text, "stable": len(text), "segments": segments}
    whole["audio_ms"] = max(each["audio_ms"] for each in messages)
    whole["channels"] = sorted(messages, key=lambda each: each["channel"])
    if "words" in whole:
        whole["words"] = [word for segment in segments for word in segment["words"]]
    del whole["channel"]
    return whole


def joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)
