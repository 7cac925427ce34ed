"""The transcript of a stream, put together over all the sessions that it took."""

from typing import Any

Message = dict[str, Any]


class TranscriptAssembler:
    """Puts messages that say what is new together into whole ones."""

    def __init__(self, has_words: bool):
        self._has_words = has_words
        self._closed_text, self._closed_segments = "", list[Message]()  # of the sessions before
        self._text, self._stable = "", 0  # of this one
        self._segments: list[Message] = []
        self.closed_ms = 0
        """Up to there all is in closed segments, or silence: a new session begins there."""
        self.received_ms = 0
        """Up to there the server has received the audio."""

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
        """A new session begins where the closed segments end; the audio of the open one is sent again."""
        self._closed_segments += self._segments
        self._closed_text = joined(self._closed_text, joined(*(segment["text"] for segment in self._segments)))
        self._text, self._stable, self._segments = "", 0, []
        self.received_ms = self.closed_ms

    def take(self, message: Message) -> Message:
        """The message with all of the text and all segments in it."""
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


def joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)
