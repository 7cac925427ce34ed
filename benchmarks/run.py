"""The one entry to all benchmarks: python benchmarks/run.py engine --help"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.table import Table

from benchmarks import engine, machine, quality
from benchmarks.engine import EngineRun, Measurement
from benchmarks.file_sets import FILE_SETS
from benchmarks.quality import Quality
from benchmarks.simulation import DEFAULT_LIMITS
from engine_build.checkpoint import DEFAULT_MODEL
from runtime import engines, gpu
from runtime.engine import Engine
from runtime.tokenizer import Tokenizer

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
    command = commands.add_parser(
        "quality", help="WER, delay of words, stability and latency of streams, beside the same audio in one pass",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    command.add_argument("--target", default=engines.detect_target(), choices=engines.TARGETS)
    command.add_argument("--precision", default="fp16" if gpu.find() else "fp32", choices=("fp32", "fp16", "bf16", "int8"))
    command.add_argument("--sets", nargs="+", default=list(FILE_SETS), choices=list(FILE_SETS), metavar="SET",
                         help="file sets: " + "; ".join(FILE_SETS))  # fmt: skip
    command.add_argument("--webrtc-sets", nargs="*", default=["clips", "samples"], choices=list(FILE_SETS), metavar="SET",
                         help="those streamed over WebRTC as well, in real time")  # fmt: skip
    command.add_argument("--seconds", type=float, default=600.0, help="of the joined recordings")
    command.add_argument("--interval-ms", type=float, default=500.0, help="shortest time between updates")
    command.add_argument("--compute", choices=("counted", "not counted"), help="only with or without the time of computing")
    command.add_argument("--engines", type=Path, default=Path("engines"), help="where they were built")
    command.add_argument("--out", type=Path, help="a file that gets one more JSON line for each set")
    command.add_argument("--plot", type=Path, help="a PNG of when words came")
    command.set_defaults(command=run_quality)
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


def run_quality(arguments: argparse.Namespace) -> int:
    from benchmarks.plots import plot_quality

    choice = engines.choose(arguments.engines, DEFAULT_MODEL, arguments.precision, arguments.target)
    opened, tokenizer, _ = engines.open_engine(choice, max_batch=1)
    about = {"benchmark": "quality", "machine": machine.describe(), "engine": opened.name,
             "settings": {name: getattr(arguments, name) for name in ("interval_ms", "seconds")}}  # fmt: skip
    title, done = f"{opened.name}, an update every {arguments.interval_ms:g} ms", []
    with console.status("…") as status:
        for name in arguments.sets:
            results = measure_set(arguments, name, choice.precision, opened, tokenizer, status.update)
            console.print(quality_table(results, title))
            write_line(arguments.out, about | {"results": [each.as_json() for each in results]})
            done += results
    if arguments.plot:
        plot_quality(done, arguments.plot)
    return 0


def measure_set(arguments: argparse.Namespace, name: str, precision: str, opened: Engine, tokenizer: Tokenizer,
                progress: Callable[[str], None]) -> list[Quality]:  # fmt: skip
    """One file set in every way that is asked for."""
    limits = dataclasses.replace(DEFAULT_LIMITS, interim_interval_seconds=arguments.interval_ms / 1000)
    recordings, results = FILE_SETS[name](arguments.seconds), []
    offline = quality.offline_rate(opened, tokenizer, [piece for each in recordings for piece in each.alone])
    for counted, compute in ((False, "not counted"), (True, "counted")):
        if arguments.compute in (None, compute):
            stream = functools.partial(quality.stream_in_process, opened, tokenizer, limits, counted)
            results.append(quality.measure(name, f"computing {compute}", recordings, offline, stream, progress))
    if name in arguments.webrtc_sets:
        variables = {"ASR_INTERIM_INTERVAL_MS": f"{arguments.interval_ms:g}", "ASR_TARGET": arguments.target}
        with quality.running_server(arguments.engines, precision, variables) as address:
            stream = functools.partial(quality.stream_over_webrtc, address)
            results.append(quality.measure(name, "WebRTC", recordings, offline, stream, progress))
    return results


QUALITY_COLUMNS = (
    "set", "way", "audio s", "WER %", "offline %", "seen ms", "stable ms", "UPWR (as shown)", "violations", "final ms",
    "passes", "single steps", "compute",
)  # fmt: skip


def quality_table(results: Sequence[Quality], title: str) -> Table:
    """One row for each set and way; times as p50 / p95."""
    table = Table(title=title, title_justify="left")
    for column in QUALITY_COLUMNS:
        table.add_column(column, justify="left" if column in ("set", "way") else "right")
    for each in results:
        table.add_row(
            each.file_set, each.way, f"{each.audio_seconds:.0f}", f"{each.wer:.2f}", optional(each.offline_wer, "{:.2f}"),
            *(optional(spread, "{0.p50:,.0f} / {0.p95:,.0f}") for spread in (each.appeared_ms, each.stable_ms)),
            f"{each.unstable_ratio:.2f} ({each.unstable_ratio_as_shown:.2f})", str(each.violations),
            f"{each.final_ms.p50:,.0f} / {each.final_ms.p95:,.0f}", optional(each.passes, "{:.1f}"),
            optional(each.single_steps, "{:.1f}"), optional(each.compute_share, "{:.2f}"),
        )  # fmt: skip
    return table


def optional(value: object, form: str) -> str:
    return "" if value is None else form.format(value)


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
