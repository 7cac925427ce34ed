"""LiveKit's own plugins, pointed at this server by a base URL: python examples/livekit_stt.py [FILE] [openai|deepgram|flux]"""

import asyncio
import os
import sys
import wave

import aiohttp
from livekit import rtc
from livekit.plugins import deepgram, openai


def plugin(name: str, server: str, http: aiohttp.ClientSession):
    if name == "deepgram":
        return deepgram.STT(base_url=f"http://{server}/v1/listen", api_key="any", endpointing_ms=300, http_session=http)
    if name == "flux":
        return deepgram.STTv2(base_url=f"http://{server}/v2/listen", api_key="any", http_session=http)
    stt = openai.STT(base_url=f"http://{server}/v1", api_key="any", model="moonshine-base", use_realtime=True)
    stt._session = http  # an agent's job has one; a plain script brings its own
    return stt


async def main(recording: wave.Wave_read, name: str) -> None:
    rate, server = recording.getframerate(), os.environ.get("SERVER", "localhost:8000")
    async with aiohttp.ClientSession() as http:
        stream = plugin(name, server, http).stream()

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
    asyncio.run(main(file, sys.argv[2] if len(sys.argv) > 2 else "openai"))
