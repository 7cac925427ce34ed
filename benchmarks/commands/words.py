"""Commands that measure words: their error rates, their delays, and the detected ends of turns."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, speech_sets, tables
from benchmarks.commands.common import (
    DEFAULT_PRECISION,
    PRECISIONS,
    add_speech_options,
    console,
    described,
    write_line,
)
from benchmarks.file_sets import FILE_SETS
from engine_build.checkpoint import DEFAULT_MODEL
from runtime.audio import SAMPLE_RATE
from runtime.engine import selection
from runtime.engine.protocol import Engine
from runtime.tokenizer import Tokenizer
from server.settings import SessionLimits

if TYPE_CHECKING:
    from benchmarks.quality import Quality
    from benchmarks.speech import Way


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
    """Measure real recordings unchanged, then in harder conditions."""
    from benchmarks import comparison, scores, speech
    from benchmarks.speech import Way

    way = Way(arguments.engines, arguments.target, arguments.precision, arguments.interval_ms, arguments.compute == "counted")
    about = described("speech", arguments)
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


def run_joined(arguments: argparse.Namespace, way: Way, about: dict, clips: Sequence[speech_sets.Clip]) -> int:
    """Measure one recording of all clips with speech, and one of all clips without."""
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
    """Measure one file set in every requested way."""
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


def run_keyterms(arguments: argparse.Namespace) -> int:
    from benchmarks import keyterms

    choice = selection.choose(arguments.engines, DEFAULT_MODEL, arguments.precision, arguments.target)
    engine, words, _ = selection.open_engine(choice, max_batch=8)
    names = [name for name in speech_sets.names_in(arguments.speech) if name not in speech_sets.TUNED_ON]
    clips = [clip for name in names for clip in speech_sets.load(arguments.speech, name, arguments.half)]
    with console.status("…") as status:
        found = list(keyterms.measure(engine, words, clips, keyterms.vocabulary_of(choice.directory), status.update))
    console.print(tables.keyterms_table(found, f"{len(clips)} recordings, {engine.name}"))
    about = described("keyterms", arguments)
    write_line(arguments.out, about | {"rows": [dataclasses.asdict(each) for each in found]})
    return 0


def add_turn_ends_options(command: argparse.ArgumentParser) -> None:
    add_speech_options(command)
    command.add_argument("--turn-model", type=Path, help="file of the turn model; the default is the installed one, if any")
    command.add_argument("--fit", action="store_true", help="print weights for server/stream/turn_end.py")


def run_turn_ends(arguments: argparse.Namespace) -> int:
    from benchmarks import turn_ends
    from runtime.turns import weights
    from runtime.turns.turn_model import TurnModel

    choice = selection.choose(arguments.engines, DEFAULT_MODEL, arguments.precision, arguments.target)
    engine, words, _ = selection.open_engine(choice, max_batch=8)
    names = [name for name in speech_sets.names_in(arguments.speech) if arguments.fit or name not in speech_sets.TUNED_ON]
    clips = [clip for name in names for clip in speech_sets.load(arguments.speech, name, arguments.half)]
    path = arguments.turn_model or weights.installed(weights.default_directory())
    with console.status(f"{len(clips)} recordings"):
        found = list(turn_ends.measure(engine, words, None if path is None else TurnModel(path), clips))
    if arguments.fit:
        console.print(turn_ends.fitted(found))
    ends = sum(each.seconds is None for each in found)
    rows = turn_ends.scores(found)
    title = f"{len(found) - ends} pauses of 0.2 s or more within turns, {ends} ends, {engine.name}"
    console.print(tables.turn_ends_table(rows, title))
    if arguments.plot is not None:
        from benchmarks import plots

        plots.plot_turn_ends(rows, arguments.plot)
    about = described("turn-ends", arguments)
    shown = [dataclasses.asdict(each) | {"curve": each.curve[::20]} for each in rows]
    write_line(arguments.out, about | {"pauses": len(found) - ends, "ends": ends, "rows": shown})
    return 0
