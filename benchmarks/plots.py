"""Results as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks import scores
from benchmarks.fleet import Simulated
from benchmarks.gateway import GatewayLoad
from benchmarks.networks import Crossed
from benchmarks.offline import Offline
from benchmarks.quality import Quality, Spread
from benchmarks.soak import Soaked
from benchmarks.speech import Heard
from benchmarks.streams import Capacity
from benchmarks.trial import FINAL_P95_MS, LATE_SHARE
from benchmarks.turn_ends import PartScore
from benchmarks.word_confidence import Bin

NONE = Spread(0.0, 0.0)  # if no word was transcribed


def plot_quality(results: Sequence[Quality], path: Path) -> None:
    """Plot the times of the words in the first result's longest recording, and the delays of words by file set."""
    figure, (along, spread) = pyplot.subplots(1, 2, figsize=(13, 5.5))
    first = results[0]
    ends = [word.end_ms / 1000 for word in first.timeline]
    along.plot(ends, ends, color="lightgrey", label="spoken")
    along.step(ends, [word.appeared_ms / 1000 for word in first.timeline], where="post", label="first in the text")
    along.step(ends, [word.stable_ms / 1000 for word in first.timeline], where="post", label="stable")
    along.set(xlabel="end of the word in the audio, s", ylabel="time, s", title=f"{first.file_set}: {first.way}")
    along.legend()
    for number, result in enumerate(results):
        colour = f"C{number}"
        for delay, marker, fill, lower in ((result.appeared_ms, "o", "full", 0.0), (result.stable_ms, "s", "none", 0.12)):
            if delay:
                ends = [delay.p50 / 1000, delay.p95 / 1000]
                spread.plot(ends, [number + lower] * 2, f"{marker}-", color=colour, fillstyle=fill)
    spread.set_yticks(np.arange(len(results)), [f"{each.file_set}\n{each.way}" for each in results], fontsize=8)
    spread.set(
        xlabel="s after the word's end: p50 to p95; filled: first seen, hollow: stable", xlim=(0, None), title="delay of words"
    )
    spread.invert_yaxis()
    save(figure, path)


def plot_offline(results: Sequence[Offline], path: Path) -> None:
    """Plot the RTFx of every recogniser that could be measured."""
    measured = sorted((each for each in results if each.rtfx), key=lambda each: each.rtfx)
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(measured) + 1.2))
    ours = ["C0" if each.name.startswith("this server") else "lightgrey" for each in measured]
    bars = axes.barh([f"{each.name}, {each.batch} at once" for each in measured], [each.rtfx for each in measured], color=ours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3)
    axes.margins(x=0.1)  # for the longest bar's label
    axes.set(xlabel="seconds of audio transcribed in a second (RTFx)", title="whole recordings")
    save(figure, path)


def plot_speech(found: Mapping[str, Sequence[Heard]], path: Path) -> None:
    """Plot for each set, or each condition if there are several: WER offline and streamed, and the p50 and p95 of word delays."""
    if len(found) == 1:
        rows = [(score.name, score) for heard in found.values() for score in scores.scores(heard)]
    else:
        rows = [(condition, scores.scores(heard)[-1]) for condition, heard in found.items()]
    figure, (rates, delays) = pyplot.subplots(1, 2, figsize=(13, 1.5 + 0.5 * len(rows)))
    names, places = [name for name, _ in rows], np.arange(len(rows))
    for offset, label, values in (
        (-0.2, "in one go", [row.offline for _, row in rows]),
        (0.2, "streamed", [row.streamed for _, row in rows]),
    ):
        reach = [[max(0.0, each.value - each.low) for each in values], [max(0.0, each.high - each.value) for each in values]]
        rates.barh(places + offset, [each.value for each in values], 0.38, xerr=reach, label=label)
    for offset, label, spreads in (
        (-0.2, "in sight", [row.appeared_ms or NONE for _, row in rows]),
        (0.2, "stable", [row.stable_ms or NONE for _, row in rows]),
    ):
        delays.barh(places + offset, [each.p95 / 1000 for each in spreads], 0.38, alpha=0.5, label=f"{label}, 95% of words")
        delays.barh(places + offset, [each.p50 / 1000 for each in spreads], 0.38, label=f"{label}, half of them")
    for axes in (rates, delays):
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.legend()
    rates.set(xlabel="WER as spoken, %; bars: 95% of the bootstrap")
    delays.set(xlabel="seconds after a word's end")
    save(figure, path)


def plot_streams(found: Sequence[Capacity], path: Path) -> None:
    """Plot every trial of every search: the lateness of updates by number of streams, and the trials that passed."""
    figure, (late, finals) = pyplot.subplots(1, 2, figsize=(13, 5))
    for number, each in enumerate(found):
        trial = each.trial
        name = f"{trial.way}, {trial.precision}, every {trial.interval_ms:g} ms" + ("" if trial.drafts else ", no drafts")
        trials = sorted(each.trials, key=lambda outcome: outcome.streams)
        counts = [outcome.streams for outcome in trials]
        shares, latencies = [100 * outcome.late_share for outcome in trials], [outcome.final_p95_ms for outcome in trials]
        late.plot(counts, shares, color=f"C{number}", label=f"{name}: {trial.streams}")
        finals.plot(counts, latencies, color=f"C{number}")
        for axes, values in ((late, shares), (finals, latencies)):
            for count, value, outcome in zip(counts, values, trials, strict=True):
                axes.plot(count, value, "x" if outcome.broken else "o", color=f"C{number}")
    late.axhline(100 * LATE_SHARE, color="grey", linestyle=":")
    finals.axhline(FINAL_P95_MS, color="grey", linestyle=":")
    late.set(xlabel="live streams", ylabel="updates more than an interval late, %", title="o passed, x failed; dotted: the rule")
    finals.set(xlabel="live streams", ylabel="p95 final latency, ms")
    late.legend(title="streams carried")
    save(figure, path)


def plot_fleet(found: Simulated, path: Path) -> None:
    """Plot the refused offers under each policy by size of the fleet, and the cost of growth."""
    figure, (placed, grown) = pyplot.subplots(1, 2, figsize=(14, 5.5))
    sizes = list(dict.fromkeys((each.replicas, each.places) for each in found.placed))
    policies = list(dict.fromkeys(each.policy for each in found.placed))
    for number, policy in enumerate(policies):
        refused = [100 * each.refused for each in found.placed if each.policy == policy]
        placed.barh(np.arange(len(sizes)) + 0.13 * (number - len(policies) / 2), refused, 0.12, label=policy)
    placed.set_yticks(np.arange(len(sizes)), [f"{replicas:,} x {places:,}" for replicas, places in sizes])
    placed.set(
        xlabel="offers refused at first, % (cut at 30), with 85% of the places taken", ylabel="replicas x places", xlim=(0, 30)
    )
    placed.invert_yaxis()
    placed.legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for number, growth in enumerate(dict.fromkeys(each.growth for each in found.grown)):
        for target, line in zip(sorted({each.target for each in found.grown}), (":", "--", "-"), strict=False):
            chosen = [each for each in found.grown if (each.growth, each.target) == (growth, target)]
            starts, lost = [each.start_seconds for each in chosen], [100 * each.lost for each in chosen]
            grown.plot(starts, lost, f"o{line}", color=f"C{number}", label=f"{growth}, {target:.0%} filled")
    grown.set(xlabel="until a new replica serves, s", ylabel="offers lost in half an hour, %", title="growth")
    grown.legend(fontsize=8)
    save(figure, path)


def plot_gateway(loads: Sequence[GatewayLoad], path: Path) -> None:
    """Plot the CPU time of a message and the handling time by number of sessions."""
    figure, (cpu, handling) = pyplot.subplots(1, 2, figsize=(11, 4))
    for way, code in sorted({(each.way, each.code) for each in loads}):
        chosen = [each for each in loads if (each.way, each.code) == (way, code)]
        sessions = [each.sessions for each in chosen]
        cpu.plot(sessions, [each.cpu_us for each in chosen], "o-", label=f"{way}, {code}")
        handling.semilogy(sessions, [each.handling_p99_ms for each in chosen], "o-", label=f"{way}, {code}, p99")
        handling.semilogy(sessions, [each.handling_p50_ms for each in chosen], "s-", label=f"{way}, {code}, p50")
    cpu.set(xlabel="sessions", ylabel="CPU of a message, us", ylim=(0, None))
    cpu.legend()
    handling.set(xlabel="sessions", ylabel="from sending to handled, ms")
    handling.legend()
    save(figure, path)


def save(figure: pyplot.Figure, path: Path) -> None:
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_reliability(bins: Sequence[Bin], path: Path) -> None:
    """Plot the share of right words by confidence; the size of a point is the number of its words."""
    figure, axes = pyplot.subplots(figsize=(5.5, 5))
    axes.plot([0, 1], [0, 1], color="lightgrey")
    most = max(each.words for each in bins)
    sizes = [20 + 300 * each.words / most for each in bins]
    axes.scatter([each.confidence for each in bins], [each.right for each in bins], s=sizes, alpha=0.8)
    axes.set(xlabel="confidence", ylabel="share of words that are right", xlim=(0, 1.03), ylim=(0, 1.03))
    save(figure, path)


def plot_turn_ends(rows: Sequence[PartScore], path: Path) -> None:
    """Plot the share of pauses within turns that are cut over the wait at ends of turns, for each part of the evidence."""
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for each in rows:
        axes.plot(*zip(*each.curve, strict=True), label=each.name)
    axes.set(
        xlim=(200, 1500), ylim=(0, 100), xlabel="mean wait at the end of a turn, ms", ylabel="pauses within turns that are cut, %"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_networks(found: Sequence[Crossed], path: Path) -> None:
    """Plot the delay of updates after their audio, as a share of all updates, for each network."""
    figure, axes = pyplot.subplots(figsize=(10, 5.5))
    for each in found:
        behind_ms = np.sort(each.update_ms)
        axes.plot(behind_ms, np.arange(1, len(behind_ms) + 1) / max(1, len(behind_ms)), label=each.network)
    axes.set(xscale="log", xlabel="update behind its audio at the client, ms", ylabel="share of updates")
    axes.set_title("live speech over bad networks")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_soak(found: Soaked, path: Path) -> None:
    """Plot memory, files and threads of all processes and the finals' latency over time."""
    figure, axes = pyplot.subplots(4, 1, figsize=(10, 9), sharex=True)
    minutes = [look.seconds / 60 for look in found.looks]
    for each, (name, label) in zip(
        axes, {"memory_mib": "MiB", "files": "open files", "threads": "threads"}.items(), strict=False
    ):
        each.plot(minutes, [getattr(look, name) for look in found.looks])
        each.set(ylabel=label, ylim=(0, None))
    began, latencies_ms = zip(*found.told.finals_ms or [(0.0, 1.0)], strict=True)
    axes[-1].plot([seconds / 60 for seconds in began], latencies_ms, ".", markersize=3)
    axes[-1].set(yscale="log", ylabel="final, ms", xlabel="minutes")
    resumed = found.told.resumed
    axes[0].set_title(
        f"{found.told.sessions} sessions, {found.kills} processes killed, {resumed.sessions} sessions went on from a lost one"
    )
    save(figure, path)
