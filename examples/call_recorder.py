"""Records what comes on standard input and writes its transcript as it is spoken, a line for each closed segment:

    parec --format=s16le --rate=16000 --channels=1 | python examples/call_recorder.py CALL

writes CALL.wav and CALL.txt (ffmpeg -f s16le -ar 16000 -ac 1 - works, too). The recording stays, whatever becomes of the server.
"""

import asyncio
import os
import sys
import wave

from moonshine_client import StreamingClient

BLOCK_BYTES = 640  # 20 ms at 16 kHz


async def send(client: StreamingClient, recording: wave.Wave_write) -> None:
    while block := await asyncio.to_thread(sys.stdin.buffer.read, BLOCK_BYTES):
        recording.writeframes(block)
        await client.send(block[: len(block) - len(block) % 2])
    await client.close()


def line_of(segment: dict) -> str:
    minutes, seconds = divmod(segment["start_ms"] / 1000, 60)
    return f"{int(minutes):02}:{seconds:04.1f}  {segment['text']}"


async def record(recording: wave.Wave_write, transcript) -> None:
    async with StreamingClient(os.environ.get("SERVER", "localhost:8000")) as client:
        sending, written = asyncio.create_task(send(client, recording)), 0
        async for interim in client:
            written = write(transcript, interim["segments"], written)
        await sending
        write(transcript, (await client.outcome())["segments"], written)


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
