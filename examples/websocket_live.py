"""Live audio over the WebSocket, here a WAV file at the speed of speech: python examples/websocket_live.py [FILE]"""

import asyncio
import json
import os
import sys
import wave

from websockets.asyncio.client import ClientConnection, connect

SERVER = os.environ.get("SERVER", "localhost:8000")


async def speak(socket: ClientConnection, recording: wave.Wave_read) -> None:
    """Fifty milliseconds at a time."""
    while pcm := recording.readframes(recording.getframerate() // 20):
        await socket.send(pcm)
        await asyncio.sleep(0.05)
    await socket.send('{"op":"close"}')


async def main(recording: wave.Wave_read) -> None:
    async with connect(f"ws://{SERVER}/ws", proxy=None) as socket:
        await socket.send(json.dumps({"op": "init", "sr": recording.getframerate()}))
        speaking = asyncio.create_task(speak(socket, recording))
        async for message in socket:
            said = json.loads(message)
            if said["op"] == "interim":
                print(f"{said['audio_ms'] / 1000:6.2f} s  {said['text'][: said['stable']]}", file=sys.stderr)
            elif said["op"] == "final":
                print(said["text"])
        await speaking


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file))
