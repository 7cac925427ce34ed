"""A flush gives what was said before it, as a stream of its own would, and costs what follows nothing."""

import numpy as np

from benchmarks.harness.accuracy import normalise
from benchmarks.harness.simulation import Simulation
from runtime.audio import SAMPLE_RATE


def test_what_was_said_before_a_flush_and_behind_it_is_understood(fp32, clips):
    first, second = (next(clip for clip in clips if clip.name == name) for name in ("15_rms", "16_slt"))
    pause = np.zeros(SAMPLE_RATE // 2, np.int16)
    audio = np.concatenate([first.samples, pause, second.samples])
    simulation = Simulation(fp32.engine, fp32.tokenizer, flush_at=(len(first.samples) / SAMPLE_RATE + 0.25,))
    text = simulation.run(audio)
    (flushed,) = [message for _, message in simulation.messages if message["op"] == "flushed"]
    assert normalise(flushed["text"]) == normalise(first.text)
    assert normalise(text) == normalise(f"{first.text} {second.text}")
    assert len(simulation.messages[-1][1]["segments"]) == 2
