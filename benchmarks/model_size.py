"""Operations and bytes that Moonshine needs at least: with a machine's ceilings, they give the floor of a measured time."""

from dataclasses import dataclass

from runtime.engine.manifest import Manifest

MLP_FACTOR = 4  # hidden size of the MLPs divided by the model's, in Base and in Tiny
TYPICAL_PAST = 32  # tokens that a step attends to
CELL_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 2}
WEIGHT_BYTES = CELL_BYTES | {"int8": 1}


@dataclass(frozen=True)
class ModelSize:
    """Sizes of one model in one precision."""

    dim: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    cell_bytes: int
    weight_bytes: int

    @classmethod
    def of(cls, built: Manifest) -> "ModelSize":
        cell, weight = CELL_BYTES[built.precision], WEIGHT_BYTES[built.precision]
        return cls(built.dim, built.encoder_layers, built.decoder_layers, built.vocabulary, cell, weight)

    def encoder_floor_ms(self, batch: int, frames: int, operations: float, bandwidth: float) -> float:
        """operations, bandwidth: the machine's, per second (machine.measure_ceilings)."""
        square = self.dim**2
        layers = self.encoder_layers * (4 + 2 * MLP_FACTOR) * square
        cross = self.decoder_layers * 2 * square
        # Of the convolutions, the first runs 6 times for each frame at the end, the second twice.
        convolutions = 6 * 127 * self.dim + 2 * 7 * 2 * square + 3 * 2 * square
        attention = self.encoder_layers * 2 * frames * self.dim
        work = 2 * batch * frames * (layers + cross + convolutions + attention)
        weights = (layers + cross + 127 * self.dim + 20 * square) * self.weight_bytes
        written = batch * frames * self.decoder_layers * 2 * self.dim * self.cell_bytes
        return 1000 * max(work / operations, (weights + written) / bandwidth)

    def step_floor_ms(self, batch: int, frames: int, operations: float, bandwidth: float) -> float:
        """Return the floor for one token for every row; see encoder_floor_ms."""
        weights = self.decoder_layers * (6 + 3 * MLP_FACTOR) * self.dim**2 + self.vocabulary * self.dim
        attended = self.decoder_layers * 2 * (frames + TYPICAL_PAST) * self.dim
        work = 2 * batch * (weights + attended)
        read = weights * self.weight_bytes + batch * attended * self.cell_bytes
        return 1000 * max(work / operations, read / bandwidth)
