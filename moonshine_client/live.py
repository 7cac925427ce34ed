"""Live audio from a microphone or a pipe, and its transcription."""

import asyncio
import concurrent.futures
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import IO, Any

from moonshine_client.client import StreamingClient
from moonshine_client.resend_buffer import SAMPLE_RATE
from moonshine_client.subtitles import SubtitleSegment
from moonshine_client.transcripts import Message

BLOCK_SAMPLES = SAMPLE_RATE // 20
WAITING_BLOCKS = 20


class NoMicrophone(Exception):
    """There is no microphone, or the library that reads it is missing. The message is one line that says which."""


async def piped(source: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield PCM16 at 16 kHz, until the source ends. A daemon thread reads it, because a pipe may be silent for ever."""
    blocks: asyncio.Queue[bytes] = asyncio.Queue(WAITING_BLOCKS)
    loop = asyncio.get_running_loop()

    def read() -> None:
        with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError):  # the event loop has ended
            block = b"more"
            while block:
                block = source.read(2 * BLOCK_SAMPLES)
                asyncio.run_coroutine_threadsafe(blocks.put(block), loop).result()

    threading.Thread(target=read, name="pipe", daemon=True).start()
    while block := await blocks.get():
        yield block[: len(block) - len(block) % 2]


async def spoken(device: str | None) -> AsyncIterator[bytes]:
    """Yield the microphone's audio, PCM16 mono at 16 kHz. Raises NoMicrophone."""
    try:
        import sounddevice  # needs the system's PortAudio, which only some users have
    except ModuleNotFoundError as exc:
        raise NoMicrophone("a microphone needs sounddevice: pip install sounddevice") from exc
    except OSError as exc:
        raise NoMicrophone("a microphone needs PortAudio: apt install libportaudio2, or your system's package") from exc
    blocks: asyncio.Queue[bytes] = asyncio.Queue()
    chosen = int(device) if device and device.isdecimal() else device
    loop = asyncio.get_running_loop()

    def take(block: Any, *_: object) -> None:
        loop.call_soon_threadsafe(blocks.put_nowait, bytes(block))

    try:
        stream = sounddevice.RawInputStream(SAMPLE_RATE, BLOCK_SAMPLES, chosen, channels=1, dtype="int16", callback=take)
    except (sounddevice.PortAudioError, ValueError) as exc:
        raise NoMicrophone(f"the microphone cannot be opened: {exc}") from exc
    with stream:
        while True:
            yield await blocks.get()


async def listen(
    server: str,
    audio: AsyncIterator[bytes],
    on_interim: Callable[[Message], None],
    on_trouble: Callable[[str], None],
    keyterms: Sequence[str] = (),
    channels: int = 1,
) -> Message:
    """Return the final when the audio ends or Ctrl-C is pressed. Raises StreamError, OSError."""
    async with StreamingClient(server, words=True, keyterms=keyterms, on_trouble=on_trouble, channels=channels) as client:
        sending, showing = asyncio.create_task(send(client, audio)), asyncio.create_task(show(client, on_interim))
        with stopped_by_interrupt(sending):
            await asyncio.wait({sending, showing}, return_when=asyncio.FIRST_COMPLETED)
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sending
        final = await client.close()
        await showing
        return final


async def send(client: StreamingClient, audio: AsyncIterator[bytes]) -> None:
    async for block in audio:
        if await client.send(block) is not None:
            return


async def show(client: StreamingClient, on_interim: Callable[[Message], None]) -> None:
    async for interim in client:
        on_interim(interim)


@contextlib.contextmanager
def stopped_by_interrupt(sending: "asyncio.Task[None]") -> Any:
    """Make Ctrl-C end the audio, not the program: the final still comes."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, sending.cancel)
    except NotImplementedError:  # Windows
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def segments_of(message: Message) -> tuple[SubtitleSegment, ...]:
    """Return the segments of a final, as subtitles take them."""
    return tuple(
        SimpleNamespace(
            text=each["text"],
            start_ms=each["start_ms"],
            end_ms=each["end_ms"],
            channel=each.get("channel"),
            words=[SimpleNamespace(**word) for word in each.get("words", ())],
        )
        for each in message["segments"]
    )
