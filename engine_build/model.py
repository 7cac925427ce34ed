"""Moonshine written for export: exact with padding, made for slots, with the same arithmetic for one row or a batch.

It equals transformers' `modeling_moonshine.py`, with these differences:
- every row has a length; the first GroupNorm and all attention see valid frames only, so that a batch equals its rows;
- the encoder ends in the cross-attention keys and values of every decoder layer (one projection for all of them);
- the decoder takes its caches as inputs and returns argmax tokens, their log-probabilities and the new keys and values;
- the decoder adds a bias to the logits of some tokens, for the choice after each position;
- the aligner, a copy of the decoder's first layers, gives the attention of a finished row's tokens to the audio;
- the rotated dimensions of each head are reordered at load, so that rotation works on halves instead of pairs.

In half precision (`.half()`, `.bfloat16()`) weights, matrix products and caches are half; the statistics of norms, softmax and
the log-probabilities stay float32; in bfloat16 also the sums between layers and the logits. Audio and end bias are float32 in
every precision.
"""

from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from engine_build.alignment_heads import alignment_heads
from engine_build.checkpoint import Checkpoint, ModelConfig
from engine_build.parameters import MASKED, Parameters, decoder_parameters, encoder_parameters, rotary_table
from engine_build.streaming_parameters import StreamingConfig

Network = TypeVar("Network", bound=nn.Module)
CONVOLUTIONS = ((127, 64), (7, 3), (3, 2))  # kernel and stride, in samples, then in frames of the one before


def count_frames(lengths: Tensor, convolutions: int = len(CONVOLUTIONS)) -> Tensor:
    """Return the number of frames after the first `convolutions` convolutions of `lengths` samples, int64; 0 for too few."""
    for kernel, stride in CONVOLUTIONS[:convolutions]:
        lengths = torch.clamp(torch.div(lengths - kernel, stride, rounding_mode="floor") + 1, min=0)
    return lengths


class Rotary(nn.Module):
    """Rotary position embedding on the leading dimensions of each head, by halves.

    `table` (positions, 2, head_dim) holds a cosine and a signed sine for every dimension (1 and 0 where nothing rotates),
    so that rotating is two products and a sum: x * cosine + swapped(x) * sine.
    """

    table: Tensor

    def __init__(self, config: ModelConfig | StreamingConfig, positions: int):
        super().__init__()
        half, passed = config.rotary_dim // 2, config.head_dim - config.rotary_dim
        self.parts = [half, half, passed]
        self.register_buffer("table", torch.from_numpy(rotary_table(config, positions)))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x: (batch, positions, heads, head_dim); table: rows of `table` for the positions, ([batch,] positions, 2, head_dim)."""
        cosine, sine = table.to(x.dtype).split(1, dim=-2)
        first, second, passed = x.split(self.parts, dim=-1)
        return x * cosine + torch.cat((second, first, passed), dim=-1) * sine


class SelfProjection(nn.Module):
    """Queries, keys and values of a layer's self-attention in one product; queries and keys are rotated together."""

    def __init__(self, config: ModelConfig | StreamingConfig):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.qkv_proj = nn.Linear(config.dim, 3 * config.attention_dim, bias=False)

    def forward(self, x: Tensor, rotary: Rotary, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (batch, positions, dim). Returns query, key and value, each (batch, heads, positions, head_dim)."""
        batch, positions, _ = x.shape
        width = self.heads * self.head_dim
        query_key, value = self.qkv_proj(x).split((2 * width, width), dim=-1)
        query_key = rotary(query_key.reshape(batch, positions, 2 * self.heads, self.head_dim), table)
        query, key = query_key.transpose(1, 2).chunk(2, dim=1)
        return query, key, value.reshape(batch, positions, self.heads, self.head_dim).transpose(1, 2)


class Norm(nn.LayerNorm):
    """Layer normalisation without a bias, computed in float32."""

    def __init__(self, dim: int):
        super().__init__(dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x.float(), self.normalized_shape, self.weight.float(), None, self.eps).to(
            self.weight.dtype
        )


def residual(x: Tensor) -> Tensor:
    """Return the sum that layers add to: float32 if the weights are bfloat16, whose 8 bits lose small additions."""
    return x.float() if x.dtype is torch.bfloat16 else x


def attention_probabilities(scores: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.softmax(scores.float(), dim=-1).to(dtype)


class EncoderLayer(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.input_layernorm = Norm(config.dim)
        self.self_attn = SelfProjection(config)
        self.o_proj = nn.Linear(config.dim, config.dim, bias=False)
        self.post_attention_layernorm = Norm(config.dim)
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Tensor, rotary: Rotary, table: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self.self_attn(self.input_layernorm(x), rotary, table)
        scores = query @ key.transpose(2, 3) + mask
        context = attention_probabilities(scores, query.dtype) @ value
        x = x + self.o_proj(context.transpose(1, 2).flatten(2))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.post_attention_layernorm(x))))


class Encoder(nn.Module):
    """Computes the cross-attention keys and values of every decoder layer from audio."""

    def __init__(self, config: ModelConfig, max_frames: int):
        super().__init__()
        dim = config.dim
        self.config = config
        self.conv1 = nn.Conv1d(1, dim, 127, 64, bias=False)
        self.groupnorm = nn.GroupNorm(1, dim)
        self.conv2 = nn.Conv1d(dim, 2 * dim, 7, 3)
        self.conv3 = nn.Conv1d(2 * dim, dim, 3, 2)
        self.rotary = Rotary(config, max_frames)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = Norm(dim)
        self.cross_proj = nn.Linear(dim, config.decoder_layers * 2 * dim, bias=False)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """audio: float (batch, samples) in [-1, 1], anything after a row's length; lengths: int64 (batch,) valid samples.

        Returns cross_kv (layers, 2, batch, heads, frames, head_dim), keys then values, and frames int64 (batch,).
        """
        config, batch = self.config, audio.shape[0]
        x = torch.tanh(self.conv1(audio.unsqueeze(1).to(self.conv1.weight.dtype)))
        x = self.norm_valid(x, count_frames(lengths, convolutions=1))
        x = nn.functional.gelu(self.conv2(x))
        x = residual(nn.functional.gelu(self.conv3(x)).transpose(1, 2))
        frames = count_frames(lengths)
        positions = torch.arange(x.shape[1], device=x.device)
        mask = torch.where(positions < frames[:, None], 0.0, MASKED)[:, None, None, :].to(x.dtype)
        table = self.rotary.table[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, self.rotary, table, mask)
        cross = self.cross_proj(self.layer_norm(x))
        cross = cross.view(batch, x.shape[1], config.decoder_layers, 2, config.heads, config.head_dim)
        return cross.permute(2, 3, 0, 4, 1, 5), frames

    def norm_valid(self, x: Tensor, frames: Tensor) -> Tensor:
        """Apply the GroupNorm of one group, with statistics over each row's valid frames only, in float32."""
        dtype, x = x.dtype, x.float()
        valid = (torch.arange(x.shape[2], device=x.device) < frames[:, None])[:, None, :].float()
        count = (torch.clamp(frames, min=1) * x.shape[1]).float()[:, None, None]
        # Sums in two stages: a single sum over a million values loses a digit if it is computed sequentially.
        mean = (x * valid).sum(dim=2, keepdim=True).sum(dim=1, keepdim=True) / count
        centred = (x - mean) * valid
        variance = (centred * centred).sum(dim=2, keepdim=True).sum(dim=1, keepdim=True) / count
        scale = self.groupnorm.weight.float()[:, None] * torch.rsqrt(variance + self.groupnorm.eps)
        return (centred * scale + self.groupnorm.bias.float()[:, None]).to(dtype)


class DecoderLayer(nn.Module):
    def __init__(self, config: ModelConfig | StreamingConfig):
        super().__init__()
        self.heads, self.head_dim = config.heads, config.head_dim
        self.input_layernorm = Norm(config.dim)
        self.self_attn = SelfProjection(config)
        self.o_proj = nn.Linear(config.attention_dim, config.dim, bias=False)
        self.post_attention_layernorm = Norm(config.dim)
        self.cross_q_proj = nn.Linear(config.dim, config.attention_dim, bias=False)
        self.cross_o_proj = nn.Linear(config.attention_dim, config.dim, bias=False)
        self.final_layernorm = Norm(config.dim)
        self.fc1 = nn.Linear(config.dim, 2 * config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        table: Tensor,
        self_mask: Tensor,
        cross_mask: Tensor,
        past_key: Tensor,
        past_value: Tensor,
        cross_key: Tensor,
        cross_value: Tensor,
    ):
        """Returns x and the new keys and values, stacked (2, batch, heads, new, head_dim)."""
        query, key, value = self.self_attn(self.input_layernorm(x), rotary, table)
        # Scores against the cache and against the new tokens are joined, not the keys: the cache is never copied.
        scores = torch.cat((query @ past_key.transpose(2, 3), query @ key.transpose(2, 3)), dim=-1) + self_mask
        past, present = attention_probabilities(scores, query.dtype).split((past_key.shape[2], x.shape[1]), dim=-1)
        x = self.add_context(x, past @ past_value + present @ value)
        x = self.add_attended(x, self.attend_to_audio(x, cross_key, cross_mask), cross_value)
        return x, torch.stack((key, value))

    def attend_within(self, x: Tensor, rotary: Rotary, table: Tensor, causal_mask: Tensor) -> Tensor:
        """Apply the self-attention of a block that nothing precedes. Returns x."""
        query, key, value = self.self_attn(self.input_layernorm(x), rotary, table)
        scores = query @ key.transpose(2, 3) + causal_mask
        return self.add_context(x, attention_probabilities(scores, query.dtype) @ value)

    def add_context(self, x: Tensor, context: Tensor) -> Tensor:
        return x + self.o_proj(context.transpose(1, 2).flatten(2))

    def attend_to_audio(self, x: Tensor, cross_key: Tensor, cross_mask: Tensor) -> Tensor:
        """Return the attention of each position to each frame of the audio: (batch, heads, new, frames)."""
        batch, new, _ = x.shape
        query = self.cross_q_proj(self.post_attention_layernorm(x)).view(batch, new, self.heads, self.head_dim)
        scores = query.transpose(1, 2) @ cross_key.transpose(2, 3) + cross_mask
        return attention_probabilities(scores, query.dtype)

    def add_attended(self, x: Tensor, attended: Tensor, cross_value: Tensor) -> Tensor:
        """Add the attended audio to the position, and apply the layer's last part."""
        x = x + self.cross_o_proj((attended @ cross_value).transpose(1, 2).flatten(2))
        inner, gate = self.fc1(self.final_layernorm(x)).chunk(2, dim=-1)
        return x + self.fc2(nn.functional.silu(gate) * inner)


class Decoder(nn.Module):
    """Decodes one block of new tokens for every row: a first pass, the verification of a draft or a single step."""

    forbidden: Tensor
    """MASKED for tokens that are never written, else 0: float32 (vocabulary,)."""

    def __init__(self, config: ModelConfig | StreamingConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.dim)
        self.rotary = Rotary(config, config.max_positions)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = Norm(config.dim)
        self.register_buffer("forbidden", torch.zeros(config.vocabulary))
        if isinstance(config, StreamingConfig):
            self.output = nn.Linear(config.dim, config.vocabulary, bias=False)

    def forward(
        self,
        tokens: Tensor,
        past_lengths: Tensor,
        frames: Tensor,
        end_bias: Tensor,
        bias_lists: Tensor,
        biased_tokens: Tensor,
        biases: Tensor,
        *caches: Tensor,
    ):
        """Run one pass.

        tokens: int64 (batch, new); a shorter row is padded with any tokens.
        past_lengths: int64 (batch,), valid positions of the row's cache.
        frames: int64 (batch,), valid frames of the row's audio.
        end_bias: float (batch,), subtracted from the end token's logit at position 0 only.
        bias_lists: int64 (batch, new), the number of the list of biases for the choice after each position.
        biased_tokens: int64 (lists, biased), tokens of each list; padded with any token and a bias of 0.
        biases: float32 (lists, biased), added to the logit of each of these tokens.
        caches: for each layer past_key, past_value (batch, heads, past, head_dim) and cross_key, cross_value
            (batch, heads, frames, head_dim).
        Returns the next token after each position, int64 (batch, new); its log-probability among the tokens that are not
        forbidden and without any bias, float32 (batch, new); and the new keys and values
        (layers, 2, batch, heads, new, head_dim).
        """
        batch, new = tokens.shape
        x = residual(self.embed_tokens(tokens))
        offsets = torch.arange(new, device=x.device)
        positions = torch.clamp(past_lengths[:, None] + offsets, max=self.config.max_positions - 1)
        table = self.rotary.table[positions]
        past = torch.arange(caches[0].shape[2], device=x.device) < past_lengths[:, None]
        causal = offsets[None, :] <= offsets[:, None]
        seen = torch.cat((past[:, None].expand(-1, new, -1), causal[None].expand(batch, -1, -1)), dim=-1)
        self_mask = torch.where(seen, 0.0, MASKED).to(x.dtype)[:, None]
        attended = torch.arange(caches[2].shape[2], device=x.device) < frames[:, None]
        cross_mask = torch.where(attended, 0.0, MASKED).to(x.dtype)[:, None, None, :]
        new_kv = []
        for index, layer in enumerate(self.layers):
            x, kv = layer(x, self.rotary, table, self_mask, cross_mask, *caches[4 * index : 4 * index + 4])
            new_kv.append(kv)
        logits = self.logits(self.norm(x)) + self.forbidden.float()
        # The bias affects one logit of a row's first position only, so only the block's first column is chosen with it.
        end = (torch.arange(logits.shape[-1], device=x.device) == self.config.end_token).float()
        bias = torch.where(past_lengths == 0, end_bias.float(), 0.0)[:, None, None]
        first = (logits[:, :1] - bias * end).argmax(dim=-1)
        chosen = torch.where(offsets == 0, first, logits.argmax(dim=-1))
        end_penalty = torch.where((offsets == 0) & (chosen == self.config.end_token), bias[:, :, 0], 0.0)
        chosen = prefer_biased(logits, chosen, end_penalty, biased_tokens[bias_lists], biases[bias_lists])
        return chosen, log_probs_of(logits, chosen), torch.stack(new_kv)

    def logits(self, x: Tensor) -> Tensor:
        """Return float32 (batch, new, vocabulary). bfloat16 has 8 bits for numbers up to 30: the best two would often tie."""
        weight = self.output.weight if isinstance(self.config, StreamingConfig) else self.embed_tokens.weight
        if weight.dtype is torch.bfloat16:
            return x.float() @ weight.float().T
        return (x @ weight.T).float()


def prefer_biased(logits: Tensor, chosen: Tensor, penalty: Tensor, tokens: Tensor, biases: Tensor) -> Tensor:
    """Return the choice of each position among the token chosen without biases and those that have one.

    logits: (batch, new, vocabulary); chosen: int64 (batch, new); penalty: float32 (batch, new), subtracted from the logit of the
    chosen token; tokens, biases: (batch, new, biased). Among equals the token chosen without biases wins, then the first.
    """
    judged = logits.gather(2, tokens) + biases
    best = judged.argmax(dim=-1, keepdim=True)
    wins = judged.amax(dim=-1) > logits.gather(2, chosen[..., None])[..., 0] - penalty
    return torch.where(wins, tokens.gather(2, best)[..., 0], chosen)


def log_probs_of(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return log-probabilities of tokens, float32 (batch, new). logits: (batch, new, vocabulary); chosen: int64 (batch, new)."""
    highest = logits.amax(dim=-1, keepdim=True)  # written out: ONNX Runtime's ReduceLogSumExp takes 4 times as long
    log_sum = (logits - highest).exp().sum(dim=-1).log()
    return (logits.gather(2, chosen[..., None]) - highest)[..., 0] - log_sum


class Aligner(nn.Module):
    """Computes the cross-attention of the decoder's heads that follow speech, for each token of a finished row.

    It is the first part of the decoder, run over all tokens of a row at once, up to the last layer that has such a head.
    """

    def __init__(self, config: ModelConfig | StreamingConfig):
        super().__init__()
        self.config = config
        self.heads = alignment_heads(config)
        self.embed_tokens = nn.Embedding(config.vocabulary, config.dim)
        self.rotary = Rotary(config, config.max_positions)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(self.heads.layers))

    def forward(self, tokens: Tensor, frames: Tensor, *caches: Tensor):
        """Run one pass.

        tokens: int64 (batch, new), the start token and the row's tokens; a shorter row is padded with any tokens.
        frames: int64 (batch,), valid frames of the row's audio.
        caches: cross_key, cross_value (batch, heads, frames, head_dim) of each layer; only the key of the last layer.
        Returns float32 (batch, new, frames): the share of each token's attention at each frame; that of the start token is
        meaningless.
        """
        new = tokens.shape[1]
        x = residual(self.embed_tokens(tokens))
        offsets = torch.arange(new, device=x.device)
        table = self.rotary.table[offsets]
        causal_mask = torch.where(offsets[None, :] <= offsets[:, None], 0.0, MASKED).to(x.dtype)
        valid = torch.arange(caches[0].shape[2], device=x.device) < frames[:, None]
        cross_mask = torch.where(valid, 0.0, MASKED).to(x.dtype)[:, None, None, :]
        shares = []
        for index, module in enumerate(self.layers):
            layer = cast(DecoderLayer, module)
            x = layer.attend_within(x, self.rotary, table, causal_mask)
            attended = layer.attend_to_audio(x, caches[2 * index], cross_mask)
            shares += [attended[:, head].float() for head in self.heads.of(index)]
            if index + 1 < len(self.layers):
                x = layer.add_attended(x, attended, caches[2 * index + 1])
        share = torch.stack(shares).mean(dim=0)
        if self.heads.predict:  # they attend to the token they predict, one position before it
            share = torch.cat((share[:, :1], share[:, :-1]), dim=1)
        return share


def build_modules(weights: Checkpoint) -> tuple[Encoder, Decoder, Aligner]:
    """Return the networks of a model of clips in float32 with the checkpoint's weights.

    Raises CheckpointError if these do not fit.
    """
    assert isinstance(weights.config, ModelConfig), "a checkpoint of clips"
    parameters = encoder_parameters(weights)
    encoder = Encoder(weights.config, len(parameters["rotary.table"]))
    return (take(encoder, parameters), *build_decoder(weights))


def build_decoder(weights: Checkpoint) -> tuple[Decoder, Aligner]:
    """Return decoder and aligner of any model in float32 with the checkpoint's weights.

    Raises CheckpointError if these do not fit.
    """
    parameters = decoder_parameters(weights)
    return take(Decoder(weights.config), parameters), take(Aligner(weights.config), parameters)


def take(module: Network, parameters: Parameters) -> Network:
    """Give a network its parameters."""
    module.load_state_dict({name: torch.tensor(parameters[name]) for name in module.state_dict()})
    return module.eval().requires_grad_(False)
