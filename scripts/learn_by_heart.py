"""Teaches a small model of Moonshine's streaming architecture a few recordings by heart, and writes it as a checkpoint.

The hub's streaming weights are not available everywhere; this checkpoint shows words, interims and finals without them. It knows
its recordings and nothing else. Needs torch, transformers, PyAV and an engine of Moonshine Base in engines/, which gives the
recordings' tokens and their times:

    PYTHONPATH=. python scripts/learn_by_heart.py tests/data/learned tests/data/eval/1[0457]*.flac
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import MoonshineStreamingConfig, MoonshineStreamingForConditionalGeneration

from benchmarks.random_checkpoint import write_vocabulary
from engine_build import checkpoint
from engine_build.streaming_parameters import FRAME_SAMPLES
from moonshine_client import audio_file
from runtime.audio import SAMPLE_RATE, SAMPLES_PER_FRAME, Clip
from runtime.engine import selection
from runtime.engine.manifest import default_engines
from runtime.engine.protocol import Engine, Row
from runtime.scheduler.alignment import first_frames
from runtime.tokenizer import SPACE

START, END = 1, 2
LEARNING_RATE = 3e-3
EXAMPLES_PER_STEP = 12
FIRST_SHARE_OF_PREFIXES, LAST_SHARE_OF_PREFIXES = 0.6, 0.25
QUIETEST_SPEECH = 0.03  # of the loudest sample
SHARE_WITHOUT_QUIET = 0.1
HEARD_AFTER_SECONDS = 0.12  # delay after a word's end from which it is part of a prefix's text
CONFIG = MoonshineStreamingConfig(
    hidden_size=80,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=20,
    max_position_embeddings=1500,
    tie_word_embeddings=True,
    decoder_start_token_id=START,
    rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.8},
    encoder_config={
        "hidden_size": 120,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "sliding_windows": ((16, 4), (16, 0), (16, 0), (16, 4)),
    },
)
"""Widths of encoder and decoder, of their heads and of a whole vector all differ, so that none can be mistaken for another."""


@dataclass(frozen=True)
class Recording:
    """One recording, in the forms that a server may receive, and its tokens."""

    forms: tuple[np.ndarray, ...]
    """float32 (samples,) each, 16 kHz."""
    tokens: tuple[int, ...]
    """Tokens without start and end token."""
    ends: tuple[int, ...]
    """Sample after the last one of each token."""
    whole_words: tuple[int, ...]
    """Numbers of tokens after which a word ends, 0 included."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, help="directory of the checkpoint")
    parser.add_argument("recordings", type=Path, nargs="+", help="audio files of a few seconds each")
    parser.add_argument("--steps", type=int, default=2400)
    arguments = parser.parse_args()
    torch.manual_seed(3)
    random = np.random.default_rng(3)
    weights = checkpoint.load(checkpoint.DEFAULT_MODEL, say=print)
    recordings = [recording_of(path, weights.pieces) for path in arguments.recordings]
    model = MoonshineStreamingForConditionalGeneration(CONFIG)
    learn(model, recordings, arguments.steps, random)
    save(model, weights.pieces, arguments.out)
    texts = {path.stem: text_of(each.tokens, weights.pieces) for path, each in zip(arguments.recordings, recordings, strict=True)}
    (arguments.out / "recordings.json").write_text(json.dumps(texts, indent=2) + "\n")
    wrong = [path.name for path, each in zip(arguments.recordings, recordings, strict=True) if not is_known(model, each)]
    sys.exit(f"not known by heart: {', '.join(wrong)}" if wrong else None)


def recording_of(path: Path, pieces: tuple[str, ...]) -> Recording:
    pcm = audio_file.load(path)
    engine, _, _ = selection.open_engine(selection.choose(default_engines(), checkpoint.DEFAULT_MODEL, "fp32"), max_batch=1)
    tokens, ends = timed_tokens(engine, pcm)
    engine.close()
    begins = [index for index, token in enumerate(tokens) if pieces[token].startswith(SPACE)]
    print(path.name, len(pcm) / SAMPLE_RATE, text_of(tokens, pieces), flush=True)
    return Recording(forms_of(pcm), tokens, ends, (*begins, len(tokens)))


def text_of(tokens: Sequence[int], pieces: Sequence[str]) -> str:
    return "".join(pieces[token] for token in tokens).replace(SPACE, " ").strip()


def timed_tokens(engine: Engine, pcm: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens that Moonshine Base transcribes, and the end of each in samples."""
    engine.encode([0], [Clip(pcm)])
    fed = [START]
    while fed[-1] != END:
        (prediction,) = engine.decode([Row(0, (fed[-1],), len(fed) - 1)])
        fed.append(int(prediction.tokens[0]))
    tokens = tuple(fed[1:-1])
    (share,) = engine.align([0], [tokens]).result()
    spoken_until = int(
        np.flatnonzero(np.abs(pcm) > QUIETEST_SPEECH * np.abs(pcm).max())[-1]
    )  # the last token gets the last frames
    return tokens, tuple(min(frame * SAMPLES_PER_FRAME, spoken_until) for frame in first_frames(share)[1:])


def forms_of(pcm: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the recording unchanged, and after the Opus codec as browsers send it."""
    return tuple(each.astype(np.float32) / 32_768 for each in (pcm, through_opus(pcm, 24_000), through_opus(pcm, 48_000)))


def through_opus(pcm: np.ndarray, bits_per_second: int) -> np.ndarray:
    """Return int16 (samples,) after coding at 48 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48_000, layout="mono")
        stream.bit_rate = bits_per_second
        frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        resampler = av.AudioResampler(format="s16", layout="mono", rate=48_000, frame_size=960)
        for each in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(each))
    file.seek(0)
    return audio_file.decode(file)[: len(pcm)]


def learn(
    model: MoonshineStreamingForConditionalGeneration, recordings: list[Recording], steps: int, random: np.random.Generator
):
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    for step in range(steps):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 30) * (1.02 - progress)
        share = FIRST_SHARE_OF_PREFIXES + (LAST_SHARE_OF_PREFIXES - FIRST_SHARE_OF_PREFIXES) * progress
        examples = [example_of(recordings[index % len(recordings)], share, random) for index in range(EXAMPLES_PER_STEP)]
        optimizer.zero_grad()
        loss = loss_of(model, examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} of {steps}: loss {loss.item():.4f}", flush=True)


def example_of(recording: Recording, share_of_prefixes: float, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a recording or its beginning, somewhat louder or softer, with quiet around it, and its tokens."""
    audio = recording.forms[random.integers(len(recording.forms))] * np.float32(random.uniform(0.3, 1.8))
    before, after, tokens = random.integers(16_000), random.integers(10_000), recording.tokens
    if random.random() < share_of_prefixes:
        end = int(random.integers(2000, len(audio)))
        heard = np.searchsorted(recording.ends, end - HEARD_AFTER_SECONDS * SAMPLE_RATE, "right")
        tokens = tokens[: max(count for count in recording.whole_words if count <= heard)]
        audio, after = audio[:end], 0
    if random.random() < SHARE_WITHOUT_QUIET:
        before = after = 0
    audio = np.concatenate((np.zeros(before, np.float32), audio, np.zeros(after, np.float32)))
    audio += random.standard_normal(len(audio), np.float32) * np.float32(random.uniform(0.0007, 0.0015))
    return audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES], tokens


def loss_of(model: MoonshineStreamingForConditionalGeneration, examples: list[tuple[np.ndarray, tuple[int, ...]]]) -> Tensor:
    longest, most = max(len(audio) for audio, _ in examples), 1 + max(len(tokens) for _, tokens in examples)
    audio, mask = torch.zeros(len(examples), longest), torch.zeros(len(examples), longest, dtype=torch.long)
    fed, wanted = (torch.full((len(examples), most), filler) for filler in (END, -100))
    for row, (samples, tokens) in enumerate(examples):
        audio[row, : len(samples)], mask[row, : len(samples)] = torch.from_numpy(samples), 1
        fed[row, : len(tokens) + 1] = torch.tensor((START, *tokens))
        wanted[row, : len(tokens) + 1] = torch.tensor((*tokens, END))
    logits = model(input_values=audio, attention_mask=mask, decoder_input_ids=fed).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())


@torch.no_grad()
def is_known(model: MoonshineStreamingForConditionalGeneration, recording: Recording) -> bool:
    """True if greedy decoding gives the recording's tokens in every form, with and without quiet around it."""
    model.eval()
    for audio in recording.forms:
        for before, after in ((0, 0), (3200, 6400), (6400, 6400), (12_000, 3200)):
            padded = torch.from_numpy(np.pad(audio, (before, after)))
            padded = (padded + torch.randn(len(padded)) * 0.001)[: len(padded) // FRAME_SAMPLES * FRAME_SAMPLES][None]
            mask = torch.ones(padded.shape, dtype=torch.long)
            found = model.generate(padded, attention_mask=mask, max_new_tokens=len(recording.tokens) + 2)[0].tolist()
            if found != [START, *recording.tokens, END]:
                print("instead:", found, flush=True)
                return False
    return True


def save(model: MoonshineStreamingForConditionalGeneration, pieces: tuple[str, ...], out: Path) -> None:
    """Write the checkpoint in the hub's format, with weights in float16."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "proj_out.weight"}
    save_file(tensors, out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(model.config.to_dict() | {"dtype": "float16"}, indent=2, sort_keys=True) + "\n")
    write_vocabulary(out, pieces)


if __name__ == "__main__":
    main()
