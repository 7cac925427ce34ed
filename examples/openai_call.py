"""OpenAI's Realtime API over WebRTC, as a browser calls it, here with aiortc: python examples/openai_call.py [FILE]"""

import asyncio
import json
import os
import sys

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer
from openai import AsyncOpenAI

SESSION = {"type": "transcription", "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 500}}}}
PREFIX = "conversation.item.input_audio_transcription"


async def main(path: str) -> None:
    client = AsyncOpenAI(base_url=f"http://{os.environ.get('SERVER', 'localhost:8000')}/v1", api_key="any")
    connection, player, ended = RTCPeerConnection(), MediaPlayer(path), asyncio.Event()
    connection.addTrack(player.audio)
    channel = connection.createDataChannel("oai-events")
    channel.on("close", ended.set)
    played = asyncio.Event()
    player.audio.on("ended", played.set)

    @channel.on("message")
    def show(text: str) -> None:
        event = json.loads(text)
        if event["type"] == f"{PREFIX}.completed":
            print(event["transcript"], flush=True)

    await connection.setLocalDescription(await connection.createOffer())
    call = await client.realtime.calls.create(sdp=connection.localDescription.sdp, session=SESSION)
    await connection.setRemoteDescription(RTCSessionDescription(call.text, "answer"))
    await played.wait()
    await client.realtime.calls.hangup(call.response.headers["location"].rsplit("/", 1)[1])
    await ended.wait()
    await connection.close()


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav"))
