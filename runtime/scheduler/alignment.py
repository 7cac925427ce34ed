"""Alignment of a finished row: finds the frame of each token from its attention, by dynamic time warping."""

import numpy as np

LEAST_SHARE = 1e-3  # of attention: a smaller share only means that the attention was elsewhere


def first_frames(share: np.ndarray) -> tuple[int, ...]:
    """Return the first frame of every token, and the frame after the last token.

    share: float32 (tokens, frames), the share of each token's attention at each frame.
    Frames are assigned in order, at least one to each token, so that the sum of the logarithms of the shares is greatest:
    dynamic time warping without the steps that give a frame two tokens. If there are fewer frames than tokens, they are
    assigned evenly.
    """
    tokens, frames = share.shape
    if frames < tokens:
        return tuple(np.linspace(0, frames, tokens + 1).astype(int).tolist())
    gains = np.cumsum(np.log(share + LEAST_SHARE), axis=1)
    here = np.arange(frames)
    starts = np.zeros((tokens, frames), np.int64)  # first frame of the token that ends with a frame
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
