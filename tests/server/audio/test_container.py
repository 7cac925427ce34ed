"""A container that comes in pieces: heard as it comes, at the pace of who hears it, and left at once where nobody does."""

import asyncio
import io

import av
import numpy as np

from runtime.audio import SAMPLE_RATE
from server.audio.container import LiveDecoder
from server.errors import ClientError

HOUR = 3600


def flac(seconds: int) -> bytes:
    """Silence, of which a small piece holds a lot."""
    written = io.BytesIO()
    with av.open(written, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, seconds * SAMPLE_RATE), np.int16), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for each in (frame, None):
            container.mux(stream.encode(each))
    return written.getvalue()


class Hearer:
    """Takes so many frames, and then waits for ever."""

    def __init__(self, most: int):
        self.frames, self._most, self.is_full = 0, most, asyncio.Event()

    async def hear(self, pcm: bytes) -> None:
        self.frames += 1
        if self.frames >= self._most:
            self.is_full.set()
            await asyncio.Event().wait()


def test_a_small_piece_with_hours_in_it_is_decoded_no_faster_than_it_is_heard():
    async def run() -> int:
        hearer = Hearer(most=20)
        decoder = LiveDecoder(hearer.hear, lambda error: None)
        taking = asyncio.create_task(decoder.take(flac(HOUR)))
        await asyncio.wait_for(hearer.is_full.wait(), 10)
        await asyncio.sleep(0)
        taking.cancel()
        decoder.stop()
        return hearer.frames

    assert asyncio.run(run()) == 20


def test_a_decoder_that_is_stopped_is_heard_no_more():
    async def run() -> tuple[int, int]:
        heard: list[int] = []
        is_begun = asyncio.Event()

        async def hear(pcm: bytes) -> None:
            heard.append(len(pcm))
            is_begun.set()

        decoder = LiveDecoder(hear, lambda error: None)
        taking = asyncio.create_task(decoder.take(flac(HOUR)))
        await is_begun.wait()
        decoder.stop()
        at_the_stop = len(heard)
        await asyncio.wait_for(taking, 10)  # the thread has ended
        return at_the_stop, len(heard)

    at_the_stop, in_the_end = asyncio.run(run())
    assert in_the_end <= at_the_stop + 1, "one may have been on its way"


def test_what_is_no_container_is_said_once():
    async def run() -> list[ClientError]:
        errors: list[ClientError] = []

        async def hear(pcm: bytes) -> None:
            raise AssertionError("there is no sound")

        decoder = LiveDecoder(hear, errors.append)
        await decoder.take(b"no container" * 10)
        await decoder.finish()
        await decoder.take(b"more")
        return errors

    (error,) = asyncio.run(run())
    assert error.code == "invalid_file"
