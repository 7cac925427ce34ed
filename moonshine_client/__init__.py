"""The client of a moonshine-asr server: StreamingClient for live audio, transcribe for a recording. Needs no engine."""

from moonshine_client.audio_file import AudioFileError, load
from moonshine_client.client import StreamingClient, Transcription, transcribe
from moonshine_client.wires import StreamError

__all__ = ["AudioFileError", "StreamError", "StreamingClient", "Transcription", "load", "transcribe"]
