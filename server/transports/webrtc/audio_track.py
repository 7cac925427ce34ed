"""An audio track of a WebRTC connection as PCM16 mono at 16 kHz."""

from collections.abc import AsyncIterator
from typing import cast

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from runtime.audio import SAMPLE_RATE
from server.audio.input import Resampler

MOST_MISSING_SECONDS = 5.0  # in one gap; a longer gap means that the clock was set again


async def received(track: MediaStreamTrack) -> AsyncIterator[bytes]:
    """Yield the track's audio until it ends.

    Lost audio, and silence that was not sent, are replaced by silence, so that times stay correct.
    """
    resampler, expected = Resampler(), None
    while (frame := await next_frame(track)) is not None:
        if expected is not None and frame.pts is not None and frame.pts > expected:
            yield silence((frame.pts - expected) / frame.sample_rate)
        expected = None if frame.pts is None else frame.pts + frame.samples
        for pcm in resampler.take(frame):
            yield pcm


async def next_frame(track: MediaStreamTrack) -> av.AudioFrame | None:
    """Return the next frame; None at the end. aiortc's audio counts time in samples."""
    try:
        return cast(av.AudioFrame, await track.recv())
    except MediaStreamError:
        return None


def silence(seconds: float) -> bytes:
    return bytes(2 * round(min(seconds, MOST_MISSING_SECONDS) * SAMPLE_RATE))
