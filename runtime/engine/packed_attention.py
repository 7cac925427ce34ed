"""Attention within rows that lie one after the other, as one operator that exported programs can name.

On a GPU it is flash attention, which stores no scores; not every version of torch can export its own operator for it. On a
CPU, for tests, all frames attend to all frames, with a mask.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

HEAD_DIM_MULTIPLE = 8  # flash attention requires it
MASKED = -3.0e4  # as in engine_build.model


@torch.library.custom_op("moonshine::packed_attention", mutates_args=())
def packed_attention(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """Attend within each row. query, key, value: (frames, heads, head_dim), the queries scaled. starts: int32 (rows + 1,), the
    first frame of each row, and the one after the last. lengths: int32 (rows,), the frames of each row that are attended to.
    longest: most frames of a row.

    Returns the context (frames, heads, head_dim); it is undefined for frames that belong to no row.
    """
    return (attend_flash if query.is_cuda else attend_plainly)(query, key, value, starts, lengths, longest)


@packed_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, lengths: Tensor, longest: int) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def attend_flash(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, lengths: Tensor, longest: int) -> Tensor:
    head_dim = query.shape[-1]
    query, key, value = (pad(each, (0, -head_dim % HEAD_DIM_MULTIPLE)) for each in (query, key, value))
    context = torch.ops.aten._flash_attention_forward(
        query, key, value, starts, starts, longest, longest, 0.0, False, False, scale=1.0, seqused_k=lengths
    )[0]
    return context[..., :head_dim].contiguous()


def attend_plainly(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, lengths: Tensor, longest: int) -> Tensor:
    row, offset = places_of(starts, query.shape[0])
    seen = (row[:, None] == row[None, :]) & (offset < lengths[row])[None, :]
    mask = torch.where(seen, 0.0, MASKED).to(query.dtype)
    query, key, value = (each.transpose(0, 1) for each in (query, key, value))
    shares = torch.softmax((query @ key.transpose(1, 2) + mask).float(), dim=-1).to(query.dtype)
    return (shares @ value).transpose(0, 1).contiguous()


def places_of(starts: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Return the row of each of `frames` frames and its offset in it, int64; frames after the last row count as part of it."""
    positions = torch.arange(frames, device=starts.device)
    row = (positions[:, None] >= starts[None, 1:-1]).sum(dim=1)
    return row, positions - starts[row]
