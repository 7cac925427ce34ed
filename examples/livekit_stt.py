"""LiveKit's own OpenAI plugin, pointed at this server by its base URL: python examples/livekit_stt.py [FILE]"""

import asyncio
import os
import sys
import wave

import aiohttp
from livekit import rtc
from livekit.plugins import openai


async def main(recording: wave.Wave_read) -> None:
    rate, server = recording.getframerate(), os.environ.get("SERVER", "localhost:8000")
    async with aiohttp.ClientSession() as http:
        stt = openai.STT(base_url=f"http://{server}/v1", api_key="any", model="moonshine-base", use_realtime=True)
        stt._session = http  # an agent's job has one; a plain script brings its own
        stream = stt.stream()

        async def show() -> None:
            async for event in stream:
                print(event.type.value, *(alternative.text for alternative in event.alternatives))

        showing = asyncio.create_task(show())
        while pcm := recording.readframes(rate // 20):
            stream.push_frame(rtc.AudioFrame(pcm, rate, 1, len(pcm) // 2))
            await asyncio.sleep(0.05)
        for _ in range(40):  # two seconds of silence end the last turn
            stream.push_frame(rtc.AudioFrame(bytes(2 * (rate // 20)), rate, 1, rate // 20))
            await asyncio.sleep(0.05)
        await stream.aclose()
        showing.cancel()


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file))
