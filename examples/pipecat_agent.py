"""A voice agent with pipecat: this server listens, a language model answers.

python examples/pipecat_agent.py [FILE] [deepgram|flux]

LLM_URL and LLM_MODEL name any server with OpenAI's chat API (such as Ollama's http://localhost:11434/v1). A bot for people adds a
transport before and a text-to-speech service behind the language model.
"""

import asyncio
import os
import sys
import wave

from pipecat.frames.frames import EndFrame, InputAudioRawFrame, LLMFullResponseEndFrame, LLMTextFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.turns.user_start import TranscriptionUserTurnStartStrategy
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies, UserTurnStrategies

SERVER = os.environ.get("SERVER", "localhost:8000")
LLM_URL, LLM_MODEL = os.environ.get("LLM_URL", "http://localhost:11434/v1"), os.environ.get("LLM_MODEL", "llama3.2")
TURNS = {
    "deepgram": UserTurnStrategies(
        start=[TranscriptionUserTurnStartStrategy()], stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.6)]
    ),
    "flux": ExternalUserTurnStrategies(),  # the server says when a turn is over
}


class Answers(FrameProcessor):
    """Prints what the language model says, where a text-to-speech service would be."""

    async def process_frame(self, frame, direction) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            print(frame.text, end="", flush=True)
        elif isinstance(frame, LLMFullResponseEndFrame):
            print(flush=True)
        await self.push_frame(frame, direction)


async def speak(task: PipelineTask, recording: wave.Wave_read) -> None:
    rate, silence = recording.getframerate(), bytes(recording.getframerate() // 10)
    await asyncio.sleep(1)  # until the services are connected
    while pcm := recording.readframes(rate // 20):
        await task.queue_frame(InputAudioRawFrame(audio=pcm, sample_rate=rate, num_channels=1))
        await asyncio.sleep(0.05)
    for _ in range(80):  # four seconds, in which the last answer comes
        await task.queue_frame(InputAudioRawFrame(audio=silence, sample_rate=rate, num_channels=1))
        await asyncio.sleep(0.05)
    await task.queue_frame(EndFrame())


def speech_to_text(name: str):
    if name == "flux":
        return DeepgramFluxSTTService(api_key="any", url=f"ws://{SERVER}/v2/listen")
    return DeepgramSTTService(api_key="any", base_url=f"ws://{SERVER}", settings=DeepgramSTTService.Settings(endpointing=300))


async def main(recording: wave.Wave_read, name: str) -> None:
    stt = speech_to_text(name)
    llm = OpenAILLMService(api_key="any", base_url=LLM_URL, settings=OpenAILLMService.Settings(model=LLM_MODEL))
    context = LLMContext([{"role": "system", "content": "Answer in one short sentence."}])
    pair = LLMContextAggregatorPair(context, user_params=LLMUserAggregatorParams(user_turn_strategies=TURNS[name]))
    pipeline = Pipeline([stt, pair.user(), llm, Answers(), pair.assistant()])
    task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=recording.getframerate()))
    await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), speak(task, recording))


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file, sys.argv[2] if len(sys.argv) > 2 else "flux"))
