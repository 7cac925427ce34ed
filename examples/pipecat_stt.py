"""pipecat's own services, pointed at this server by a base URL: python examples/pipecat_stt.py [FILE] [deepgram|flux|openai]"""

import asyncio
import os
import sys
import wave

from pipecat.frames.frames import EndFrame, InputAudioRawFrame, InterimTranscriptionFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService

SERVER = os.environ.get("SERVER", "localhost:8000")


class Show(FrameProcessor):
    """Where a bot's language model would be."""

    async def process_frame(self, frame, direction) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame | InterimTranscriptionFrame):
            print(type(frame).__name__, frame.text, flush=True)
        await self.push_frame(frame, direction)


def service(name: str):
    if name == "deepgram":
        settings = DeepgramSTTService.Settings(endpointing=300)
        return DeepgramSTTService(api_key="any", base_url=f"ws://{SERVER}", settings=settings)
    if name == "flux":
        return DeepgramFluxSTTService(api_key="any", url=f"ws://{SERVER}/v2/listen")
    # A bot with a voice activity detector of its own leaves turn_detection out, and commits by itself.
    turns = {"type": "server_vad", "silence_duration_ms": 500}
    return OpenAIRealtimeSTTService(api_key="any", base_url=f"ws://{SERVER}/v1/realtime", turn_detection=turns)


async def speak(task: PipelineTask, recording: wave.Wave_read) -> None:
    await asyncio.sleep(1)  # until the service is connected
    rate = recording.getframerate()
    while pcm := recording.readframes(rate // 20):
        await task.queue_frame(InputAudioRawFrame(audio=pcm, sample_rate=rate, num_channels=1))
        await asyncio.sleep(0.05)
    for _ in range(40):  # two seconds of silence end the last turn
        await task.queue_frame(InputAudioRawFrame(audio=bytes(2 * (rate // 20)), sample_rate=rate, num_channels=1))
        await asyncio.sleep(0.05)
    await task.queue_frame(EndFrame())


async def main(recording: wave.Wave_read, name: str) -> None:
    params = PipelineParams(audio_in_sample_rate=recording.getframerate())
    task = PipelineTask(Pipeline([service(name), Show()]), params=params)
    await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), speak(task, recording))


with wave.open(sys.argv[1] if len(sys.argv) > 1 else "samples/short.wav") as file:
    asyncio.run(main(file, sys.argv[2] if len(sys.argv) > 2 else "deepgram"))
