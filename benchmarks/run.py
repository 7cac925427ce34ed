"""The one entry to all benchmarks: python benchmarks/run.py --help

Each imports what it needs when it runs: a machine that has not everything runs the others.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a script: its own folder is on the path, the project is not
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from benchmarks import machine, speech_sets, tables
from benchmarks.file_sets import FILE_SETS
from engine_build.checkpoint import DEFAULT_MODEL
from runtime import hardware
from runtime.audio import SAMPLE_RATE
from runtime.engine import selection
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits

if TYPE_CHECKING:
    from benchmarks.quality import Quality
    from benchmarks.speech import Way
    from benchmarks.trial import Outcome, Trial

console = Console(width=220)

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
DEFAULT_PRECISION = "fp16" if hardware.find_gpu() else "fp32"
WAYS = {"process": "in process", "webrtc": "WebRTC", "plain": "in process"}  # plain: without drafts
GATEWAY_WAYS = ("data channel", "websocket")


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


def add_engine_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", action="append", choices=selection.TARGETS, help="which engines; default: what there is")
    command.add_argument("--precision", default=DEFAULT_PRECISION, choices=PRECISIONS)
    command.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32] if hardware.find_gpu() else [1, 8])
    command.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0, 10.0, 20.0], help="lengths of audio")
    command.add_argument("--peer", choices=("yes", "no", "only"), default="yes", help="transformers beside the engines")


def add_offline_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--targets", "--target", nargs="+", default=[selection.detect_target()], choices=selection.TARGETS)
    command.add_argument("--precisions", nargs="+", default=[DEFAULT_PRECISION, "int8"], choices=PRECISIONS)
    command.add_argument(
        "--batches", type=int, nargs="+", default=[32] if hardware.find_gpu() else [8, 32], help="MAX_BATCH_SIZE"
    )
    command.add_argument("--peers", action="store_true", help="other recognisers from PyPI, in environments below .peers")


def add_streams_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument(
        "--precisions", nargs="+", default=["int8" if hardware.find_gpu() is None else "fp16"], choices=PRECISIONS
    )
    command.add_argument(
        "--ways",
        nargs="+",
        default=list(WAYS),
        choices=WAYS,
        help="plain: in process without drafts, all but stable text decoded anew",
    )
    command.add_argument("--interval-ms", type=float, nargs="+", default=[1000.0], help="shortest time between updates")
    command.add_argument("--workers", type=int, default=1, help="gateway processes, over WebRTC")
    command.add_argument("--speech", type=Path, metavar="DIR", help="folders of real recordings to speak, instead of the clips")
    command.add_argument("--start", type=int, default=8, help="streams of the first trial")
    command.add_argument("--step", type=int, default=4, help="streams more or fewer until a trial fails or passes")
    command.add_argument("--seconds", type=float, default=40.0, help="of a trial")
    command.add_argument(
        "--counts",
        type=int,
        nargs="+",
        metavar="N",
        help="no search: one trial for each of these counts, with an engine process and --workers processes "
        "of sessions and speakers in front of it",
    )
    command.add_argument("--max-batch", type=int, default=32, help="MAX_BATCH_SIZE")
    command.add_argument("--long-seconds", type=float, default=120.0, help="of the trial that confirms")


def add_host_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the engine whose words it borrows")
    command.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256])
    command.add_argument("--interval-ms", type=float, nargs="+", default=[1120.0, 250.0])
    command.add_argument("--counts", type=int, nargs="+", default=[100, 200, 300, 400, 600, 800, 1200, 1600, 2400])
    command.add_argument("--workers", type=int, default=2, help="processes of sessions and speakers")
    command.add_argument("--max-batch", type=int, default=128, help="MAX_BATCH_SIZE of the trials")
    command.add_argument("--seconds", type=float, default=20.0, help="of a trial")
    command.add_argument(
        "--costs",
        type=json.loads,
        default={},
        metavar="JSON",
        help="what the modelled device takes, as modelled_device.Costs; default: an H100's",
    )
    command.add_argument("--quick", action="store_true", help="one count of streams, short")


def add_soak_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", choices=("onnxruntime", "tensorrt", "torch"), default="onnxruntime")
    command.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)
    command.add_argument("--minutes", type=float, default=60.0)
    command.add_argument("--clients", type=int, default=4, help="sessions at a time (default: %(default)s)")
    command.add_argument("--kills", type=int, default=0, help="of gateways and engine processes, spread over the time")


def add_flood_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)
    command.add_argument("--streams", type=int, default=3, help="of real speech")
    command.add_argument("--seconds", type=float, default=30.0, help="beside each attacker")


def add_networks_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)


def add_recording_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", default=DEFAULT_PRECISION, choices=PRECISIONS)
    command.add_argument("--seconds", type=float, default=3600.0, help="of the recording")


def add_gateway_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ways",
        nargs="+",
        default=list(GATEWAY_WAYS),
        choices=GATEWAY_WAYS,
        metavar="WAY",
        help="default: " + ", ".join(GATEWAY_WAYS),
    )
    command.add_argument("--sessions", type=int, nargs="+", default=[50, 100, 150, 200])
    command.add_argument("--frame-ms", type=float, default=20.0)
    command.add_argument("--seconds", type=float, default=15.0, help="for each count of sessions")
    command.add_argument("--churn", type=int, default=1000, help="sessions opened and closed; 0: none")


def add_quality_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", default=DEFAULT_PRECISION, choices=PRECISIONS)
    command.add_argument("--sets", nargs="+", metavar="SET", help="file sets, default all: " + "; ".join(FILE_SETS))
    command.add_argument(
        "--webrtc-sets",
        nargs="*",
        default=["clips", "samples"],
        choices=list(FILE_SETS),
        metavar="SET",
        help="those streamed over WebRTC as well, in real time",
    )
    command.add_argument("--seconds", type=float, default=600.0, help="of the joined recordings")
    command.add_argument("--interval-ms", type=float, default=500.0, help="shortest time between updates")
    command.add_argument("--compute", choices=("counted", "not counted"), help="only with or without the time of computing")
    command.add_argument(
        "--speech",
        type=Path,
        metavar="DIR",
        help="instead: folders of real recordings with a manifest.json; --sets are their names",
    )
    command.add_argument(
        "--half", choices=list(speech_sets.HALVES), help="with --speech: thresholds were chosen on the even clips"
    )
    command.add_argument("--every", type=int, default=1, metavar="N", help="with --speech: only every Nth clip")
    command.add_argument(
        "--hard",
        nargs="*",
        metavar="CONDITION",
        help="with --speech: the same recordings made harder to hear; without a name in every way",
    )
    command.add_argument(
        "--joined",
        type=float,
        metavar="SECONDS",
        help="with --speech: instead of clip by clip, joined into one recording of about so long",
    )
    command.add_argument("--processes", type=int, default=1, help="with --speech: clips heard side by side")


def settings_of(arguments: argparse.Namespace) -> dict:
    """The options, ready for JSON."""
    left_out = ("command", "out", "plot", "compare", "engines", "speech")
    return {name: value for name, value in vars(arguments).items() if name not in left_out}


def run_engine(arguments: argparse.Namespace) -> int:
    from benchmarks import engine

    usual = [selection.TENSORRT, selection.TORCH] if hardware.find_gpu() else [selection.ONNXRUNTIME]
    targets = [] if arguments.peer == "only" else arguments.target or usual
    about, runs = {"benchmark": "engine", "machine": machine.describe(), "settings": settings_of(arguments)}, []
    with console.status("…") as status:
        for done in engine.run(
            arguments.engines,
            targets,
            arguments.precision,
            arguments.batches,
            arguments.seconds,
            status.update,
            has_peer=arguments.peer != "no",
        ):
            runs.append(done)
            console.print(tables.engine_table(done, peer=None))
            write_line(arguments.out, about | {"run": engine.as_json(done)})
    if arguments.peer == "yes":
        console.print("beside transformers:")
        for done in runs[:-1]:
            console.print(tables.engine_table(done, peer=runs[-1]))
    measured = runs[:-1] if arguments.peer == "yes" else runs
    return 0 if any(run.measurements for run in measured) else 1


def run_roofline(arguments: argparse.Namespace) -> int:
    from benchmarks import roofline

    level, measured = roofline.best_level(), []
    about = {"benchmark": "roofline", "machine": machine.describe(), "level": level.name}
    for each in roofline.run(level):
        measured.append(each)
        write_line(arguments.out, about | {"result": dataclasses.asdict(each)})
    console.print(tables.roofline_table(level.name, measured))
    return 0


def run_offline(arguments: argparse.Namespace) -> int:
    from benchmarks import offline

    about, results = {"benchmark": "offline", "machine": machine.describe(), "settings": settings_of(arguments)}, []
    with console.status("…") as status:
        for each in offline.run(
            arguments.engines, arguments.targets, arguments.precisions, arguments.batches, arguments.peers, status.update
        ):
            results.append(each)
            console.print(each.name, each.failure or f"RTFx {each.rtfx:,.0f}", highlight=False)
            write_line(arguments.out, about | {"result": each.as_json()})
    console.print(tables.offline_table(results))
    if arguments.plot:
        from benchmarks import plots

        plots.plot_offline(results, arguments.plot)
    return 0


def run_streams(arguments: argparse.Namespace) -> int:
    from benchmarks import streams
    from benchmarks.trial import RULE

    if arguments.counts:
        return run_counts(arguments)
    about, found = {"benchmark": "streams", "machine": machine.describe(), "rule": RULE, "settings": settings_of(arguments)}, []
    with console.status("…") as status:
        for settings in searches_of(arguments):
            references = streams.references_of(settings)
            run = functools.partial(run_and_tell, references=references)
            capacity = streams.search(settings, arguments.start, arguments.step, arguments.long_seconds, run, status.update)
            found.append(capacity)
            console.print(tables.streams_table([capacity]))
            write_line(arguments.out, about | {"result": dataclasses.asdict(capacity)})
    console.print(tables.streams_table(found))
    console.print(f"The rule: {RULE}.", highlight=False)
    if arguments.plot:
        from benchmarks import plots

        plots.plot_streams(found, arguments.plot)
    return 0 if any(each.trial.streams for each in found) else 1


def run_and_tell(trial: Trial, references: dict[str, str]) -> Outcome:
    """A search takes minutes, and a log has no status line."""
    from benchmarks import streams

    outcome = streams.run_in_fresh_process(trial, references)
    console.print(f"{trial.streams} streams, {trial.seconds:g} s: {'; '.join(outcome.broken) or 'passed'}", highlight=False)
    return outcome


def run_counts(arguments: argparse.Namespace) -> int:
    """One trial for each interval and count; those of a precision have the same engine process."""
    from benchmarks import streams
    from benchmarks.trial import RULE

    about, found = {"benchmark": "streams", "machine": machine.describe(), "rule": RULE, "settings": settings_of(arguments)}, []
    for _, settings in itertools.groupby(searches_of(arguments), lambda each: each.precision):
        for trial, outcome in streams.try_counts(list(settings), arguments.counts, functools.partial(print, flush=True)):
            found.append((trial, outcome))
            write_line(arguments.out, about | {"trial": dataclasses.asdict(trial), "outcome": dataclasses.asdict(outcome)})
            console.print(tables.trials_table(found[-1:]))
    console.print(tables.trials_table(found))
    return 0


def searches_of(arguments: argparse.Namespace) -> list[Trial]:
    """One for each way, precision and interval."""
    from benchmarks.trial import Trial

    def of(way: str, precision: str, interval_ms: float) -> Trial:
        return Trial(
            WAYS.get(way, way),
            0,
            arguments.seconds,
            interval_ms,
            str(arguments.engines.resolve()),
            arguments.target,
            precision,
            drafts=way != "plain",
            workers=arguments.workers if way in ("webrtc", "processes") else 1,
            max_batch=arguments.max_batch,
            speech=str(arguments.speech.resolve()) if arguments.speech else "",
        )

    ways = ["processes"] if arguments.counts else arguments.ways
    return [of(way, *each) for *each, way in itertools.product(arguments.precisions, arguments.interval_ms, ways)]


def run_host(arguments: argparse.Namespace) -> int:
    from benchmarks import host

    about = {"benchmark": "host", "machine": machine.describe(), "settings": settings_of(arguments), "device": "modelled"}
    costs = []
    for batch in arguments.batches:
        costs.append(host.engine_loop_cost(batch, *((10, 3) if arguments.quick else ())))
        write_line(arguments.out, about | {"result": dataclasses.asdict(costs[-1])})
    console.print(tables.host_table(costs))
    counts, seconds = (arguments.counts[:1], 8.0) if arguments.quick else (arguments.counts, arguments.seconds)
    device, found = dataclasses.replace(host.H100, **arguments.costs), []
    for interval_ms in arguments.interval_ms[: 1 if arguments.quick else None]:
        settings = host.trial_of(
            arguments.engines, arguments.precision, interval_ms, arguments.workers, arguments.max_batch, seconds
        )
        for trial, outcome in host.try_streams(settings, counts, device):
            found.append((trial, outcome))
            write_line(arguments.out, about | {"trial": dataclasses.asdict(trial), "outcome": dataclasses.asdict(outcome)})
    console.print(tables.trials_table(found), "The device is modelled, and its words mean nothing.")
    return 0


def run_soak(arguments: argparse.Namespace) -> int:
    from benchmarks import soak

    about = {"benchmark": "soak", "machine": machine.describe(), "settings": settings_of(arguments)}
    with console.status("soak") as status:
        found = soak.run(
            arguments.engines,
            arguments.target,
            arguments.precision,
            arguments.minutes,
            arguments.clients,
            arguments.kills,
            status.update,
        )
    console.print(tables.soak_table(found))
    write_line(arguments.out, about | {"result": found.as_json()})
    if arguments.plot:
        from benchmarks import plots

        plots.plot_soak(found, arguments.plot)
    return 0


def run_flood(arguments: argparse.Namespace) -> int:
    from benchmarks import flood

    about, found = {"benchmark": "flood", "machine": machine.describe(), "settings": settings_of(arguments)}, []
    with console.status("…") as status:
        for each in flood.run(
            arguments.engines, arguments.target, arguments.precision, arguments.streams, arguments.seconds, status.update
        ):
            found.append(each)
            write_line(arguments.out, about | {"result": each.as_json()})
    console.print(tables.flood_table(found))
    return 0


def run_fleet(arguments: argparse.Namespace) -> int:
    from benchmarks import fleet

    with console.status("…") as status:
        found = fleet.run(status.update)
    for table in tables.fleet_tables(found):
        console.print(table)
    write_line(arguments.out, {"benchmark": "fleet", "commit": machine.commit(), "result": found.as_json()})
    if arguments.plot:
        from benchmarks import plots

        plots.plot_fleet(found, arguments.plot)
    return 0


def run_networks(arguments: argparse.Namespace) -> int:
    from benchmarks import networks

    about, found = {"benchmark": "networks", "machine": machine.describe(), "settings": settings_of(arguments)}, []
    with console.status("…") as status:
        for each in networks.run(arguments.engines, arguments.precision, status.update):
            found.append(each)
            write_line(arguments.out, about | {"result": each.as_json()})
    console.print(tables.networks_table(found))
    if arguments.plot:
        from benchmarks import plots

        plots.plot_networks(found, arguments.plot)
    return 0


def run_recording(arguments: argparse.Namespace) -> int:
    from benchmarks import recordings

    about = {"benchmark": "recording", "machine": machine.describe(), "settings": settings_of(arguments)}
    with console.status("…") as status:
        found = recordings.run(arguments.engines, arguments.target, arguments.precision, arguments.seconds, status.update)
    write_line(arguments.out, about | {"result": found.as_json()})
    console.print(tables.recording_table(found))
    return 0


def run_gateway(arguments: argparse.Namespace) -> int:
    from benchmarks import gateway

    about, loads = {"benchmark": "gateway", "machine": machine.describe(), "settings": settings_of(arguments)}, []
    with console.status("…") as status:
        for each in gateway.run(arguments.ways, arguments.sessions, arguments.seconds, arguments.frame_ms, status.update):
            loads.append(each)
            write_line(arguments.out, about | {"result": each.as_json()})
        console.print(tables.gateway_table(loads))
        if arguments.churn:
            churn = gateway.churn(arguments.churn, status.update)
            console.print(tables.churn_table(churn))
            write_line(arguments.out, about | {"churn": dataclasses.asdict(churn)})
    if arguments.plot:
        from benchmarks import plots

        plots.plot_gateway(loads, arguments.plot)
    return 0


def run_quality(arguments: argparse.Namespace) -> int:
    if arguments.speech:
        return run_speech(arguments)
    choice = selection.choose(arguments.engines, DEFAULT_MODEL, arguments.precision, arguments.target)
    opened, tokenizer, _ = selection.open_engine(choice, max_batch=1)
    about = {
        "benchmark": "quality",
        "machine": machine.describe(),
        "engine": opened.name,
        "settings": {name: getattr(arguments, name) for name in ("interval_ms", "seconds")},
    }
    title, done = f"{opened.name}, an update every {arguments.interval_ms:g} ms", []
    with console.status("…") as status:
        for name in arguments.sets or FILE_SETS:
            results = measure_set(arguments, name, choice.precision, opened, tokenizer, status.update)
            console.print(tables.quality_table(results, title))
            write_line(arguments.out, about | {"results": [each.as_json() for each in results]})
            done += results
    if arguments.plot:
        from benchmarks import plots

        plots.plot_quality(done, arguments.plot)
    return 0


def run_speech(arguments: argparse.Namespace) -> int:
    """Real recordings as they are, then made harder to hear."""
    from benchmarks import comparison, scores, speech
    from benchmarks.speech import Way

    way = Way(arguments.engines, arguments.target, arguments.precision, arguments.interval_ms, arguments.compute == "counted")
    about = {"benchmark": "speech", "machine": machine.describe(), "settings": settings_of(arguments)}
    names = arguments.sets or speech_sets.names_in(arguments.speech)
    clips = [clip for name in names for clip in speech_sets.load(arguments.speech, name, arguments.half, arguments.every)]
    if arguments.joined:
        return run_joined(arguments, way, about, clips)
    found = {}
    with console.status("…") as status:
        for condition, change in conditions_of(arguments).items():
            made = speech_sets.changed([clip for clip in clips if clip.text], change) if change else clips
            heard = speech.listen_to(made, way, arguments.processes, functools.partial(said, status.update, condition))
            found[condition] = heard
            console.print(tables.speech_table(scores.scores(heard), f"{condition}, {way.target}, {way.precision}"))
            console.print(tables.false_words_table(heard))
            write_line(arguments.out, about | {"condition": condition, "clips": [speech.as_json(each) for each in heard]})
    if arguments.compare:
        for condition, before in comparison.read_heard(arguments.compare).items():
            console.print(tables.paired_table(scores.pair(before, found.get(condition, [])), condition))
    if arguments.plot:
        from benchmarks import plots

        plots.plot_speech(found, arguments.plot)
    return 0


def add_confidence_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("results", type=Path, metavar="FILE", help="what `quality --speech DIR --out FILE` wrote")
    command.add_argument("--fit", action="store_true", help="print points for WORDS_RIGHT of server/stream/confidence.py")


def run_confidence(arguments: argparse.Namespace) -> int:
    from benchmarks import comparison, word_confidence

    heard = [each for found in comparison.read_heard(arguments.results).values() for each in found if each.reference]
    confidences, right = word_confidence.judged(heard)
    bins = word_confidence.reliability(confidences, right)
    console.print(tables.reliability_table(bins, f"{len(right)} words"))
    console.print(f"expected calibration error {word_confidence.expected_calibration_error(bins):.3f}")
    if arguments.fit:
        console.print([(round(at, 3), round(share, 3)) for at, share in word_confidence.fitted(confidences, right)])
    if arguments.plot:
        from benchmarks import plots

        plots.plot_reliability(bins, arguments.plot)
    return 0


def run_joined(arguments: argparse.Namespace, way: Way, about: dict, clips: Sequence[speech_sets.Clip]) -> int:
    """One recording of all clips with speech, and one of those without."""
    from benchmarks import joined, speech

    for name, chosen in (("speech", [clip for clip in clips if clip.text]), ("no speech", without_voices(clips))):
        if chosen:
            clip = joined.join(chosen, arguments.joined)
            with console.status(f"{name}: {len(clip.samples) / SAMPLE_RATE:.0f} s"):
                final = speech.stream_whole(clip, way)
            cuts = joined.count(clip, final)
            console.print(name, dataclasses.asdict(cuts), f"near {cuts.rate_near:.1f}%, elsewhere {cuts.rate_elsewhere:.1f}%")
            write_line(arguments.out, about | {"joined": name, "result": dataclasses.asdict(cuts), "text": final["text"]})
    return 0


def without_voices(clips: Sequence[speech_sets.Clip]) -> list[speech_sets.Clip]:
    return [clip for clip in clips if not clip.text and not clip.kind.endswith(speech_sets.VOICES)]


def said(update: Callable[[str], None], condition: str, progress: str) -> None:
    update(f"{condition}, {progress}")


def conditions_of(arguments: argparse.Namespace) -> dict[str, speech_sets.Change | None]:
    if arguments.hard is None:
        return {"as recorded": None}
    from benchmarks import hard_audio

    known = hard_audio.conditions(speech_sets.rooms_in(arguments.speech))
    return {name: known[name] for name in arguments.hard or known}


def measure_set(
    arguments: argparse.Namespace,
    name: str,
    precision: str,
    opened: Engine,
    tokenizer: Tokenizer,
    progress: Callable[[str], None],
) -> list[Quality]:
    """One file set in every way that is asked for."""
    from benchmarks import quality
    from benchmarks.servers import running_server

    limits = SessionLimits(interim_interval_ms=arguments.interval_ms)
    recordings, results = FILE_SETS[name](arguments.seconds), []
    offline_wer = quality.offline_rate(opened, tokenizer, [piece for each in recordings for piece in each.alone])
    for counted, compute in ((False, "not counted"), (True, "counted")):
        if arguments.compute in (None, compute):
            stream = functools.partial(quality.stream_in_process, opened, tokenizer, limits, counted)
            results.append(quality.measure(name, f"computing {compute}", recordings, offline_wer, stream, progress))
    if name in arguments.webrtc_sets:
        variables = {"ASR_INTERIM_INTERVAL_MS": f"{arguments.interval_ms:g}", "ASR_TARGET": arguments.target}
        with running_server(arguments.engines, precision, variables) as address:
            stream = functools.partial(quality.stream_over_webrtc, address)
            results.append(quality.measure(name, "WebRTC", recordings, offline_wer, stream, progress))
    return results


def add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", help="a checkpoint directory or a hub id")
    command.add_argument("folder", type=Path, help="audio files with a .txt beside each, or with a manifest.json")


def run_model(arguments: argparse.Namespace) -> int:
    from benchmarks import checked_model

    about, found = (
        {
            "benchmark": "model",
            "machine": machine.describe(),
            "settings": settings_of(arguments) | {"folder": arguments.folder.name},
        },
        [],
    )
    recordings = checked_model.recordings_in(arguments.folder)
    with console.status("…") as status:
        for done in checked_model.run(arguments.model, recordings, arguments.engines, status.update):
            found.append(done)
            write_line(arguments.out, about | {"way": dataclasses.asdict(done)})
    console.print(tables.model_table(found, f"{Path(arguments.model).name} on {len(recordings)} recordings"))
    return 0


def add_updates_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sizes", nargs="*", default=["tiny", "small", "medium"], help="of streaming models, with random weights"
    )
    command.add_argument("--target", nargs="+", default=[selection.NATIVE], choices=selection.TARGETS)
    command.add_argument("--precision", default="int8", choices=PRECISIONS)
    command.add_argument("--streams", type=int, default=24, help="that share the engine")
    command.add_argument("--segments", type=float, nargs="+", default=[2.0, 6.0, 12.0, 28.0], metavar="SECONDS")
    command.add_argument("--new", type=float, default=1.0, metavar="SECONDS", help="of audio in an update")


def run_updates(arguments: argparse.Namespace) -> int:
    from benchmarks import random_checkpoint, updates
    from engine_build import checkpoint

    about, found = {"benchmark": "updates", "machine": machine.describe(), "settings": settings_of(arguments)}, []
    pieces = checkpoint.load(DEFAULT_MODEL, say=console.print).pieces
    sizes = [str(random_checkpoint.provide(size, arguments.engines / "checkpoints", pieces)) for size in arguments.sizes]
    for done in updates.run(
        [DEFAULT_MODEL, *sizes],
        arguments.target,
        arguments.precision,
        arguments.streams,
        arguments.segments,
        arguments.new,
        arguments.engines,
    ):
        found.append(done)
        write_line(arguments.out, about | {"update": dataclasses.asdict(done)})
    console.print(tables.updates_table(found))
    return 0


def run_all(arguments: argparse.Namespace) -> int:
    """Every benchmark of the whole server with its defaults; plots go beside --plot's name."""
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


def write_line(path: Path | None, result: dict) -> None:
    """One JSON line, appended to the file, or printed."""
    line = json.dumps(result)
    if path is None:
        print(line)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")


def add_all_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--peers", action="store_true", help="other recognisers too, in offline")


BENCHMARKS = (
    Benchmark("engine", run_engine, "encoder, verification and steps of every engine, beside transformers", add_engine_options),
    Benchmark("roofline", run_roofline, "the native engine's products beside what the processor's units can do"),
    Benchmark("offline", run_offline, "whole recordings at once, beside transformers and other recognisers", add_offline_options),
    Benchmark("streams", run_streams, "the most live streams under the strict rule", add_streams_options),
    Benchmark("soak", run_soak, "sessions that come and go while processes are killed: words, memory, files", add_soak_options),
    Benchmark("flood", run_flood, "live speech beside attackers of every kind", add_flood_options),
    Benchmark("networks", run_networks, "live speech over networks that lose, delay and reorder packets", add_networks_options),
    Benchmark("recording", run_recording, "a long recording over REST, and a live stream beside it", add_recording_options),
    Benchmark("gateway", run_gateway, "CPU of a message, sessions of a core, memory of each; no engine", add_gateway_options),
    Benchmark("host", run_host, "what Python costs before a modelled device; and its streams, without a GPU", add_host_options),
    Benchmark("fleet", run_fleet, "many replicas, simulated: how sessions are placed, what growth and failures cost"),
    Benchmark("quality", run_quality, "WER, delay of words, stability and latency of streams", add_quality_options),
    Benchmark("confidence", run_confidence, "how often words of each confidence are right", add_confidence_options),
    Benchmark(
        "updates",
        run_updates,
        "cost of an update, streaming models beside Base, by the length of its segment",
        add_updates_options,
    ),
    Benchmark("model", run_model, "a checkpoint on a folder of speech, beside transformers", add_model_options),
    Benchmark("all", run_all, "offline, streams, gateway and quality, each with its defaults; hours", add_all_options),
)


if __name__ == "__main__":
    sys.exit(main())
