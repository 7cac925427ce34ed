"""Alignment of a finished row: its attention becomes the frame of each token, by dynamic time warping."""

import numpy as np

LEAST_SHARE = 1e-3  # of attention: what is below says only that it was somewhere else


def first_frames(share: np.ndarray) -> tuple[int, ...]:
    """The first frame of every token, and the one behind the last token's.

    share: float32 (tokens, frames), how much of each token's attention every frame had.
    The frames are dealt out in order, at least one to each token, so that the logarithms of the shares add up to the most:
    dynamic time warping without the steps in which a frame would have two tokens. With fewer frames than tokens they are dealt
    out evenly.
    """
    tokens, frames = share.shape
    if frames < tokens:
        return tuple(np.linspace(0, frames, tokens + 1).astype(int).tolist())
    gains = np.cumsum(np.log(share + LEAST_SHARE), axis=1)
    here = np.arange(frames)
    starts = np.zeros((tokens, frames), np.int64)  # where the token begins that ends with a frame
    best = gains[0]
    for token in range(1, tokens):
        entered = np.full(frames, -np.inf)
        entered[1:] = best[:-1] - gains[token, :-1]
        highest = np.maximum.accumulate(entered)
        starts[token] = np.maximum.accumulate(np.where(entered >= highest, here, 0))
        best = highest + gains[token]
    firsts, end = [frames], frames - 1
    for token in range(tokens - 1, -1, -1):
        firsts.append(int(starts[token, end]))
        end = firsts[-1] - 1
    return tuple(firsts[::-1])
