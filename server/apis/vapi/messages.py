"""Messages of Vapi's custom transcribers. No I/O, no clock.

https://docs.vapi.ai/customization/custom-transcriber
"""

from collections.abc import Mapping
from typing import Any

from server.apis.json_object import parse_object, whole_number
from server.apis.json_text import JsonMessage
from server.apis.utterances import SILENCE_SECONDS, Utterance
from server.audio.input import AudioFormat
from server.errors import ClientError, Code, ServerError
from server.stream.stream import Options

SPEAKERS = ("customer", "assistant")
"""Names of the channels, in order."""
OPTIONS = Options(silence_seconds=SILENCE_SECONDS, closes_turns=True)


def parse(text: str) -> dict[str, Any]:
    """Raises ClientError."""
    return parse_object(text, "a message")


def parse_format(message: Mapping[str, Any]) -> AudioFormat:
    """Return the format in `start`; a single channel is the customer's. Raises ClientError."""
    if message.get("encoding", "linear16") != "linear16" or message.get("container", "raw") != "raw":
        raise ClientError(Code.UNSUPPORTED_VALUE, "encoding must be linear16 and container raw", "encoding")
    rate = whole_number(message.get("sampleRate", 16_000), "sampleRate")
    channels = whole_number(message.get("channels", 2), "channels")
    if not 1 <= channels <= len(SPEAKERS):
        raise ClientError(Code.INVALID_VALUE, "channels must be 1 or 2", "channels")
    try:
        return AudioFormat(rate=rate, channels=channels)
    except ValueError as exc:
        raise ClientError(Code.INVALID_VALUE, f"sampleRate: {exc}", "sampleRate") from exc


def response(utterance: Utterance, channel: int) -> JsonMessage:
    fields = {"type": "transcriber-response", "transcription": utterance.text, "channel": SPEAKERS[channel]}
    return JsonMessage(fields | {"transcriptType": "final"})


def error(error: ServerError) -> JsonMessage:
    return JsonMessage({"type": "error", "error": error.message})
