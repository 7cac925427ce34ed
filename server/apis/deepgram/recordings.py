"""The answer of Deepgram's API to a recording."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from server.apis.deepgram import paragraphs, search
from server.apis.deepgram.messages import alternative, metadata
from server.apis.deepgram.query import is_true
from server.sessions.recording import RecordingText
from server.stream.transcript import Segment
from server.stream.word_times import Word


def answer(
    query: Mapping[str, str], phrases: Sequence[str], channels: Sequence[RecordingText], model_id: str, sha256: str
) -> dict[str, Any]:
    """Return the answer to a recording, with utterances and paragraphs if the query asks for them.

    phrases: phrases to search for. channels: the text of each channel.
    """
    has_paragraphs = is_true(query, "paragraphs") or is_true(query, "smart_format")
    results: dict[str, Any] = {
        "channels": [
            {"alternatives": [best_of(found, has_paragraphs)], **search.described(phrases, words_of(found))} for found in channels
        ]
    }
    if is_true(query, "utterances"):
        spoken = [(each, channel) for channel, found in enumerate(channels) for each in found.segments]
        results["utterances"] = [utterance(*each) for each in sorted(spoken, key=lambda each: (each[0].start_ms, each[1]))]
    seconds = max(found.seconds for found in channels)
    return {"metadata": metadata(str(uuid.uuid4()), model_id, seconds, sha256, len(channels)), "results": results}


def best_of(found: RecordingText, has_paragraphs: bool) -> dict[str, Any]:
    """Return the only alternative of a channel."""
    words = words_of(found)
    log_prob = sum(segment.log_prob for segment in found.segments) / max(1, len(found.segments))
    best = alternative(found.text, words, log_prob)
    return best | {"paragraphs": paragraphs.described(words)} if has_paragraphs else best


def words_of(found: RecordingText) -> list[Word]:
    return [word for segment in found.segments for word in segment.words or ()]


def utterance(segment: Segment, channel: int) -> dict[str, Any]:
    times = {"start": segment.start_ms / 1000, "end": segment.end_ms / 1000}
    return {**times, "channel": channel, "id": str(uuid.uuid4())} | alternative(
        segment.text, segment.words or (), segment.log_prob
    )
