"""Sends a recording as Twilio would, in the messages of pipecat's own serializer: run by pipecat's Python.

python pipecat_twilio.py FILE ws://ADDRESS/v1/telephone/twilio/CHANNEL
"""

import asyncio
import json
import sys
import wave

from pipecat.frames.frames import OutputAudioRawFrame
from pipecat.serializers.twilio import TwilioFrameSerializer
from websockets.asyncio.client import connect

STREAM = "MZ0123456789abcdef0123456789abcdef"
FRAME_SAMPLES = 320  # 20 ms


async def main(path: str, address: str) -> None:
    serializer = TwilioFrameSerializer(STREAM, params=TwilioFrameSerializer.InputParams(auto_hang_up=False))
    with wave.open(path) as recording:
        pcm, rate = recording.readframes(recording.getnframes()), recording.getframerate()
    async with connect(address, proxy=None) as socket:
        await socket.send(json.dumps({"event": "connected", "protocol": "Call", "version": "1.0.0"}))
        await socket.send(
            json.dumps({"event": "start", "streamSid": STREAM, "start": {"streamSid": STREAM, "tracks": ["inbound"]}})
        )
        for place in range(0, len(pcm), 2 * FRAME_SAMPLES):
            message = await serializer.serialize(OutputAudioRawFrame(pcm[place : place + 2 * FRAME_SAMPLES], rate, 1))
            if message is not None:
                await socket.send(message)
        await socket.send(json.dumps({"event": "stop", "streamSid": STREAM}))
        async for _ in socket:
            pass


asyncio.run(main(*sys.argv[1:]))
