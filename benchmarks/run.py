"""The one entry to all benchmarks: python benchmarks/run.py engine --help"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.table import Table

from benchmarks import engine, machine
from benchmarks.engine import EngineRun, Measurement
from runtime import engines, gpu

console = Console(width=150)

COLUMNS = (
    "batch", "audio s", "encoder ms (floor)", "verify 32 ms", "step ms (floor)", "tokens/s", "transcription ms", "RTFx",
    "over transformers", "KiB in / out",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    return arguments.command(arguments)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser(
        "engine", help="encoder, verification and steps of every engine, beside transformers and the floor",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    command.add_argument("--target", action="append", choices=engines.TARGETS, help="which engines; default: what there is")
    command.add_argument("--precision", default="fp16" if gpu.find() else "fp32", choices=("fp32", "fp16", "bf16", "int8"))
    command.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32] if gpu.find() else [1, 8])
    command.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0, 10.0, 20.0], help="lengths of audio")
    command.add_argument("--engines", type=Path, default=Path("engines"), help="where they were built")
    command.add_argument("--out", type=Path, help="a file that gets one more JSON line")
    command.set_defaults(command=run_engine)
    return parser.parse_args(argv)


def run_engine(arguments: argparse.Namespace) -> int:
    targets = arguments.target or ([engines.TENSORRT, engines.TORCH] if gpu.find() else [engines.ONNXRUNTIME])
    settings = {name: value for name, value in vars(arguments).items() if name in ("precision", "batches", "seconds")}
    about, runs = machine.describe(), []
    with console.status("…") as status:
        for done in engine.run(
            arguments.engines, targets, arguments.precision, arguments.batches, arguments.seconds, status.update
        ):
            runs.append(done)
            console.print(engine_table(done, peer=None))
            write_line(
                arguments.out, {"benchmark": "engine", "machine": about, "settings": settings, "run": engine.as_json(done)}
            )
    console.print("beside transformers:")
    for done in runs[:-1]:
        console.print(engine_table(done, peer=runs[-1]))
    return 0 if any(run.measurements for run in runs[:-1]) else 1


def write_line(path: Path | None, result: dict) -> None:
    """One JSON line, appended to the file, or printed."""
    line = json.dumps(result)
    if path is None:
        print(line)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def engine_table(run: EngineRun, peer: EngineRun | None) -> Table:
    """One row for each batch and length, with the ratio to the peer where it was measured on the same."""
    others = {(each.batch, each.audio_seconds): each for each in (peer.measurements if peer else ())}
    about = f"open {run.open_seconds:.1f} s, of it capture {run.capture_seconds:.1f} s" if run.open_seconds else ""
    if run.memory_mib is not None:
        about += f", {run.memory_mib} MiB on the GPU"
    table = Table(title=f"{run.engine}  {about}", title_justify="left", caption=run.failure and f"failed: {run.failure}")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for each in run.measurements:
        table.add_row(*row_of(each, others.get((each.batch, each.audio_seconds))))
    return table


def row_of(each: Measurement, peer: Measurement | None) -> list[str]:
    """The cells of COLUMNS."""
    return [
        str(each.batch),
        f"{each.audio_seconds:g}",
        f"{each.encoder_ms:.2f} ({each.encoder_floor_ms:.2f})",
        "" if each.verification_ms is None else f"{each.verification_ms:.2f}",
        f"{each.step_ms:.2f} ({each.step_floor_ms:.2f})",
        f"{each.tokens_per_second:,.0f}",
        f"{each.transcription_ms:.1f}",
        f"{each.rtfx:,.0f}",
        f"{each.rtfx / peer.rtfx:.1f} x" if peer else "",
        f"{each.bytes_in / 1024:,.0f} / {each.bytes_out / 1024:,.1f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
