"""Records what comes on standard input and writes its transcript as it is spoken, a line for each closed segment:

    parec --format=s16le --rate=16000 --channels=1 | python examples/call_recorder.py CALL

writes CALL.wav and CALL.txt (ffmpeg -f s16le -ar 16000 -ac 1 - works, too). The recording stays, whatever becomes of the server.
"""

import asyncio
import os
import sys
import wave

from moonshine_client import StreamError, StreamingClient

BLOCK_BYTES = 640  # 20 ms at 16 kHz


async def read(recording: wave.Wave_write, blocks: asyncio.Queue[bytes]) -> None:
    """Keep the recording, and pass it on. An empty block is the end."""
    block = b"more"
    while block:
        block = await asyncio.to_thread(sys.stdin.buffer.read, BLOCK_BYTES)
        recording.writeframes(block)
        blocks.put_nowait(block[: len(block) - len(block) % 2])


async def send(client: StreamingClient, blocks: asyncio.Queue[bytes]) -> None:
    while block := await blocks.get():
        await client.send(block)
    await client.close()


def line_of(segment: dict) -> str:
    minutes, seconds = divmod(segment["start_ms"] / 1000, 60)
    return f"{int(minutes):02}:{seconds:04.1f}  {segment['text']}"


async def transcribe(blocks: asyncio.Queue[bytes], transcript) -> None:
    try:
        async with StreamingClient(os.environ.get("SERVER", "localhost:8000")) as client:
            sending, written = asyncio.create_task(send(client, blocks)), 0
            async for interim in client:
                written = write(transcript, interim["segments"], written)
            await sending
            write(transcript, (await client.outcome())["segments"], written)
    except (StreamError, OSError) as exc:
        print(f"the transcript ends here, the recording goes on: {exc}", file=sys.stderr)


async def record(recording: wave.Wave_write, transcript) -> None:
    blocks: asyncio.Queue[bytes] = asyncio.Queue()
    await asyncio.gather(read(recording, blocks), transcribe(blocks, transcript))


def write(transcript, segments: list[dict], written: int) -> int:
    for segment in segments[written:]:
        print(line_of(segment), file=transcript, flush=True)
    return len(segments)


name = sys.argv[1] if len(sys.argv) > 1 else "call"
with wave.open(f"{name}.wav", "wb") as wav, open(f"{name}.txt", "w") as text:
    wav.setnchannels(1)
    wav.setsampwidth(2)
    wav.setframerate(16_000)
    asyncio.run(record(wav, text))
