"""Text with times, as subtitles: SubRip (srt) and WebVTT (vtt)."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

LINE_CHARACTERS = 42  # as broadcasters use it
MAX_CHARACTERS = 2 * LINE_CHARACTERS  # of a cue
MIN_CUE_MS, MAX_CUE_MS = 800, 7_000
PAUSE_MS = 800  # a longer pause between two words ends a cue
SENTENCE_ENDS = (".", "?", "!")
LEAST_SENTENCE_CHARACTERS = 30  # shorter sentences share a cue


class SubtitleWord(Protocol):
    """A word and its times."""

    @property
    def w(self) -> str: ...

    @property
    def start_ms(self) -> int: ...

    @property
    def end_ms(self) -> int: ...


class SubtitleSegment(Protocol):
    """Text and its times; also its words, if they have times."""

    @property
    def text(self) -> str: ...

    @property
    def start_ms(self) -> int: ...

    @property
    def end_ms(self) -> int: ...

    @property
    def words(self) -> Sequence[SubtitleWord] | None: ...

    @property
    def channel(self) -> int | None:
        """The channel, counted from 0; None if channels are mixed."""


@dataclass(frozen=True)
class Cue:
    """One subtitle."""

    start_ms: int
    end_ms: int
    text: str
    speaker: str = ""
    """Name of the channel; empty if channels are mixed."""

    @property
    def lines(self) -> str:
        """The text in at most two lines of about equal length, if it can be broken."""
        if len(self.text) <= LINE_CHARACTERS:
            return self.text
        breaks = [place for place, character in enumerate(self.text) if character == " "]
        if not breaks:
            return self.text
        place = min(breaks, key=lambda each: max(each, len(self.text) - each - 1))
        return f"{self.text[:place]}\n{self.text[place + 1 :]}"


def cues_of(segments: Iterable[SubtitleSegment]) -> Iterator[Cue]:
    """Make cues that can be read: each lasts MIN_CUE_MS or more, if the next one leaves room for it."""
    cues = list(spoken_cues(segments))
    ends: list[float] = [*(cue.start_ms for cue in cues[1:]), math.inf]
    for cue, latest_ms in zip(cues, ends, strict=False):
        yield replace(cue, end_ms=max(cue.end_ms, round(min(cue.start_ms + MIN_CUE_MS, latest_ms))))


def spoken_cues(segments: Iterable[SubtitleSegment]) -> Iterator[Cue]:
    """Make cues from the words, or one cue for each segment that has none; each lasts as long as its words."""
    for segment in segments:
        if not segment.words:
            yield Cue(segment.start_ms, segment.end_ms, segment.text, speaker_of(segment))
            continue
        for words in grouped(segment.words):
            yield Cue(words[0].start_ms, words[-1].end_ms, " ".join(word.w for word in words), speaker_of(segment))


def speaker_of(segment: SubtitleSegment) -> str:
    return "" if segment.channel is None else f"Channel {segment.channel + 1}"


def plain(text: str, segments: Sequence[SubtitleSegment]) -> str:
    """Return the text as it is, or a line for each segment that names its channel."""
    lines = [f"{speaker_of(segment)}: {segment.text}" for segment in segments if segment.channel is not None]
    return "\n".join(lines) or text


def grouped(words: Sequence[SubtitleWord]) -> Iterator[list[SubtitleWord]]:
    """Group words into cues."""
    group: list[SubtitleWord] = []
    for word in words:
        if group and not fits(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def fits(group: Sequence[SubtitleWord], word: SubtitleWord) -> bool:
    text, last = " ".join(each.w for each in group), group[-1]
    is_sentence = last.w.endswith(SENTENCE_ENDS) and len(text) >= LEAST_SENTENCE_CHARACTERS
    is_short = len(text) + 1 + len(word.w) <= MAX_CHARACTERS and word.end_ms - group[0].start_ms <= MAX_CUE_MS
    return is_short and not is_sentence and word.start_ms - last.end_ms <= PAUSE_MS


def srt(segments: Iterable[SubtitleSegment]) -> str:
    cues = (
        f"{number}\n{timestamp(cue.start_ms, ',')} --> {timestamp(cue.end_ms, ',')}\n"
        f"{cue.speaker and f'{cue.speaker}: '}{cue.lines}\n"
        for number, cue in enumerate(cues_of(segments), start=1)
    )
    return "\n".join(cues)


def vtt(segments: Iterable[SubtitleSegment]) -> str:
    cues = (
        f"{timestamp(cue.start_ms, '.')} --> {timestamp(cue.end_ms, '.')}\n"
        f"{cue.speaker and f'<v {cue.speaker}>'}{escaped(cue.lines)}\n"
        for cue in cues_of(segments)
    )
    return "\n".join(["WEBVTT\n", *cues])


def escaped(text: str) -> str:
    """Escape the text of a cue, which is markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def timestamp(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
