"""What Home Assistant does with a voice command, by its own client library: python examples/wyoming_file.py [FILE]

The server needs ASR_WYOMING_PORT=10300.
"""

import asyncio
import os
import sys
import wave

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient

HOST, _, PORT = os.environ.get("WYOMING", "localhost:10300").partition(":")


async def main(recording: wave.Wave_read) -> None:
    rate, width, channels = recording.getframerate(), recording.getsampwidth(), recording.getnchannels()
    async with AsyncTcpClient(HOST, int(PORT)) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(rate, width, channels).event())
        while pcm := recording.readframes(1024):
            await client.write_event(AudioChunk(rate, width, channels, pcm).event())
        await client.write_event(AudioStop().event())
        while event := await client.read_event():
            if Transcript.is_type(event.type):
                print(Transcript.from_event(event).text)
                return


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file))
