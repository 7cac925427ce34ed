"""The encoder over rows that lie one after the other: no row is padded to another's length, and no score matrix is stored.

It has the weights and the output of model.Encoder. Every row begins at a whole frame; frames between the end of one row and the
beginning of the next are computed, but no row attends to them, and they are not used.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from engine_build.model import Encoder, EncoderLayer, count_frames, residual
from runtime.audio import SAMPLES_PER_FRAME
from runtime.engine.packed_attention import packed_attention, places_of

FIRST_FRAMES = SAMPLES_PER_FRAME // 64  # frames of the first convolution for one of the last
OVERHANG_SAMPLES = 511  # the last frame's receptive field reaches this far past its own samples
OVERHANG_FRAMES = 7  # and this many frames of the first convolution


class PackedEncoder(nn.Module):
    def __init__(self, encoder: Encoder, longest_frames: int):
        super().__init__()
        self.encoder, self.longest_frames = encoder, longest_frames

    def forward(
        self, pcm: Tensor, dither: Tensor, starts: Tensor, lengths: Tensor, positions: Tensor, offsets: Tensor, gains: Tensor
    ):
        """pcm: int16 (samples,), rows one after the other, each from a multiple of SAMPLES_PER_FRAME on, with any content between
        them. dither: float32 (period,), see runtime.audio. starts: int32 (rows + 1,), the first frame of each row, and the one
        after the last; a row without audio begins where the next one does. lengths: int64 (rows,), samples. positions: int64
        (rows,), positions of the rows' first samples within the dither. offsets, gains: float32 (rows,), subtracted from each
        sample, and the factor applied after that.

        Returns cross_kv (frames, layers, 2, heads, head_dim), keys then values; valid frames of each row, int64 (rows,); and for
        each frame its row and its offset in it, int64 (frames,).
        """
        encoder, config = self.encoder, self.encoder.config
        frames = pcm.shape[0] // SAMPLES_PER_FRAME
        row, offset = places_of(starts, frames)
        noise = self.noise(dither, row, offset, positions)
        audio = self.prepare(pcm, noise, row, offset, lengths, offsets, gains)
        x = torch.tanh(encoder.conv1(audio[None, None].to(encoder.conv1.weight.dtype)))
        x = self.norm_valid(x, row, offset, count_frames(lengths, convolutions=1))
        x = nn.functional.gelu(encoder.conv2(x))
        x = residual(nn.functional.gelu(encoder.conv3(x)).transpose(1, 2))
        valid_frames = count_frames(lengths)
        table = encoder.rotary.table[torch.clamp(offset, max=encoder.rotary.table.shape[0] - 1)]
        for layer in cast(Iterable[EncoderLayer], encoder.layers):
            query, key, value = layer.self_attn(layer.input_layernorm(x), encoder.rotary, table)
            rows = (each[0].transpose(0, 1) for each in (query, key, value))
            context = packed_attention(*rows, starts, valid_frames.to(torch.int32), self.longest_frames)
            x = x + layer.o_proj(context.flatten(1))[None]
            x = x + layer.fc2(nn.functional.gelu(layer.fc1(layer.post_attention_layernorm(x))))
        cross = encoder.cross_proj(encoder.layer_norm(x))
        return cross.view(frames, config.decoder_layers, 2, config.heads, config.head_dim), valid_frames, row, offset

    def noise(self, dither: Tensor, row: Tensor, offset: Tensor, positions: Tensor) -> Tensor:
        """Return float32 (samples,): for each sample its stream's dither, as runtime.audio.dither gives it."""
        within = torch.arange(SAMPLES_PER_FRAME, device=dither.device)
        return dither[((positions[row] + offset * SAMPLES_PER_FRAME)[:, None] + within).flatten() % dither.shape[0]]

    def prepare(
        self, pcm: Tensor, noise: Tensor, row: Tensor, offset: Tensor, lengths: Tensor, offsets: Tensor, gains: Tensor
    ) -> Tensor:
        """Return float32 (samples + OVERHANG_SAMPLES,), amplified like runtime.audio.amplified; zero outside the rows."""
        within = torch.arange(SAMPLES_PER_FRAME, device=pcm.device)
        is_audible = (offset[:, None] * SAMPLES_PER_FRAME + within).flatten() < repeated(lengths[row], SAMPLES_PER_FRAME)
        loud = (pcm.float() - repeated(offsets[row], SAMPLES_PER_FRAME)) * repeated(gains[row], SAMPLES_PER_FRAME)
        loud = torch.clamp(torch.round(loud), -32_768.0, 32_767.0)
        audible = torch.where(is_audible, noise + loud * (1 / 32_768), 0.0)
        return nn.functional.pad(audible, (0, OVERHANG_SAMPLES))

    def norm_valid(self, x: Tensor, row: Tensor, offset: Tensor, frames: Tensor) -> Tensor:
        """Apply model.Encoder.norm_valid to rows one after the other: the sums of each row are one product with its frames."""
        norm, dtype, x = self.encoder.groupnorm, x.dtype, x.float()
        overhang = (0, OVERHANG_FRAMES)
        first_row = repeated(row, FIRST_FRAMES)
        place = (offset[:, None] * FIRST_FRAMES + torch.arange(FIRST_FRAMES, device=x.device)).flatten()
        valid = nn.functional.pad(place < frames[first_row], overhang)
        first_row = nn.functional.pad(first_row, overhang)
        members = ((first_row[None, :] == torch.arange(len(frames), device=x.device)[:, None]) & valid).float()
        cells = (torch.clamp(frames, min=1) * x.shape[1]).float()
        mean = members @ x[0].sum(dim=0) / cells
        centred = (x - mean[first_row]) * valid.float()
        variance = members @ (centred[0] * centred[0]).sum(dim=0) / cells
        scale = norm.weight.float()[:, None] * torch.rsqrt(variance + norm.eps)[first_row]
        return (centred * scale + norm.bias.float()[:, None]).to(dtype)


def repeated(values: Tensor, times: int) -> Tensor:
    """Return each value this many times. repeat_interleave() would fix the size when it is exported."""
    return values[:, None].expand(-1, times).flatten()
