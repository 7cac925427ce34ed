"""The plain way to decode, to hold the others against."""

from collections.abc import Sequence

from runtime.audio import Clip
from runtime.engine.protocol import Engine, Row
from runtime.scheduler.decoding import Decoding
from runtime.scheduler.requests import Request
from server.stream.confidence import END_BIAS


def decode(engine: Engine, clip: Clip) -> Decoding:
    """Encode one clip alone and decode it, one token at a time, without a draft."""
    engine.encode([0], [clip])
    decoding = decode_encoded(engine, clip)
    engine.free(0)
    return decoding


def decode_encoded(engine: Engine, clip: Clip, draft: Sequence[int] = ()) -> Decoding:
    """Decode the clip that slot 0 holds already, with the end bias the server uses."""
    limits = engine.limits
    most = min(Request(0, "", clip).max_tokens, limits.max_positions - 1)
    decoding = Decoding(draft, 0, most, limits.start_token, limits.end_token)
    while not decoding.done:
        row = Row(0, decoding.next_tokens(), decoding.past_length, END_BIAS)
        prediction = engine.decode([row])[0]
        decoding.accept(row.tokens, prediction.tokens.tolist(), prediction.log_probs.tolist())
    return decoding


def drafts_of(tokens: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Drafts of every kind for a clip whose transcript is `tokens`."""
    tokens, middle = tuple(tokens), len(tokens) // 2
    return {
        "empty": (),
        "right": tokens,
        "wrong": (4000, 5000, 6000, 7000, 8000),
        "too long": (*tokens, 306, 278, 931),
        "too short": tokens[:middle],
        "shifted": tokens[1:],
        "a word more": (*tokens[:middle], 931, *tokens[middle:]),
        "a word less": (*tokens[:middle], *tokens[middle + 1 :]),
        "a word changed": (*tokens[:middle], 931, *tokens[middle + 1 :]),
    }
