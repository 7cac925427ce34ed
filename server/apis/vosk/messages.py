"""Messages of Vosk's WebSocket server, as Jigasi, FreeSWITCH and Asterisk speak them. No I/O, no clock.

https://github.com/alphacep/vosk-server
"""

from collections.abc import Mapping, Sequence
from typing import Any

from server.apis.json_object import parse_object, whole_number
from server.apis.json_text import JsonMessage
from server.apis.terms import usable
from server.apis.utterances import SILENCE_SECONDS
from server.audio.input import AudioFormat
from server.errors import ClientError, Code
from server.stream.stream import Options
from server.stream.terms import Term
from server.stream.word_times import Word

DEFAULT_RATE = 8000  # Vosk's
UNKNOWN = "[unk]"  # in a phrase list: any other word


def parse(text: str) -> dict[str, Any]:
    """Raises ClientError."""
    return parse_object(text, "a message")


def parse_format(config: Mapping[str, Any]) -> AudioFormat:
    """Raises ClientError."""
    try:
        return AudioFormat(rate=whole_number(config.get("sample_rate", DEFAULT_RATE), "sample_rate"))
    except ValueError as exc:
        raise ClientError(Code.INVALID_VALUE, f"sample_rate: {exc}", "sample_rate") from exc


def parse_options(config: Mapping[str, Any]) -> Options:
    """Parse the options. Phrases of a phrase list become keyterms; other words are transcribed all the same."""
    phrases = config.get("phrase_list")
    texts = [each for each in phrases if each != UNKNOWN] if isinstance(phrases, list) else []
    terms = tuple(map(Term, usable(texts)))
    return Options(words=True, silence_seconds=SILENCE_SECONDS, closes_turns=True, terms=terms)


def partial(text: str) -> JsonMessage:
    """Return an answer with the text so far. A client that does not read may miss it: the next answer repeats the text."""
    return Reply({"partial": text}, droppable=True)


def result(text: str, words: Sequence[Word]) -> JsonMessage:
    return Reply({"result": list(map(described, words)), "text": text} if words else {"text": text})


class Reply(JsonMessage):
    """A message without a type."""

    @property
    def op(self) -> str:
        return next(iter(self.fields))


def described(word: Word) -> dict[str, Any]:
    return {"conf": word.confidence, "start": word.start_ms / 1000, "end": word.end_ms / 1000, "word": word.w}
