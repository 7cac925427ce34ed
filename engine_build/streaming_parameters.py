"""A streaming checkpoint's shape, and its tensors as the networks take them; parameters.py does this for models of clips.

The architecture is that of transformers' `MoonshineStreamingForConditionalGeneration`. Its decoder is that of the models of
clips; its encoder attends to a window of frames, so that each frame of a stream is encoded once.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import numpy as np

from runtime.audio import SAMPLE_RATE
from runtime.scheduler.requests import TOKENS_PER_SECOND

MODEL_TYPE = "moonshine_streaming"
FRAME_SAMPLES = 80
TAPS = 5  # of both convolutions
TAIL = TAPS - 2  # earlier inputs that each output needs, besides the pair of new inputs that the stride of two takes
FRAMES_PER_SECOND = 50
MOST_SEEN_FRAMES = 64
MAX_SECONDS = 40.0
"""Longest clip. The model's positions may hold more; a slot keeps room for the tokens of this much speech."""
LEAST_SECONDS = 14.0  # of a clip: one second more than the longest segment of the server's default settings
EXCLUSIVE, INCLUSIVE = "exclusive", "inclusive"
"""Readings of a checkpoint's windows: with (16, 4), a frame attends to 15 frames before it and 3 after it, or to 16 and 4."""
DEFAULT_ROPE: dict[str, Any] = {
    "rope_type": "default",
    "rope_theta": 10_000.0,
    "partial_rotary_factor": 0.8,
}  # as transformers has it
ENCODER, DECODER = "model.encoder.", "model.decoder."
Parameters = dict[str, np.ndarray]


@dataclass(frozen=True)
class StreamingConfig:
    """The shape of one streaming model. Names without `encoder_` are for the decoder."""

    dim: int
    heads: int
    head_dim: int
    decoder_layers: int
    mlp_dim: int
    rotary_dim: int
    rope_theta: float
    vocabulary: int
    positions: int
    """Number of the model's positions, for tokens and for frames."""
    encoder_dim: int
    encoder_heads: int
    encoder_head_dim: int
    encoder_mlp_dim: int
    encoder_layers: int
    windows: tuple[tuple[int, int], ...]
    """Numbers of frames before and after a frame that it attends to, by layer."""
    start_token: int = 1
    end_token: int = 2

    @property
    def max_seconds(self) -> float:
        return min(MAX_SECONDS, self.positions / FRAMES_PER_SECOND)

    @property
    def max_positions(self) -> int:
        """Most tokens that a slot holds, the start token included. Shorter clips may hold more tokens per second."""
        return min(self.positions, int(self.max_seconds * TOKENS_PER_SECOND))

    @property
    def attention_dim(self) -> int:
        return self.heads * self.head_dim

    @property
    def encoder_attention_dim(self) -> int:
        return self.encoder_heads * self.encoder_head_dim

    @property
    def state_size(self) -> int:
        """Count of the numbers that a stream keeps between two steps: see streaming_model.py."""
        wide, attention = self.encoder_dim, self.encoder_attention_dim
        tails = TAIL * wide + TAIL * 2 * wide
        return tails + sum(future * (wide + attention) + 2 * (past + future) * attention for past, future in self.windows)


def published(layers: int, widths: tuple[int, int], heads: tuple[int, int], rotary_dim: int, reading: str) -> StreamingConfig:
    """Return the shape of a model as Moonshine AI publishes them for English. widths: widths of encoder and decoder; heads:
    number of heads in both, and dimensions of each head."""
    lookahead = {0, 1, layers - 2, layers - 1}
    windows = [(16, 4 if layer in lookahead else 0) for layer in range(layers)]
    (wide, dim), (count, head_dim) = widths, heads
    return StreamingConfig(
        dim=dim,
        heads=count,
        head_dim=head_dim,
        decoder_layers=layers,
        mlp_dim=4 * dim,
        rotary_dim=rotary_dim,
        rope_theta=10_000.0,
        vocabulary=32_768,
        positions=4096,
        encoder_dim=wide,
        encoder_heads=count,
        encoder_head_dim=head_dim,
        encoder_mlp_dim=4 * wide,
        encoder_layers=layers,
        windows=read_windows(windows, layers, reading),
    )


def tiny(reading: str = EXCLUSIVE) -> StreamingConfig:
    return published(6, (320, 320), (8, 40), rotary_dim=32, reading=reading)


def small(reading: str = EXCLUSIVE) -> StreamingConfig:
    return published(10, (620, 512), (8, 64), rotary_dim=32, reading=reading)


def medium(reading: str = EXCLUSIVE) -> StreamingConfig:
    return published(14, (768, 640), (10, 64), rotary_dim=32, reading=reading)


class UnsupportedConfig(ValueError):
    """The configuration is not that of a streaming model, or the engines do not support it."""


def read_config(config: Mapping[str, Any], windows: str = EXCLUSIVE) -> StreamingConfig:
    """Read a transformers `config.json`. windows: EXCLUSIVE or INCLUSIVE.

    Raises KeyError if a field is missing, UnsupportedConfig if the engines do not support it.
    """
    encoder, rope = config["encoder_config"], config.get("rope_parameters") or DEFAULT_ROPE
    for name, part in (("", config), ("encoder_config.", encoder)):
        check_part(name, part)
    if rope.get("rope_type", "default") != "default":
        refuse("rope_parameters.rope_type", rope["rope_type"], "default")
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rotary_dim = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise UnsupportedConfig(f"config.json rotates {rotary_dim} dimensions of {head_dim}; only whole pairs can be built")
    found = StreamingConfig(
        dim=config["hidden_size"],
        heads=config["num_attention_heads"],
        head_dim=head_dim,
        decoder_layers=config["num_hidden_layers"],
        mlp_dim=config["intermediate_size"],
        rotary_dim=rotary_dim,
        rope_theta=float(rope["rope_theta"]),
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        encoder_dim=encoder["hidden_size"],
        encoder_heads=encoder["num_attention_heads"],
        encoder_head_dim=encoder.get("head_dim") or encoder["hidden_size"] // encoder["num_attention_heads"],
        encoder_mlp_dim=encoder["intermediate_size"],
        encoder_layers=encoder["num_hidden_layers"],
        windows=read_windows(encoder["sliding_windows"], encoder["num_hidden_layers"], windows),
        start_token=first_of(config.get("decoder_start_token_id"), config.get("bos_token_id"), 1),
        end_token=first_of(config.get("eos_token_id"), 2),
    )
    return check_sizes(found)


def check_sizes(config: StreamingConfig) -> StreamingConfig:
    """Raise UnsupportedConfig for a size that is not a positive number, and for a model with too few positions."""
    for name, value in asdict(config).items():
        if name != "windows" and not (isinstance(value, int | float) and value > 0):
            raise UnsupportedConfig(f"config.json gives {name} as {value!r}, which is no positive number")
    if config.max_seconds < LEAST_SECONDS:
        raise UnsupportedConfig(
            f"config.json has {config.positions} positions, {config.max_seconds:.1f} s of audio; {LEAST_SECONDS:g} s are needed"
        )
    return config


def check_part(name: str, part: Mapping[str, Any]) -> None:
    """Raise UnsupportedConfig for values that the engines do not support. name: name of the part, for the error."""
    wanted = {
        "num_key_value_heads": part["num_attention_heads"],
        "attention_bias": False,
        "hidden_act": "gelu" if name else "silu",
        "sample_rate": SAMPLE_RATE,
        "frame_ms": 5.0,
    }
    for field, value in wanted.items():
        if part.get(field) not in (None, value):
            refuse(f"{name}{field}", part[field], value)


def read_windows(windows: Any, layers: int, reading: str) -> tuple[tuple[int, int], ...]:
    """Return the numbers of frames before and after a frame that it attends to, by layer. Raises UnsupportedConfig."""
    if len(windows) != layers:
        raise UnsupportedConfig(f"encoder_config.sliding_windows has {len(windows)} windows for {layers} layers")
    less = 0 if reading == INCLUSIVE else 1
    found = tuple((int(past) - less, max(int(future) - less, 0)) for past, future in windows)
    for past, future in found:
        if past < 0 or past + 1 + future > MOST_SEEN_FRAMES:
            raise UnsupportedConfig(
                f"encoder_config.sliding_windows has a window of {past} and {future} frames; at most {MOST_SEEN_FRAMES} are seen"
            )
    return found


def refuse(field: str, value: object, wanted: object) -> NoReturn:
    raise UnsupportedConfig(f"config.json says {field} {value!r}; only {wanted!r} can be built")


def first_of(*values: Any) -> int:
    """Return the first value that is not None; a list of one number counts as that number."""
    value = next(value for value in values if value is not None)
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def encoder_parameters(config: StreamingConfig, tensors: Parameters) -> Parameters:
    """Return the encoder's parameters, float32, by the names of streaming_model.py: the scale of the scores is in the query, and
    norms multiply by their weight alone. They include these of the decoder: the positions, the adapter, and the projections of
    its layers' keys and values."""
    found = {"compression": np.full(FRAME_SAMPLES, np.exp(tensors[f"{ENCODER}embedder.comp.log_k"]), np.float32)}
    for name in ("linear.weight", "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        found[name] = tensors[f"{ENCODER}embedder.{name}"]
    for layer in range(config.encoder_layers):
        at, to = f"{ENCODER}layers.{layer}.", f"layers.{layer}."
        query, key, value = (tensors[f"{at}self_attn.{each}_proj.weight"] for each in "qkv")
        found[f"{to}qkv_proj.weight"] = np.concatenate((query * scale_of(config.encoder_head_dim), key, value))
        found[f"{to}o_proj.weight"] = tensors[f"{at}self_attn.o_proj.weight"]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"{to}{norm}.weight"] = tensors[f"{at}{norm}.gamma"] + 1
        for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
            found[f"{to}{name}"] = tensors[f"{at}mlp.{name}"]
    found["norm.weight"] = tensors[f"{ENCODER}final_norm.gamma"] + 1
    found["positions"] = tensors[f"{DECODER}pos_emb.weight"]
    if f"{DECODER}proj.weight" in tensors:
        found["adapter.weight"] = tensors[f"{DECODER}proj.weight"]
    attentions = [f"{DECODER}layers.{layer}.encoder_attn" for layer in range(config.decoder_layers)]
    found["cross_proj.weight"] = np.concatenate([tensors[f"{at}.{each}_proj.weight"] for at in attentions for each in "kv"])
    return found


def scale_of(head_dim: int) -> np.float32:
    return np.float32(1.0 / math.sqrt(head_dim))


def shapes_of(config: StreamingConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a checkpoint, by its name in transformers, without proj_out, which may be tied."""
    wide, dim, attention = config.encoder_dim, config.dim, config.encoder_attention_dim
    shapes: dict[str, tuple[int, ...]] = {
        f"{ENCODER}embedder.comp.log_k": (),
        f"{ENCODER}embedder.linear.weight": (wide, FRAME_SAMPLES),
        f"{ENCODER}embedder.conv1.weight": (2 * wide, wide, TAPS),
        f"{ENCODER}embedder.conv1.bias": (2 * wide,),
        f"{ENCODER}embedder.conv2.weight": (wide, 2 * wide, TAPS),
        f"{ENCODER}embedder.conv2.bias": (wide,),
        f"{ENCODER}final_norm.gamma": (wide,),
        f"{DECODER}norm.weight": (dim,),
        f"{DECODER}embed_tokens.weight": (config.vocabulary, dim),
        f"{DECODER}pos_emb.weight": (config.positions, wide),
    }
    if wide != dim:
        shapes[f"{DECODER}proj.weight"] = (dim, wide)
    for layer in range(config.encoder_layers):
        at = f"{ENCODER}layers.{layer}."
        shapes |= {f"{at}self_attn.{each}_proj.weight": (attention, wide) for each in "qkv"}
        shapes |= {f"{at}self_attn.o_proj.weight": (wide, attention)}
        shapes |= {f"{at}{norm}_layernorm.gamma": (wide,) for norm in ("input", "post_attention")}
        shapes |= mlp_shapes(at, wide, config.encoder_mlp_dim, config.encoder_mlp_dim)
    for layer in range(config.decoder_layers):
        at = f"{DECODER}layers.{layer}."
        for name in ("self_attn", "encoder_attn"):
            shapes |= {f"{at}{name}.{each}_proj.weight": (config.attention_dim, dim) for each in "qkv"}
            shapes |= {f"{at}{name}.o_proj.weight": (dim, config.attention_dim)}
        shapes |= {f"{at}{norm}_layernorm.weight": (dim,) for norm in ("input", "post_attention", "final")}
        shapes |= mlp_shapes(at, dim, config.mlp_dim, 2 * config.mlp_dim)
    return shapes


def mlp_shapes(layer: str, dim: int, inner: int, first: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{layer}mlp.fc1.weight": (first, dim),
        f"{layer}mlp.fc1.bias": (first,),
        f"{layer}mlp.fc2.weight": (dim, inner),
        f"{layer}mlp.fc2.bias": (dim,),
    }
