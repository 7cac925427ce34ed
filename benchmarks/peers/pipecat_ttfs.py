"""Time to the final segment through pipecat's own services: run by the Python of an environment that has pipecat.

python benchmarks/peers/pipecat_ttfs.py HOST:PORT deepgram|flux|openai FILE.wav …

Prints a JSON line for each file: the milliseconds from the end of speech, found by pipecat's detector, to the last final,
as in pipecat's public benchmark. Audio is sent at the speed of speech.
"""

import asyncio
import json
import sys
import time
import wave

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, InputAudioRawFrame, TranscriptionFrame, VADUserStoppedSpeakingFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.stt import OpenAIRealtimeSTTService

CONNECT_SECONDS = 1.0
QUIET_SECONDS = 2.0  # after the speech
FRAME_MS = 20


class Watch(FrameProcessor):
    """Notes the last end of speech, and the last final."""

    def __init__(self) -> None:
        super().__init__()
        self.ended_at: float | None = None
        self.final_at: float | None = None

    async def process_frame(self, frame, direction) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, VADUserStoppedSpeakingFrame):
            self.ended_at = frame.timestamp - frame.stop_secs
        elif isinstance(frame, TranscriptionFrame) and frame.text.strip():
            self.final_at = time.time()
        await self.push_frame(frame, direction)


def service_of(name: str, address: str):
    if name == "deepgram":
        return DeepgramSTTService(api_key="any", base_url=f"ws://{address}")
    if name == "flux":
        return DeepgramFluxSTTService(api_key="any", url=f"ws://{address}/v2/listen")
    return OpenAIRealtimeSTTService(api_key="any", base_url=f"ws://{address}/v1/realtime")  # it commits at the end of speech


async def speak(task: PipelineTask, path: str) -> None:
    await asyncio.sleep(CONNECT_SECONDS)
    with wave.open(path) as recording:
        rate = recording.getframerate()
        pcm = recording.readframes(recording.getnframes()) + bytes(int(2 * rate * QUIET_SECONDS))
    size, began = 2 * rate * FRAME_MS // 1000, time.monotonic()
    for number, place in enumerate(range(0, len(pcm), size)):
        await task.queue_frame(InputAudioRawFrame(audio=pcm[place : place + size], sample_rate=rate, num_channels=1))
        await asyncio.sleep(max(0.0, began + (number + 1) * FRAME_MS / 1000 - time.monotonic()))
    await task.queue_frame(EndFrame())


async def measure(address: str, name: str, path: str) -> float | None:
    watch = Watch()
    pipeline = Pipeline([VADProcessor(vad_analyzer=SileroVADAnalyzer()), service_of(name, address), watch])
    task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=16_000))
    await asyncio.gather(PipelineRunner(handle_sigint=False).run(task), speak(task, path))
    if watch.ended_at is None or watch.final_at is None:
        return None
    return 1000 * (watch.final_at - watch.ended_at)


async def main(address: str, name: str, *paths: str) -> None:
    for path in paths:
        print(json.dumps({"file": path, "ttfs_ms": await measure(address, name, path)}), flush=True)


asyncio.run(main(*sys.argv[1:]))
