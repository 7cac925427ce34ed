"""The client of a moonshine-asr server: StreamingClient for live audio, transcribe for a recording. Needs no engine."""

from moonshine_client.audio_file import AudioFileError, load
from moonshine_client.client import StreamError, StreamingClient, Transcription, transcribe

__all__ = ["AudioFileError", "StreamError", "StreamingClient", "Transcription", "load", "transcribe"]
