"""The client of a moonshine-asr server: StreamingClient for live audio, transcribe for a recording. Needs no engine."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moonshine_client.audio_file import AudioFileError, load
    from moonshine_client.client import StreamingClient, Transcription, transcribe
    from moonshine_client.errors import StreamError

PLACES = {
    "AudioFileError": "audio_file",
    "StreamError": "errors",
    "StreamingClient": "client",
    "Transcription": "client",
    "load": "audio_file",
    "transcribe": "client",
}

__all__ = ["AudioFileError", "StreamError", "StreamingClient", "Transcription", "load", "transcribe"]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: WebRTC takes a while to load, and the server needs only the subtitles."""
    if name in PLACES:
        return getattr(importlib.import_module(f"{__name__}.{PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
