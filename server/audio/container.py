"""Recordings and streams in any container, each decoded in its own thread."""

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import IO, cast

import av

from runtime.audio import SAMPLE_RATE
from server.audio.input import MAX_CHANNELS, Resampler
from server.errors import ClientError, Code

logger = logging.getLogger(__name__)

FORMATS = "aac,ac3,aiff,amr,asf,au,avi,caf,flac,flv,matroska,webm,mov,mp4,m4a,3gp,mp3,mpeg,mpegts,ogg,w64,wav"
"""Containers that hold their own audio. Playlists name other files and addresses, which would be fetched."""
AHEAD_BLOCKS = 8  # blocks that wait to be read
BLOCK_BYTES = SAMPLE_RATE * 2  # 1 s
LIVE_OPTIONS = {"probesize": "32", "analyzeduration": "0"}  # for live audio, so that the first words do not wait
LIVE_BUFFER_BYTES = 1024
MOST_HEADER_BYTES = 1024 * 1024  # most bytes before the first sound: FFmpeg would look for a container for ever
LEAST_RATE, MOST_RATE = 4_000, 768_000  # of audio in a container, in Hz
LEAST_GAP_SECONDS, MOST_GAP_SECONDS = 0.1, 600.0  # gaps between timestamps that become silence
LEAST_RESET_SECONDS = 1.0  # if timestamps go back this far, another recording begins
MOST_FAILURES = 100  # of a container in a row, without a packet between them
UNDECODABLE = ClientError(Code.INVALID_FILE, "the stream could not be decoded: it is no container that is known here")


async def decode(source: IO[bytes], max_seconds: float, channel: int | None = None) -> AsyncGenerator[bytes, None]:
    """Yield PCM16 mono at 16 kHz, in blocks of about a second. channel: the one to take, counted from 0; None: all are mixed.

    Raises ClientError if the source is not audio, or too long.
    """
    reading = DecodedFrames(source, max_seconds, None if channel is None else range(channel, channel + 1))
    reading.start()
    try:
        while (block := await reading.queue.get()) is not None:
            if isinstance(block, ClientError):
                raise block
            yield block
    finally:
        await reading.stop()


async def count_channels(source: IO[bytes]) -> int:
    """Return the number of channels of the audio track that players use. Raises ClientError if there is no audio, or too many."""
    channels = await asyncio.to_thread(channels_of, source)
    if channels > MAX_CHANNELS:
        raise ClientError(Code.INVALID_FILE, f"{MAX_CHANNELS} channels at most are taken, not {channels}", "file")
    return channels


def no_audio() -> ClientError:
    return ClientError(Code.INVALID_FILE, "the file could not be decoded: it is no audio that is known here", "file")


def channels_of(source: IO[bytes]) -> int:
    try:
        with av.open(source, "r", options=whitelist()) as container:
            stream = cast("av.AudioStream | None", container.streams.best("audio"))
            channels = stream.codec_context.layout.nb_channels if stream else 0
    except (av.error.FFmpegError, ValueError) as exc:
        raise no_audio() from exc
    source.seek(0)
    if not channels:
        raise no_audio()
    return channels


@functools.cache
def whitelist() -> dict[str, str]:
    """Return options that limit FFmpeg to these containers and to audio. It would also decode a cover picture of any size."""
    return {"format_whitelist": FORMATS, "codec_whitelist": ",".join(audio_codecs())}


def audio_codecs() -> Iterator[str]:
    for name in sorted(av.codec.codecs_available):
        with contextlib.suppress(av.codec.codec.UnknownCodecError):  # an encoder only
            if av.codec.Codec(name, "r").type == "audio":
                yield name


class DecodedFrames:
    """Decodes a source in a thread."""

    def __init__(self, source: IO[bytes], max_seconds: float, channels: range | None = None):
        self._channels = channels
        self.queue: asyncio.Queue[bytes | ClientError | None] = asyncio.Queue(AHEAD_BLOCKS)
        """Blocks, then None or the error."""
        self._source, self._max_bytes = source, int(max_seconds * SAMPLE_RATE) * 2
        self._loop = asyncio.get_running_loop()
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        """Stop the thread; returns when it no longer uses the source."""
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
        for block in blocks(self._source, self._channels):
            passed += len(block)
            if passed > self._max_bytes:
                limit = self._max_bytes // 2 // SAMPLE_RATE
                raise ClientError(Code.AUDIO_TOO_LONG, f"the recording is longer than the {limit} s that are taken", "file")
            if not self._put(block):
                return

    def _put(self, block: bytes | ClientError | None) -> bool:
        """Put a block into the queue; waits for room. False once nobody reads any more."""
        if self._is_stopped.is_set():
            return False
        asyncio.run_coroutine_threadsafe(self.queue.put(block), self._loop).result()
        return not self._is_stopped.is_set()


def blocks(source: IO[bytes], channels: range | None = None) -> Iterator[bytes]:
    """Yield PCM16 at 16 kHz: these channels interleaved, or mono.

    A recording that breaks off is transcribed up to there. Raises ClientError if it has no audio at all.
    """
    held, has_audio = bytearray(), False
    try:
        with av.open(source, "r", options=whitelist()) as container:
            start = None if container.start_time is None else container.start_time / av.time_base
            for pcm in decoded(container, start, channels):
                held += pcm
                has_audio = True
                if len(held) >= BLOCK_BYTES:
                    yield bytes(held)
                    held.clear()
    except (av.error.FFmpegError, ValueError) as exc:
        if not has_audio:
            raise no_audio() from exc
    if not has_audio:
        raise ClientError(Code.AUDIO_TOO_SHORT, "there is no sound in the file", "file")
    if held:
        yield bytes(held)


def decoded(container: "av.container.InputContainer", start: float | None, channels: range | None = None) -> Iterator[bytes]:
    """Yield PCM16 at 16 kHz of the audio track that players use. A gap in its timestamps becomes silence.

    channels: those to take, interleaved; None: all are mixed into one.
    start: start of the recording on the container's clock, in seconds; None: the time of its first frame.
    Raises ClientError, and FFmpegError if nothing could be decoded.
    """
    stream = cast("av.AudioStream | None", container.streams.best("audio"))
    if stream is None:
        raise ClientError(Code.INVALID_FILE, "the file has no audio in it", "file")
    resampler, timeline = Resampler(channels), Timeline(start)
    error: av.error.FFmpegError | None = None
    damaged_packets = 0
    for packet in packets_of(container, stream):
        try:
            frames = cast("list[av.AudioFrame]", packet.decode())
        except av.error.FFmpegError as exc:
            error, damaged_packets = exc, damaged_packets + 1
            continue
        for frame in frames:
            check_rate(frame.sample_rate)
            yield from silence(timeline.gap_before(frame), 1 if channels is None else len(channels))
            yield from resampler.take(frame)
    if error is not None and not timeline.seconds:
        raise error
    if damaged_packets:
        logger.warning(
            "%d packets of a recording could not be decoded: %.1f s of silence are in their place",
            damaged_packets,
            timeline.filled,
        )
    yield from resampler.finish()


class Timeline:
    """The position of frames in a recording, by their timestamps."""

    def __init__(self, start: float | None):
        """start: see decoded()."""
        self._start = start
        self.seconds = 0.0
        """Seconds of the recording up to the end of the last frame."""
        self.filled = 0.0
        """Seconds of gaps among these."""

    def gap_before(self, frame: "av.AudioFrame") -> float:
        """Return the seconds that are missing before a frame, and move on to its end."""
        time = self.seconds if frame.time is None else frame.time
        if self._start is None:
            self._start = time
        gap = 0.0 if frame.time is None else time - self._start - self.seconds
        if gap < -LEAST_RESET_SECONDS or gap > MOST_GAP_SECONDS:  # another clock begins, as in joined recordings
            self._start, gap = time - self.seconds, 0.0
        elif gap < LEAST_GAP_SECONDS:
            gap = 0.0
        self.filled += gap
        self.seconds += gap + frame.samples / frame.sample_rate
        return gap


def silence(seconds: float, channels: int = 1) -> Iterator[bytes]:
    samples_bytes = round(seconds * SAMPLE_RATE) * 2 * channels
    yield from (bytes(BLOCK_BYTES) for _ in range(samples_bytes // BLOCK_BYTES))
    if rest := samples_bytes % BLOCK_BYTES:
        yield bytes(rest)


def packets_of(container: "av.container.InputContainer", stream: "av.AudioStream") -> "Iterator[av.Packet[av.AudioStream]]":
    """Yield the packets. Goes on after parts that the container itself cannot read, as long as packets follow."""
    failures = 0
    while failures < MOST_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
            return
        except av.error.InvalidDataError:
            failures += 1


def check_rate(rate: int) -> None:
    """Raises ClientError for a rate out of range: a few bytes of a low rate would become gigabytes."""
    if not LEAST_RATE <= rate <= MOST_RATE:
        raise ClientError(
            Code.INVALID_FILE, f"audio of {LEAST_RATE:,} to {MOST_RATE:,} samples a second is taken, not of {rate:,}", "file"
        )


class Pieces:
    """The received part of a stream, as a file for a decoder."""

    def __init__(self, on_empty: Callable[[], None]):
        self._queue: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._on_empty = on_empty
        self._piece = b""
        self._is_at_end = False
        self._is_stopped = False

    def put(self, piece: bytes) -> None:
        """Add a piece; an empty one is the end."""
        self._queue.put(piece)

    def stop(self) -> None:
        """End the stream at once; the rest is not read."""
        self._is_stopped = True
        self._queue.put(b"")

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; waits for at least one. Empty at the end."""
        while not self._piece and not self._is_at_end:
            if self._queue.empty():
                self._on_empty()
            self._piece = self._queue.get()
            self._is_at_end = not self._piece
        if self._is_stopped:
            return b""
        taken, self._piece = self._piece[:size], self._piece[size:]
        return taken


class LiveDecoder:
    """Decodes a container that comes in pieces, as a browser's MediaRecorder sends it."""

    def __init__(
        self,
        receive: Callable[[bytes], Coroutine[None, None, None]],
        failed: Callable[[ClientError], None],
        channels: range | None = None,
    ):
        """receive: takes PCM16 at 16 kHz, and returns when more may come: a small piece may hold hours.

        failed: called with an error. Both are called on the event loop. channels: those to take, interleaved; None: all are
        mixed.
        """
        self._receive, self._failed, self._channels = receive, failed, channels
        self._loop = asyncio.get_running_loop()
        self._is_caught_up = asyncio.Event()
        self._has_ended = False
        self._silent_bytes = 0  # received before the first sound
        self._is_stopped = threading.Event()
        self._has_sound = False
        self._pieces = Pieces(lambda: self._call_soon(self._is_caught_up.set))
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    async def take(self, piece: bytes) -> None:
        """Decode a piece; returns when `receive` has taken everything that can be decoded."""
        if not piece:
            return
        await self._put(piece)
        self._silent_bytes += 0 if self._has_sound else len(piece)
        if self._silent_bytes > MOST_HEADER_BYTES and not self._has_ended:
            self.stop()
            self._failed(UNDECODABLE)

    async def finish(self) -> None:
        """End the stream, and decode the audio that was held back."""
        await self._put(b"")

    def stop(self) -> None:
        """Stop at once, even within a piece, which may hold hours."""
        self._is_stopped.set()
        self._pieces.stop()

    async def _put(self, piece: bytes) -> None:
        self._is_caught_up.clear()
        self._pieces.put(piece)
        if not self._has_ended:
            await self._is_caught_up.wait()

    def _end(self) -> None:
        self._has_ended = True
        self._is_caught_up.set()

    def _run(self) -> None:
        try:
            self._decode()
        except concurrent.futures.CancelledError:  # the event loop has ended meanwhile
            return
        except (av.error.FFmpegError, ValueError, ClientError) as exc:
            self._call_soon(self._failed, exc if isinstance(exc, ClientError) else UNDECODABLE)
        self._call_soon(self._end)

    def _decode(self) -> None:
        with av.open(self._pieces, "r", options=LIVE_OPTIONS | whitelist(), buffer_size=LIVE_BUFFER_BYTES) as container:
            for pcm in decoded(container, None, self._channels):
                self._has_sound = True
                if self._is_stopped.is_set():
                    return
                asyncio.run_coroutine_threadsafe(self._receive(pcm), self._loop).result()

    def _call_soon(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended meanwhile
            self._loop.call_soon_threadsafe(function, *arguments)
