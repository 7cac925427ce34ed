"""Recordings in any container, decoded in a thread of their own, a little ahead of who reads them."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import IO

import av

from runtime.audio import SAMPLE_RATE
from server.audio.front import Resampler
from server.errors import ClientError, Code

FORMATS = "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,w64,wav"
"""Containers that hold their own audio. Playlists name other files and addresses, and would be fetched."""
AHEAD_BLOCKS = 8  # blocks that wait to be read
BLOCK_BYTES = SAMPLE_RATE * 2  # 1 s


async def decode(source: IO[bytes], max_seconds: float) -> AsyncGenerator[bytes, None]:
    """PCM16 mono at 16 kHz, in blocks of about a second. Raises ClientError for what is no audio, or too long."""
    reading = Reading(source, max_seconds)
    reading.start()
    try:
        while (block := await reading.queue.get()) is not None:
            if isinstance(block, ClientError):
                raise block
            yield block
    finally:
        await reading.stop()


class Reading:
    """The thread that decodes."""

    def __init__(self, source: IO[bytes], max_seconds: float):
        self.queue: asyncio.Queue[bytes | ClientError | None] = asyncio.Queue(AHEAD_BLOCKS)
        """Blocks, then None or what is wrong."""
        self._source, self._max_bytes = source, int(max_seconds * SAMPLE_RATE) * 2
        self._loop = asyncio.get_running_loop()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Returns when the thread has let go of the source."""
        self._is_stopped.set()
        while not self.queue.empty():
            self.queue.get_nowait()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        last: ClientError | None = None
        try:
            self._pass_on()
        except ClientError as exc:
            last = exc
        self._put(last)

    def _pass_on(self) -> None:
        passed = 0
        for block in blocks(self._source):
            passed += len(block)
            if passed > self._max_bytes:
                limit = self._max_bytes // 2 // SAMPLE_RATE
                raise ClientError(Code.AUDIO_TOO_LONG, f"the recording is longer than the {limit} s that are taken", "file")
            if not self._put(block):
                return

    def _put(self, block: bytes | ClientError | None) -> bool:
        """Waits for room; False once nobody reads any more."""
        if self._is_stopped.is_set():
            return False
        asyncio.run_coroutine_threadsafe(self.queue.put(block), self._loop).result()
        return not self._is_stopped.is_set()


def blocks(source: IO[bytes]) -> Iterator[bytes]:
    """PCM16 mono at 16 kHz. A recording that breaks off is heard as far as it goes; raises ClientError where that is nowhere."""
    held, heard = bytearray(), False
    try:
        with av.open(source, "r", options={"format_whitelist": FORMATS}) as container:
            for pcm in decoded(container):
                held += pcm
                heard = True
                if len(held) >= BLOCK_BYTES:
                    yield bytes(held)
                    held.clear()
    except (av.error.FFmpegError, ValueError) as exc:
        if not heard:
            raise ClientError(
                Code.INVALID_FILE, "the file could not be decoded: it is no audio that is known here", "file"
            ) from exc
    if not heard:
        raise ClientError(Code.AUDIO_TOO_SHORT, "there is no sound in the file", "file")
    if held:
        yield bytes(held)


def decoded(container: "av.container.InputContainer") -> Iterator[bytes]:
    if not container.streams.audio:
        raise ClientError(Code.INVALID_FILE, "the file has no audio in it", "file")
    resampler = Resampler()
    for frame in container.decode(container.streams.audio[0]):
        yield from resampler.take(frame)
    yield from resampler.finish()
