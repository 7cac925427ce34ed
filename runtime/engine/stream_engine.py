"""The base of the engines of streaming models: for a longer clip of a slot's stream, only the new audio is encoded."""

from collections.abc import Sequence

import numpy as np

from runtime import audio
from runtime.audio import SAMPLE_RATE, STREAMING_FRAME_SAMPLES, STREAMING_MIN_SAMPLES, Clip
from runtime.engine.manifest import Manifest
from runtime.engine.protocol import Engine, Limits, check_clip

ENCODE_ROWS = 8  # in one call: this many streams with half a second each fill two cores; with more, finals wait longer


class StreamEngine(Engine):
    """See runtime.engine.protocol.Engine."""

    _clips: "ContinuedClips"

    def encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        for slot, clip in zip(slots, clips, strict=True):
            check_clip(self.limits, slot, clip)
        try:
            self._encode(slots, clips)
        except Exception:
            for slot in slots:  # they do not hold their clips
                self.free(slot)
            raise

    def _encode(self, slots: Sequence[int], clips: Sequence[Clip]) -> None:
        for slot, clip in zip(slots, clips, strict=True):
            if not self._clips.are_continued(slot, clip):
                self.reset(slot)
        new = {slot: self._clips.take(slot, clip) for slot, clip in zip(slots, clips, strict=True)}
        if grown := [slot for slot, samples in new.items() if len(samples)]:
            self.append(grown, [new[slot] for slot in grown])

    def append(self, slots: Sequence[int], samples: Sequence[np.ndarray]) -> None:
        """Encode new audio of each slot's stream, float32 (samples,) in [-1, 1], as if it had come with the earlier audio.

        Raises EngineFailed; the contents of these streams are then useless.
        """
        raise NotImplementedError

    def reset(self, slot: int) -> None:
        """Begin a stream without audio in this slot."""
        self.free(slot)

    def free(self, slot: int) -> None:
        super().free(slot)  # type: ignore[safe-super]  # of the engine that this is mixed with
        self._clips.forget(slot)

    def clear(self, slot: int) -> None:
        """Give up the slot's stream: a NaN would stay in its state."""
        super().clear(slot)  # type: ignore[safe-super]
        self.free(slot)


class ContinuedClips:
    """Remembers the clip that each slot holds."""

    def __init__(self) -> None:
        self._clips: dict[int, Clip] = {}

    def are_continued(self, slot: int, clip: Clip) -> bool:
        """True if the clip begins with all audio that the slot holds."""
        held = self._clips.get(slot)
        return held is not None and clip.continues(held)

    def take(self, slot: int, clip: Clip) -> np.ndarray:
        """Return the clip's samples that the slot does not hold, float32 in [-1, 1]. From now on, the slot holds the clip."""
        held = self._clips.get(slot)
        new = audio.to_float(clip, held.sample_count if held else 0, STREAMING_MIN_SAMPLES)
        if clip.sample_count < STREAMING_MIN_SAMPLES:
            self.forget(slot)  # no longer clip begins with its padding
        else:
            self._clips[slot] = clip
        return new

    def forget(self, slot: int) -> None:
        self._clips.pop(slot, None)


def limits_of(manifest: Manifest, max_batch: int, max_streams: int, max_seconds: float | None = None) -> Limits:
    """Return the limits of a streaming model's engine. max_batch: most rows decoded at a time; max_streams: streams whose audio
    is kept; max_seconds: longest clip, if less than the model allows."""
    max_samples = manifest.max_samples if max_seconds is None else min(manifest.max_samples, int(max_seconds * SAMPLE_RATE))
    return Limits(
        max_batch=max(max_batch, max_streams),
        max_rows=max_batch,
        max_samples=max_samples,
        max_positions=manifest.max_positions,
        encode_rows=min(ENCODE_ROWS, max_batch),
        start_token=manifest.start_token,
        end_token=manifest.end_token,
        token_scale=manifest.token_scale,
        frame_samples=STREAMING_FRAME_SAMPLES,
        on_processor=True,
        continues_clips=True,
    )
