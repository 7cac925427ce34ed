"""Commands that measure a whole server, its connections, and attacks on it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, speech_sets, tables
from benchmarks.commands.common import (
    DEFAULT_PRECISION,
    PRECISIONS,
    add_speech_options,
    console,
    described,
    settings_of,
    write_line,
)
from runtime import hardware
from runtime.engine import selection

if TYPE_CHECKING:
    from benchmarks.trial import Outcome, Trial

WAYS = {"process": "in process", "webrtc": "WebRTC", "plain": "in process"}  # plain: without drafts
GATEWAY_WAYS = ("data channel", "websocket")


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
    """Run a trial and print its outcome: a search takes minutes, and a log has no status line."""
    from benchmarks import streams

    outcome = streams.run_in_fresh_process(trial, references)
    console.print(f"{trial.streams} streams, {trial.seconds:g} s: {'; '.join(outcome.broken) or 'passed'}", highlight=False)
    return outcome


def run_counts(arguments: argparse.Namespace) -> int:
    """Run one trial for each interval and count; the trials of a precision share an engine process."""
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
    """Return a trial for each way, precision and interval."""
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


def add_soak_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", choices=("onnxruntime", "tensorrt", "torch"), default="onnxruntime")
    command.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)
    command.add_argument("--minutes", type=float, default=60.0)
    command.add_argument("--clients", type=int, default=4, help="sessions at a time (default: %(default)s)")
    command.add_argument("--kills", type=int, default=0, help="of gateways and engine processes, spread over the time")


def run_soak(arguments: argparse.Namespace) -> int:
    from benchmarks import soak

    about = described("soak", arguments)
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


def add_flood_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)
    command.add_argument("--streams", type=int, default=3, help="of real speech")
    command.add_argument("--seconds", type=float, default=30.0, help="beside each attacker")


def run_flood(arguments: argparse.Namespace) -> int:
    from benchmarks import flood

    about, found = described("flood", arguments), []
    with console.status("…") as status:
        for each in flood.run(
            arguments.engines, arguments.target, arguments.precision, arguments.streams, arguments.seconds, status.update
        ):
            found.append(each)
            write_line(arguments.out, about | {"result": each.as_json()})
    console.print(tables.flood_table(found))
    return 0


def add_fuzz_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--minutes", type=float, default=5.0)
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", choices=PRECISIONS, default="int8")


def run_fuzz(arguments: argparse.Namespace) -> int:
    from benchmarks import fuzz

    with console.status("…") as status:
        outcome = fuzz.run(arguments.engines, arguments.target, arguments.precision, arguments.minutes, status.update)
    console.print(outcome.told)
    write_line(arguments.out, {"benchmark": "fuzz", "machine": machine.describe()} | dataclasses.asdict(outcome))
    return 0 if outcome.is_clean else 1


def add_networks_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--precision", choices=PRECISIONS, default=DEFAULT_PRECISION)


def run_networks(arguments: argparse.Namespace) -> int:
    from benchmarks import networks

    about, found = described("networks", arguments), []
    with console.status("…") as status:
        for each in networks.run(arguments.engines, arguments.precision, status.update):
            found.append(each)
            write_line(arguments.out, about | {"result": each.as_json()})
    console.print(tables.networks_table(found))
    if arguments.plot:
        from benchmarks import plots

        plots.plot_networks(found, arguments.plot)
    return 0


def add_recording_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", default=selection.detect_target(), choices=selection.TARGETS)
    command.add_argument("--precision", default=DEFAULT_PRECISION, choices=PRECISIONS)
    command.add_argument("--seconds", type=float, default=3600.0, help="of the recording")


def run_recording(arguments: argparse.Namespace) -> int:
    from benchmarks import recordings

    about = described("recording", arguments)
    with console.status("…") as status:
        found = recordings.run(arguments.engines, arguments.target, arguments.precision, arguments.seconds, status.update)
    write_line(arguments.out, about | {"result": found.as_json()})
    console.print(tables.recording_table(found))
    return 0


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
    command.add_argument("--frame-ms", type=float, nargs="+", default=[20.0])
    command.add_argument("--seconds", type=float, default=15.0, help="for each count of sessions")
    command.add_argument("--rounds", type=int, default=1, help="of which the median counts")
    command.add_argument("--before", type=Path, help="a checkout of earlier code, measured in turn with this one")
    command.add_argument("--churn", type=int, default=1000, help="sessions opened and closed; 0: none")


def run_gateway(arguments: argparse.Namespace) -> int:
    from benchmarks import gateway

    about, loads = described("gateway", arguments), []
    with console.status("…") as status:
        options = (arguments.ways, arguments.sessions, arguments.seconds, arguments.frame_ms, status.update)
        for each in gateway.run(*options, arguments.before, arguments.rounds):
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


def add_ttfs_options(command: argparse.ArgumentParser) -> None:
    add_speech_options(command)
    command.add_argument("--python", type=Path, required=True, help="Python of an environment with pipecat-ai[deepgram,openai]")
    command.add_argument("--recordings", type=int, default=20)
    command.add_argument("--turn-model", default="none", help="file of the turn model")


def run_ttfs(arguments: argparse.Namespace) -> int:
    from benchmarks import servers, ttfs

    names = [name for name in speech_sets.names_in(arguments.speech) if name in ttfs.SETS]
    clips = [clip for name in names for clip in speech_sets.load(arguments.speech, name, arguments.half)][: arguments.recordings]
    variables = {"ASR_TARGET": arguments.target, "ASR_TURN_MODEL": str(arguments.turn_model)}
    rows = []
    with servers.running_server(arguments.engines, arguments.precision, variables) as address:
        for service in ttfs.SERVICES:
            with console.status(f"{service}: {len(clips)} recordings at the speed of speech"):
                rows.append(ttfs.measure(arguments.python, address, clips, service))
    console.print(tables.ttfs_table(rows, f"time to the final segment through pipecat, {len(clips)} recordings"))
    about = {"benchmark": "ttfs", "machine": machine.describe(), "recordings": len(clips), "precision": arguments.precision}
    write_line(arguments.out, about | {"rows": [dataclasses.asdict(each) for each in rows]})
    return 0
