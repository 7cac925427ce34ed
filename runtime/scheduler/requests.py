"""Messages between a session and the engine loop, with one result for every request."""

import enum
from dataclasses import dataclass, field

from runtime.audio import SAMPLES_PER_FRAME, Clip
from runtime.exceptions import EngineError
from runtime.scheduler.keyterms import Keyterms

TOKENS_PER_SECOND = 9.0
"""Most tokens that speech can hold: a result that reaches this is runaway output. The authors' limit is 6.5; people who spell or
count reach 6.3 on the even clips of an4, and quick counting (synthesised) 7.4."""
NEW_TOKENS_PER_SECOND = 6.5
"""Rate limit for audio that an interim's draft does not cover: it ends within a word, and there the model invents more."""
SPARE_TOKENS = 3  # so that a word of half a second still fits
SPARE_NEW_TOKENS = 5  # beyond those of the uncovered audio: words that the draft had missed


class Priority(enum.IntEnum):
    """Priority of a request; lower goes first."""

    FINAL = 0
    INTERIM = 1
    FILE = 2
    """A recording, which waits for live speech."""


@dataclass(frozen=True)
class Request:
    """Transcribe one clip of one stream."""

    request_id: int
    stream_id: str
    clip: Clip
    draft: tuple[int, ...] = ()
    """Tokens the result is likely to begin with; they save time and never change the result."""
    forced: int = 0
    """Number of leading tokens of the draft that are kept unchecked: text that is stable already."""
    priority: Priority = Priority.INTERIM
    end_bias: float = 0.0
    """Subtracted from the end token's logit at the first step, against empty results for quiet audio."""
    uncovered_seconds: float | None = None
    """Seconds of an interim's clip that the draft does not cover. They limit the new tokens, because a clip that ends in the
    middle of a word makes the model invent more. None: only the clip's length counts."""
    is_retry: bool = False
    """True for a second attempt, made because the first result is doubtful."""
    align: bool = False
    """True if the positions of the tokens in the clip are wanted."""
    keyterms: Keyterms | None = None
    """Terms that are favoured in the tokens that are not forced."""

    def __post_init__(self):
        if not 0 <= self.forced <= len(self.draft):
            raise ValueError(f"{self.forced} tokens are forced but the draft has {len(self.draft)}")

    @property
    def max_tokens(self) -> int:
        """Most tokens of the result in a Latin script."""
        return self.most_tokens(scale=1.0)

    def most_tokens(self, scale: float) -> int:
        """Return the most tokens of the result, never less than the forced ones. scale: see Limits.token_scale."""
        most = int(self.clip.seconds * TOKENS_PER_SECOND * scale)
        if self.uncovered_seconds is not None:
            new = int(self.uncovered_seconds * NEW_TOKENS_PER_SECOND * scale) + SPARE_NEW_TOKENS
            most = min(most, len(self.draft) + new - SPARE_TOKENS)
        return max(most, self.forced) + SPARE_TOKENS


@dataclass(frozen=True)
class Timings:
    """Timings of one request."""

    queue_ms: float = 0.0
    """Milliseconds from submission to a slot."""
    total_ms: float = 0.0
    """Milliseconds from submission to the result."""
    passes: int = 0
    """Decoder passes it took part in."""
    single_steps: int = 0
    """Passes of these that fed one token only."""


@dataclass(frozen=True)
class Result:
    """The answer to one request: a hypothesis, or the error that took its place."""

    request: Request
    tokens: tuple[int, ...] = ()
    """Tokens without start and end token."""
    log_probs: tuple[float, ...] = ()
    """Log probability of each token, as the decoder gave it, without the end bias."""
    error: EngineError | None = None
    cut_short: bool = False
    """True if it reached the token limit without an end token."""
    first_frames: tuple[int, ...] | None = None
    """First frame of each token in the clip, and the end of the last one; only if alignment was requested."""
    frame_samples: int = SAMPLES_PER_FRAME
    """Samples of each of these frames."""
    timings: Timings = field(default_factory=Timings)
    end_log_prob: float | None = None
    """Log probability of the end token after the tokens; None where the result has no end token."""
