"""Live audio with OpenAI's Realtime API, here a WAV file at the speed of speech: python examples/openai_realtime.py [FILE]"""

import asyncio
import base64
import os
import sys
import wave

from openai import AsyncOpenAI

PREFIX = "conversation.item.input_audio_transcription"


async def speak(connection, recording: wave.Wave_read) -> None:
    """Fifty milliseconds at a time, and a second of silence behind."""
    frames = recording.getframerate() // 20
    while pcm := recording.readframes(frames):
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())
        await asyncio.sleep(0.05)
    await connection.input_audio_buffer.append(audio=base64.b64encode(bytes(2 * 20 * frames)).decode())


async def main(recording: wave.Wave_read) -> None:
    client = AsyncOpenAI(base_url=f"http://{os.environ.get('SERVER', 'localhost:8000')}/v1", api_key="any")
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        audio = {"input": {"format": {"type": "audio/pcm", "rate": recording.getframerate()}}}
        await connection.session.update(session={"type": "transcription", "audio": audio})
        speaking = asyncio.create_task(speak(connection, recording))
        async for event in connection:
            if event.type == f"{PREFIX}.delta":
                print(event.delta, end="", flush=True)
            elif event.type == f"{PREFIX}.completed":
                print()
                if speaking.done():
                    return


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file))
