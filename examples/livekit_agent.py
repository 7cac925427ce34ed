"""A voice agent with LiveKit: this server listens, a language model answers.

python examples/livekit_agent.py [FILE] [deepgram|flux]

LLM_URL and LLM_MODEL name any server with OpenAI's chat API (such as Ollama's http://localhost:11434/v1). An agent for people
starts the session in a room, and has a text-to-speech plugin.
"""

import asyncio
import os
import sys
import wave

import aiohttp
from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice.io import AudioInput
from livekit.plugins import deepgram, openai

SERVER = os.environ.get("SERVER", "localhost:8000")
LLM_URL, LLM_MODEL = os.environ.get("LLM_URL", "http://localhost:11434/v1"), os.environ.get("LLM_MODEL", "llama3.2")


class Recording(AudioInput):
    """A WAV file at the speed of speech, then silence, in which the last answer comes."""

    def __init__(self, recording: wave.Wave_read):
        super().__init__(label="recording")
        self._recording, self._rate, self._silent_frames = recording, recording.getframerate(), 0

    async def __anext__(self) -> rtc.AudioFrame:
        await asyncio.sleep(0.05)
        pcm = self._recording.readframes(self._rate // 20)
        self._silent_frames += not pcm
        return rtc.AudioFrame(pcm or bytes(2 * (self._rate // 20)), self._rate, 1, len(pcm) // 2 or self._rate // 20)

    async def until_over(self, seconds: float) -> None:
        while self._silent_frames < seconds / 0.05:  # noqa: ASYNC110 - the frames are what passes the time
            await asyncio.sleep(0.05)


def show(event) -> None:
    """Print what the speaker said and what the agent answered."""
    if event.item.type == "message":
        print(event.item.role, event.item.text_content, flush=True)


def speech_to_text(name: str, http: aiohttp.ClientSession):
    if name == "flux":
        return deepgram.STTv2(base_url=f"http://{SERVER}/v2/listen", api_key="any", http_session=http)
    return deepgram.STT(base_url=f"http://{SERVER}/v1/listen", api_key="any", endpointing_ms=300, http_session=http)


async def main(file: wave.Wave_read, name: str) -> None:
    async with aiohttp.ClientSession() as http:
        session = AgentSession(
            stt=speech_to_text(name, http),
            llm=openai.LLM(base_url=LLM_URL, api_key="any", model=LLM_MODEL),
            vad=None,
            turn_handling={"turn_detection": "stt"},
        )
        session.on("conversation_item_added", show)
        session.input.audio = recording = Recording(file)
        await session.start(Agent(instructions="Answer in one short sentence."))
        await recording.until_over(seconds=4)
        await session.aclose()


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as opened:
    asyncio.run(main(opened, sys.argv[2] if len(sys.argv) > 2 else "flux"))
