"""Output formats of a transcription."""

import enum
import json
from collections.abc import Sequence
from typing import Any

from moonshine_client import subtitles
from moonshine_client.subtitles import SubtitleSegment


class OutputFormat(enum.StrEnum):
    TXT = "txt"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"
    JSONL = "jsonl"
    """One line for each segment, as soon as it is transcribed."""


def written(wanted: OutputFormat, text: str, segments: Sequence[SubtitleSegment]) -> str:
    """Format a whole transcription, without a newline at its end."""
    match wanted:
        case OutputFormat.SRT:
            return subtitles.srt(segments).rstrip("\n")
        case OutputFormat.VTT:
            return subtitles.vtt(segments).rstrip("\n")
        case OutputFormat.JSON:
            content = {"text": text, "segments": [described(segment) for segment in segments]}
            return json.dumps(content, ensure_ascii=False, indent=2)
        case OutputFormat.JSONL:
            return "\n".join(json.dumps(described(segment), ensure_ascii=False) for segment in segments)
        case OutputFormat.TXT:
            return subtitles.plain(text, segments)


def described(segment: SubtitleSegment) -> dict[str, Any]:
    words = [{"w": word.w, "start_ms": word.start_ms, "end_ms": word.end_ms} for word in segment.words or ()]
    channel = {} if segment.channel is None else {"channel": segment.channel}
    return {"start_ms": segment.start_ms, "end_ms": segment.end_ms, **channel, "text": segment.text, "words": words}
