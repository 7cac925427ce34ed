"""Live audio with Deepgram's SDK, here a WAV file at the speed of speech: python examples/deepgram_live.py [FILE]"""

import asyncio
import os
import sys
import wave

from deepgram import AsyncDeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType


def client_of(server: str) -> AsyncDeepgramClient:
    http, socket = f"http://{server}", f"ws://{server}"
    here = DeepgramClientEnvironment(base=http, production=socket, agent=socket, agent_rest=http)
    return AsyncDeepgramClient(api_key="any", environment=here)


def show(message) -> None:
    """What is final, a line each."""
    if message.type == "Results" and message.is_final and message.channel.alternatives[0].transcript:
        print(message.channel.alternatives[0].transcript, flush=True)


async def main(recording: wave.Wave_read) -> None:
    rate, client = recording.getframerate(), client_of(os.environ.get("SERVER", "localhost:8000"))
    options = {"model": "moonshine-base", "encoding": "linear16", "sample_rate": rate}
    async with client.listen.v1.connect(**options, interim_results=True, endpointing=300) as socket:
        socket.on(EventType.MESSAGE, show)
        listening = asyncio.create_task(socket.start_listening())
        while pcm := recording.readframes(rate // 20):
            await socket.send_media(pcm)
            await asyncio.sleep(0.05)
        await socket.send_close_stream()
        await listening


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file))
