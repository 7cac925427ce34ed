"""Commands that measure engines and the code around them: no server runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from benchmarks import machine, tables
from benchmarks.commands.common import DEFAULT_PRECISION, PRECISIONS, console, described, settings_of, write_line
from engine_build.checkpoint import DEFAULT_MODEL
from runtime import hardware
from runtime.engine import selection

PROCESS_SECONDS = 5.0  # of each round


def add_engine_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--target", action="append", choices=selection.TARGETS, help="which engines; default: what there is")
    command.add_argument("--precision", default=DEFAULT_PRECISION, choices=PRECISIONS)
    command.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32] if hardware.find_gpu() else [1, 8])
    command.add_argument("--seconds", type=float, nargs="+", default=[2.0, 5.0, 10.0, 20.0], help="lengths of audio")
    command.add_argument("--peer", choices=("yes", "no", "only"), default="yes", help="transformers beside the engines")


def run_engine(arguments: argparse.Namespace) -> int:
    from benchmarks import engine

    usual = [selection.TENSORRT, selection.TORCH] if hardware.find_gpu() else [selection.ONNXRUNTIME]
    targets = [] if arguments.peer == "only" else arguments.target or usual
    about, runs = described("engine", arguments), []
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


def add_offline_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--targets", "--target", nargs="+", default=[selection.detect_target()], choices=selection.TARGETS)
    command.add_argument("--precisions", nargs="+", default=[DEFAULT_PRECISION, "int8"], choices=PRECISIONS)
    command.add_argument(
        "--batches", type=int, nargs="+", default=[32] if hardware.find_gpu() else [8, 32], help="MAX_BATCH_SIZE"
    )
    command.add_argument("--peers", action="store_true", help="other recognisers from PyPI, in environments below .peers")


def run_offline(arguments: argparse.Namespace) -> int:
    from benchmarks import offline

    about, results = described("offline", arguments), []
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


def add_host_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the engine whose words it borrows")
    command.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256])
    command.add_argument("--interval-ms", type=float, nargs="+", default=[1120.0, 250.0])
    command.add_argument("--counts", type=int, nargs="*", default=[100, 200, 300, 400, 600, 800, 1200, 1600, 2400])
    command.add_argument("--before", type=Path, help="a checkout of earlier code, whose engine process is measured in turn")
    command.add_argument("--rounds", type=int, default=5, help="of engine processes; their medians count")
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


def run_host(arguments: argparse.Namespace) -> int:
    from benchmarks import host

    about = {"benchmark": "host", "machine": machine.describe(), "settings": settings_of(arguments), "device": "modelled"}
    costs = []
    for batch in arguments.batches:
        costs.append(host.engine_loop_cost(batch, *((10, 3) if arguments.quick else ())))
        write_line(arguments.out, about | {"result": dataclasses.asdict(costs[-1])})
    console.print(tables.host_table(costs))
    device, of_processes = dataclasses.replace(host.H100, **arguments.costs), []
    options = (arguments.batches[:1], 2.0) if arguments.quick else (arguments.batches, PROCESS_SECONDS)
    for each in host.process_costs(*options, device, arguments.before, 1 if arguments.quick else arguments.rounds):
        of_processes.append(each)
        write_line(arguments.out, about | {"result": dataclasses.asdict(each)})
    console.print(tables.process_table(of_processes))
    counts, seconds = (arguments.counts[:1], 8.0) if arguments.quick else (arguments.counts, arguments.seconds)
    found = []
    for interval_ms in arguments.interval_ms[: 1 if arguments.quick else None]:
        settings = host.trial_of(
            arguments.engines, arguments.precision, interval_ms, arguments.workers, arguments.max_batch, seconds
        )
        for trial, outcome in host.try_streams(settings, counts, device):
            found.append((trial, outcome))
            write_line(arguments.out, about | {"trial": dataclasses.asdict(trial), "outcome": dataclasses.asdict(outcome)})
    console.print(tables.trials_table(found), "The device is modelled, and its words mean nothing.")
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

    about, found = described("updates", arguments), []
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
