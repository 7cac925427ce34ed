"""Options of a build, and its progress."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID

from engine_build.streaming_parameters import EXCLUSIVE


class BuildError(Exception):
    """The build is not possible, or its result is wrong."""


class UnsupportedModel(BuildError):
    """The target does not run this kind of model; another target does."""


@dataclass(frozen=True)
class BuildOptions:
    model: str
    target: str
    precision: str
    """Precision of the computation, which may differ from the requested one."""
    out: Path
    max_batch: int
    flavour: str | None
    """Package of TensorRT: tensorrt or tensorrt-rtx; None means the one that is installed."""
    force: bool
    revision: str | None = None
    """Revision of the model's repository on the hub."""
    weights_sha256: str | None = None
    """Checksum that the weights must have; None means any."""
    script: str | None = None
    """Letters that the engine may write: latin or any; None means the default for the model."""
    cpu_threads: int | None = None
    """Threads of a CPU engine while it serves; None means one for each core."""
    windows: str = EXCLUSIVE
    """Reading of a streaming model's windows; see streaming_parameters."""


class Stages:
    """Shows one line for each stage of the build, with its time. A terminal's line is animated; in a log it is printed once."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._task: TaskID | None = None

    @classmethod
    def silent(cls) -> "Stages":
        return cls(Progress(disable=True, console=Console(quiet=True)))

    def begin(self, description: str) -> None:
        self.end()
        if not self._progress.console.is_terminal:
            self.say(description)
        self._task = self._progress.add_task(description, total=1)

    def advance(self, fraction: float) -> None:
        """Report the share of the stage that is done, 0 to 1."""
        if self._task is not None:
            self._progress.update(self._task, completed=fraction)

    def end(self) -> None:
        self.advance(1)

    def say(self, line: str) -> None:
        self._progress.console.print(line, highlight=False, markup=False, soft_wrap=True)
