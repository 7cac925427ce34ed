"""The entry point of all benchmarks: python benchmarks/run.py --help

Each benchmark imports its packages when it runs, so that a machine without some packages can run the others.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import tables
from benchmarks.commands import common, engines, servers, words
from benchmarks.commands.common import console


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A subcommand."""

    name: str
    run: Callable[[argparse.Namespace], int]
    about: str
    add_options: Callable[[argparse.ArgumentParser], None] = lambda command: None


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    status = arguments.command(arguments)
    if arguments.compare and arguments.out and not getattr(arguments, "speech", None):
        from benchmarks import comparison

        console.print(tables.comparison_table(comparison.compare(arguments.compare, arguments.out)))
    return status


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py")
    commands = parser.add_subparsers(required=True)

    for each in BENCHMARKS:
        command = commands.add_parser(each.name, help=each.about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--engines", type=Path, default=Path("engines"), help="where they were built")
        command.add_argument("--out", type=Path, help="a file that gets one more JSON line for each result")
        command.add_argument("--plot", type=Path, help="a PNG of the results")
        command.add_argument("--compare", type=Path, metavar="FILE", help="an earlier --out to hold this one's figures against")
        command.set_defaults(command=each.run)
        each.add_options(command)
    return parser.parse_args(argv)


def run_all(arguments: argparse.Namespace) -> int:
    """Run every benchmark of the whole server with its defaults; each plot's name is --plot's name and the benchmark's."""
    status = 0
    for name in ("offline", "streams", "gateway", "quality"):
        options = ["--engines", str(arguments.engines)] + (["--out", str(arguments.out)] if arguments.out else [])
        if arguments.plot:
            options += ["--plot", str(arguments.plot.with_stem(f"{arguments.plot.stem}-{name}"))]
        if name == "offline" and arguments.peers:
            options.append("--peers")
        console.rule(name)
        status |= main([name, *options])
    return status


def add_all_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--peers", action="store_true", help="other recognisers too, in offline")


BENCHMARKS = (
    Benchmark(
        "engine",
        engines.run_engine,
        "encoder, verification and steps of every engine, beside transformers",
        engines.add_engine_options,
    ),
    Benchmark("roofline", engines.run_roofline, "the native engine's products beside what the processor's units can do"),
    Benchmark(
        "offline",
        engines.run_offline,
        "whole recordings at once, beside transformers and other recognisers",
        engines.add_offline_options,
    ),
    Benchmark("streams", servers.run_streams, "the most live streams under the strict rule", servers.add_streams_options),
    Benchmark(
        "soak",
        servers.run_soak,
        "sessions that come and go while processes are killed: words, memory, files",
        servers.add_soak_options,
    ),
    Benchmark("flood", servers.run_flood, "live speech beside attackers of every kind", servers.add_flood_options),
    Benchmark(
        "networks",
        servers.run_networks,
        "live speech over networks that lose, delay and reorder packets",
        servers.add_networks_options,
    ),
    Benchmark(
        "recording",
        servers.run_recording,
        "a long recording over REST, and a live stream beside it",
        servers.add_recording_options,
    ),
    Benchmark(
        "gateway",
        servers.run_gateway,
        "CPU of a message, sessions of a core, memory of each; no engine",
        servers.add_gateway_options,
    ),
    Benchmark(
        "host",
        engines.run_host,
        "what Python costs before a modelled device; and its streams, without a GPU",
        engines.add_host_options,
    ),
    Benchmark("fleet", engines.run_fleet, "many replicas, simulated: how sessions are placed, what growth and failures cost"),
    Benchmark("quality", words.run_quality, "WER, delay of words, stability and latency of streams", words.add_quality_options),
    Benchmark("confidence", words.run_confidence, "how often words of each confidence are right", words.add_confidence_options),
    Benchmark(
        "keyterms", words.run_keyterms, "words given as terms, and words that nobody says, by boost", common.add_speech_options
    ),
    Benchmark("fuzz", servers.run_fuzz, "damaged bytes at every parser that a stranger reaches", servers.add_fuzz_options),
    Benchmark("ttfs", servers.run_ttfs, "time to the final segment, through pipecat's own services", servers.add_ttfs_options),
    Benchmark(
        "turn-ends",
        words.run_turn_ends,
        "turns that are cut, and how long ends wait, by the evidence",
        words.add_turn_ends_options,
    ),
    Benchmark(
        "updates",
        engines.run_updates,
        "cost of an update, streaming models beside Base, by the length of its segment",
        engines.add_updates_options,
    ),
    Benchmark("model", engines.run_model, "a checkpoint on a folder of speech, beside transformers", engines.add_model_options),
    Benchmark("all", run_all, "offline, streams, gateway and quality, each with its defaults; hours", add_all_options),
)


if __name__ == "__main__":
    sys.exit(main())
