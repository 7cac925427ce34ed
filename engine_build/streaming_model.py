"""The encoder of Moonshine's streaming models, for export: one step on new audio of many streams, with state in and out.

A stream's audio, with 240 zeros before it, is cut into frames of 320 samples; each step takes whole frames. The newest frames
lack later ones, so a layer computes them again in the next step; the last `provisional` frames of each step's output are such
frames. The output equals one pass over the audio so far, however it was divided; native/stream_encoder.h computes the same.

The state of a stream is one row of numbers: the last inputs of both convolutions, and for every layer the frames that lack later
ones, their queries, and the keys and values of these frames and of those before them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from engine_build.checkpoint import Checkpoint
from engine_build.model import Norm, attention_probabilities, residual, take
from engine_build.parameters import MASKED, encoder_parameters
from engine_build.streaming_parameters import FRAME_SAMPLES, TAIL, TAPS, StreamingConfig

STEP_FRAMES = 4  # frames of the first stage for one frame of the encoder
CENTRED_EPSILON = 1e-6


@dataclass(frozen=True)
class Part:
    """A part of the state."""

    frames: int
    width: int

    @property
    def size(self) -> int:
        return self.frames * self.width


class StreamingLayer(nn.Module):
    """One layer over a window of frames. A row of its input is `provisional` frames once more, then the new frames."""

    def __init__(self, config: StreamingConfig, window: tuple[int, int], provisional: int):
        super().__init__()
        dim, attention = config.encoder_dim, config.encoder_attention_dim
        self.heads, self.head_dim = config.encoder_heads, config.encoder_head_dim
        (self.past, self.future), self.provisional = window, provisional
        self.input_layernorm = Norm(dim)
        self.qkv_proj = nn.Linear(dim, 3 * attention, bias=False)
        self.o_proj = nn.Linear(attention, dim, bias=False)
        self.post_attention_layernorm = Norm(dim)
        self.fc1 = nn.Linear(dim, config.encoder_mlp_dim)
        self.fc2 = nn.Linear(config.encoder_mlp_dim, dim)
        waiting = [Part(self.future, dim), Part(self.future, attention)] if self.future else []
        self.state = [*waiting, *[Part(self.past + self.future, attention)] * 2]
        """Parts of the state: the frames that lack later ones and their queries, if there are any; keys and values."""

    def forward(self, x: Tensor, counts: Tensor, before: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """x: (batch, provisional + new, dim). Returns the input of the next layer, and the new state."""
        query, key, value = self.qkv_proj(self.input_layernorm(x)).chunk(3, dim=-1)
        *waiting, old_key, old_value = state
        key, value = torch.cat((old_key, key), dim=1), torch.cat((old_value, value), dim=1)
        if waiting:
            x, query = torch.cat((waiting[0], x), dim=1), torch.cat((waiting[1], query), dim=1)
        kept = [last_frames(each, counts, self.future) for each in (x, query)] if waiting else []
        kept += [last_frames(each, counts, self.past + self.future) for each in (key, value)]
        x = x + self.o_proj(self.attend(query, key, value, self.mask(x, key, counts, before)))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.post_attention_layernorm(x)))), kept

    def mask(self, x: Tensor, key: Tensor, counts: Tensor, before: Tensor) -> Tensor:
        """Return (batch, 1, frames, keys): 0 where a frame attends to a key, else MASKED."""
        offset = torch.arange(key.shape[1], device=x.device) - torch.arange(x.shape[1], device=x.device)[:, None]
        position = before[:, None] - self.provisional - self.future - self.past + torch.arange(key.shape[1], device=x.device)
        exists = (position >= 0) & (position < (before + counts)[:, None])
        seen = (offset >= 0) & (offset <= self.past + self.future) & exists[:, None]
        return torch.where(seen, 0.0, MASKED)[:, None]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (each.unflatten(2, (self.heads, self.head_dim)).transpose(1, 2) for each in (query, key, value))
        scores = query @ key.transpose(2, 3) + mask.to(query.dtype)
        return (attention_probabilities(scores, query.dtype) @ value).transpose(1, 2).flatten(2)


class StreamingEncoder(nn.Module):
    """Computes the cross-attention keys and values of every decoder layer from new audio of streams."""

    compression: Tensor
    positions: Tensor

    def __init__(self, config: StreamingConfig):
        super().__init__()
        dim, self.config = config.encoder_dim, config
        self.register_buffer("compression", torch.ones(FRAME_SAMPLES))
        self.linear = nn.Linear(FRAME_SAMPLES, dim, bias=False)
        self.conv1 = nn.Conv1d(dim, 2 * dim, TAPS, 2)
        self.conv2 = nn.Conv1d(2 * dim, dim, TAPS, 2)
        futures = [future for _, future in config.windows]
        layers = [StreamingLayer(config, window, sum(futures[:index])) for index, window in enumerate(config.windows)]
        self.layers = nn.ModuleList(layers)
        self.parts = [Part(TAIL, dim), Part(TAIL, 2 * dim), *(part for layer in layers for part in layer.state)]
        """Parts of the state, in order."""
        self.provisional = sum(futures)
        """Frames at the end of the output that later audio changes."""
        self.norm = Norm(dim)
        self.register_buffer("positions", torch.zeros(config.positions, dim))
        self.adapter = nn.Linear(dim, config.dim, bias=False) if dim != config.dim else nn.Identity()
        self.cross_proj = nn.Linear(config.dim, config.decoder_layers * 2 * config.attention_dim, bias=False)

    def forward(self, audio: Tensor, counts: Tensor, before: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """audio: float32 (batch, 320 * new) in [-1, 1], zeros after a row's own; counts: int64 (batch,), new frames of each row;
        before: int64 (batch,), earlier frames of each row; state: (batch, state_size), any numbers for a row that had none.

        Returns cross_kv (layers, 2, batch, heads, provisional + new, head_dim), whose first frame has the number
        before - provisional, and the new state.
        """
        config, batch = self.config, audio.shape[0]
        state = torch.where(before[:, None] > 0, state, torch.zeros_like(state))
        tail, conv_tail, *parts = self.unpacked(state)
        x, tails = self.front(audio, counts, before, tail, conv_tail)
        kept, of_layers = [*tails], iter(parts)
        for module in self.layers:
            layer = cast(StreamingLayer, module)
            x, new = layer(x, counts, before, [next(of_layers) for _ in layer.state])
            kept += new
        frames = before[:, None] - self.provisional + torch.arange(x.shape[1], device=x.device)
        encoded = self.norm(x) + self.positions[torch.clamp(frames, 0, config.positions - 1)]
        cross = self.cross_proj(self.adapter(encoded))
        cross = cross.view(batch, x.shape[1], config.decoder_layers, 2, config.heads, config.head_dim)
        return cross.permute(2, 3, 0, 4, 1, 5), torch.cat([each.flatten(1) for each in kept], dim=1)

    def unpacked(self, state: Tensor) -> Iterator[Tensor]:
        parts = self.parts
        for part, numbers in zip(parts, state.split([part.size for part in parts], dim=1), strict=True):
            yield numbers.unflatten(1, (part.frames, part.width))

    def front(
        self, audio: Tensor, counts: Tensor, before: Tensor, tail: Tensor, conv_tail: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns the new frames (batch, new, dim), and the new inputs that the convolutions need in the next step."""
        frames = audio.unflatten(1, (-1, FRAME_SAMPLES))
        centred = frames - frames.mean(dim=-1, keepdim=True)
        loud = centred / torch.sqrt((centred * centred).mean(dim=-1, keepdim=True) + CENTRED_EPSILON)
        x = nn.functional.silu(self.linear(torch.asinh(self.compression.float() * loud).to(self.linear.weight.dtype)))
        x = torch.cat((tail, x), dim=1)
        y = nn.functional.silu(self.conv1(x.transpose(1, 2)).transpose(1, 2))
        # The convolution has one output before a stream's first frame; the next convolution must get zeros there.
        is_first = (before[:, None] == 0) & (torch.arange(y.shape[1], device=y.device) == 0)
        y = torch.cat((conv_tail, torch.where(is_first[..., None], torch.zeros_like(y), y)), dim=1)
        kept = last_frames(x, STEP_FRAMES * counts, TAIL), last_frames(y, STEP_FRAMES // 2 * counts, TAIL)
        return residual(self.conv2(y.transpose(1, 2)).transpose(1, 2)), kept


def last_frames(x: Tensor, counts: Tensor, kept: int) -> Tensor:
    """Return the `kept` frames of each row of x (batch, frames, width) from frame number counts on: the newest valid ones."""
    index = counts[:, None] + torch.arange(kept, device=x.device)
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[2]))


def build_encoder(weights: Checkpoint) -> StreamingEncoder:
    """Return the network in float32 with the checkpoint's weights. Raises CheckpointError if these do not fit."""
    assert isinstance(weights.config, StreamingConfig), "a streaming checkpoint"
    return take(StreamingEncoder(weights.config), encoder_parameters(weights))
