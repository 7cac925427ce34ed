"""Exported torch programs: loaded, moved to their device, and compiled for it."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from runtime.engine import packed_attention  # noqa: F401  # registers the operator that programs name
from runtime.exceptions import EngineDirectoryError

logger = logging.getLogger(__name__)

Program = Callable[..., tuple[Tensor, ...]]
COMPILED_KERNELS = "compiled"  # below the engine's directory
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def load_program(path: Path, device: torch.device) -> Program:
    """Load a program onto a device. Raises EngineDirectoryError."""
    try:
        program = torch.export.load(path)
    except Exception as exc:  # torch raises errors of many kinds for a bad archive
        raise EngineDirectoryError(f"torch {torch.__version__} cannot load {path}: {exc}") from exc
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program.module()


class CompiledProgram:
    """A program whose kernels torch fuses for this GPU at its first run; if that fails, it runs as it is.

    Without that, half of a pass is elementwise work between the products; fused kernels save most of it.
    """

    def __init__(self, program: Program, changing: Sequence[Sequence[int]]):
        """changing: for each input, the dimensions that differ from run to run."""
        self._program, self._changing = program, changing
        self._compiled: Program | None = torch.compile(program)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self._compiled is None:
            return self._program(*inputs)
        for tensor, dimensions in zip(inputs, self._changing, strict=True):
            for dimension in dimensions:
                torch._dynamo.maybe_mark_dynamic(tensor, dimension)
        try:
            return self._compiled(*inputs)
        except Exception:  # any error of the compiler: no C compiler, no Triton, a defect of its own
            logger.exception("torch could not compile a program; it runs as it is, and takes about twice as long")
            self._compiled = None
            return self._program(*inputs)


@contextlib.contextmanager
def compiling(directory: Path) -> Iterator[None]:
    """Keep compiled kernels in the engine's directory, so that only the first start takes a minute; if it is not writable,
    torch uses its own directory."""
    logger.info("torch fuses kernels for this GPU; the first time that takes one to two minutes")
    if CACHE_VARIABLE not in os.environ and os.access(directory, os.W_OK):
        os.environ[CACHE_VARIABLE] = str(directory.resolve() / COMPILED_KERNELS)
    yield
    with contextlib.suppress(Exception):  # the processes have no more work; not every version has this function
        torch._inductor.async_compile.shutdown_compile_workers()


def can_compile() -> bool:
    """True if Triton and the C compiler that it needs are there."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
