"""Results as tables, one function for each benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

if TYPE_CHECKING:  # each benchmark imports its own packages; a table of one must not need those of all
    from benchmarks.checked_model import CheckedWay
    from benchmarks.engine import EngineRun, Measurement
    from benchmarks.fleet import Failed, Grown, Placed, Simulated
    from benchmarks.flood import Flooded, Refusing
    from benchmarks.gateway import Churn, GatewayLoad
    from benchmarks.host import LoopCost, ProcessCost
    from benchmarks.keyterms import Row
    from benchmarks.networks import Crossed
    from benchmarks.offline import Offline
    from benchmarks.quality import Quality
    from benchmarks.recordings import Recorded
    from benchmarks.roofline import Product
    from benchmarks.scores import Paired, Rate, Score
    from benchmarks.soak import Soaked, Words
    from benchmarks.speech import Heard
    from benchmarks.streams import Capacity
    from benchmarks.trial import Outcome, Trial
    from benchmarks.ttfs import ServiceTtfs
    from benchmarks.turn_ends import PartScore
    from benchmarks.updates import UpdateCost
    from benchmarks.word_confidence import Bin

COLUMNS = (
    "batch",
    "audio s",
    "encoder ms (floor)",
    "verify 32 ms",
    "step ms (floor)",
    "tokens/s",
    "transcription ms",
    "RTFx",
    "over transformers",
    "KiB in / out",
)


def engine_table(run: EngineRun, peer: EngineRun | None) -> Table:
    """Return a table with one row for each batch and length, with the ratio to the peer if it was measured on the same."""
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
    """Return the cells of COLUMNS."""
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


QUALITY_COLUMNS = (
    "set",
    "way",
    "audio s",
    "WER %",
    "offline %",
    "seen ms",
    "stable ms",
    "UPWR (as shown)",
    "violations",
    "final ms",
    "passes",
    "single steps",
    "compute",
)


def quality_table(results: Sequence[Quality], title: str) -> Table:
    """Return a table with one row for each set and way; times as p50 / p95."""
    table = make_table(title, QUALITY_COLUMNS, left=2)
    for each in results:
        table.add_row(
            each.file_set,
            each.way,
            f"{each.audio_seconds:.0f}",
            f"{each.wer:.2f}",
            optional(each.offline_wer, "{:.2f}"),
            *(optional(spread, "{0.p50:,.0f} / {0.p95:,.0f}") for spread in (each.appeared_ms, each.stable_ms)),
            f"{each.unstable_ratio:.2f} ({each.unstable_ratio_as_shown:.2f})",
            str(each.violations),
            f"{each.final_ms.p50:,.0f} / {each.final_ms.p95:,.0f}",
            optional(each.passes, "{:.1f}"),
            optional(each.single_steps, "{:.1f}"),
            optional(each.compute_share, "{:.2f}"),
        )
    return table


MODEL_COLUMNS = (
    "way",
    "windows",
    "WER whole",
    "WER streamed",
    "appeared ms",
    "stable ms",
    "final ms",
    "changed",
    "streams here",
)


def model_table(found: Sequence[CheckedWay], title: str) -> Table:
    """Return a table with one row for each way; times as p50 / p95."""
    table = make_table(title, MODEL_COLUMNS, left=2)
    for each in found:
        spreads = (each.appeared_ms, each.stable_ms, each.final_ms)
        table.add_row(
            each.way,
            each.windows,
            f"{each.wer:.2f}",
            optional(each.streamed_wer, "{:.2f}"),
            *(optional(spread, "{0.p50:,.0f} / {0.p95:,.0f}") for spread in spreads),
            str(each.violations),
            str(each.live_streams or ""),
        )
    return table


UPDATE_COLUMNS = ("model", "engine", "segment s", "new s", "encoder ms", "decoder ms", "update ms", "streams", "over Base", "MiB")


def updates_table(found: Sequence[UpdateCost]) -> Table:
    """Return a table with one row for each model and length; the ratio is to the first model's streams at the same length."""
    first = {each.segment_seconds: each for each in reversed(found) if each.model == found[0].model}
    table = make_table(f"An update, of {found[0].streams} streams together: each one's share", UPDATE_COLUMNS, left=2)
    for each in found:
        table.add_row(
            each.model,
            each.engine,
            f"{each.segment_seconds:g}",
            f"{each.new_seconds:g}",
            f"{each.encoder_ms:.1f}",
            f"{each.decoder_ms:.1f}",
            f"{each.update_ms:.1f}",
            f"{each.streams_at_one_second:.0f}",
            f"{each.streams_at_one_second / first[each.segment_seconds].streams_at_one_second:.2f}",
            f"{each.mebibytes:.1f}",
        )
    return table


SPEECH_COLUMNS = (
    "set",
    "clips",
    "words",
    "offline %",
    "streamed %",
    "difference",
    "raw %",
    "CER %",
    "right",
    "empty",
    "seen ms",
    "stable ms",
    "UPWR",
    "violations",
    "final ms",
    "retries",
    "compute",
)


def speech_table(found: Sequence[Score], title: str) -> Table:
    """Return a table with one row for each set; rates with the middle 95% of the bootstrap, times as p50 / p95."""
    table = make_table(title, SPEECH_COLUMNS, left=1)
    for each in found:
        table.add_row(
            each.name,
            str(each.clips),
            str(each.words),
            f"{each.offline.value:.2f}",
            interval(each.streamed),
            interval(each.difference),
            f"{each.raw:.1f}",
            f"{each.characters:.2f}",
            str(each.right),
            str(each.empty),
            *(optional(spread, "{0.p50:,.0f} / {0.p95:,.0f}") for spread in (each.appeared_ms, each.stable_ms)),
            f"{each.unstable_ratio:.2f}",
            str(each.violations),
            optional(each.final_ms, "{0.p50:,.0f} / {0.p95:,.0f}"),
            f"{each.retries:.2f}",
            f"{each.compute_share:.2f}",
        )
    return table


def interval(rate: Rate) -> str:
    return f"{rate.value:.2f} ({rate.low:.2f} to {rate.high:.2f})"


def false_words_table(heard: Sequence[Heard]) -> Table:
    """Return a table of the transcripts of recordings without speech; a star marks sound with voices in it."""
    from benchmarks.scores import false_words

    silent = sum(not each.reference for each in heard)
    table = make_table(f"words in {silent} recordings without speech", ("recording", "what", "heard"), left=3)
    for each in false_words(heard):
        table.add_row(each.name, each.kind, each.streamed)
    return table


def paired_table(pairs: Sequence[Paired], condition: str) -> Table:
    """Return a table of the streamed WER of two runs on the same clips."""
    columns = ("set", "clips", "words", "before %", "now %", "difference", "better", "worse")
    table = make_table(f"{condition}, against the earlier run", columns, left=1)
    for each in pairs:
        table.add_row(
            each.name,
            str(each.clips),
            str(each.words),
            f"{each.before:.2f}",
            f"{each.now:.2f}",
            interval(each.difference),
            str(each.better),
            str(each.worse),
        )
    return table


def optional(value: object, form: str) -> str:
    return "" if value is None else form.format(value)


def roofline_table(level: str, measured: Sequence[Product]) -> Table:
    """Return a table with one row for each product and type of numbers."""
    columns = ("product", "numbers", "ms", "billions a second", "of peak")
    table = make_table(f"products of the native engine, {level}, one thread", columns, left=2)
    for each in measured:
        table.add_row(each.name, each.kind, f"{each.milliseconds:.3f}", f"{each.billions_a_second:.0f}", f"{each.share:.0%}")
    return table


def offline_table(results: Sequence[Offline]) -> Table:
    """Return a table with one row for each recogniser, compared with the fastest of transformers' batch sizes."""
    table = make_table("whole recordings", ("recogniser", "at once", "seconds", "RTFx", "over transformers", "WER %"), left=1)
    fastest = max((each.rtfx for each in results if each.rtfx and each.name.startswith("transformers")), default=None)
    for each in results:
        if each.failure:
            table.add_row(each.name, "", "", "", "", f"not measured: {each.failure}")
            continue
        ratio = f"{each.rtfx / fastest:.1f} x" if fastest else ""
        table.add_row(each.name, str(each.batch), f"{each.seconds:.2f}", f"{each.rtfx:,.0f}", ratio, f"{each.wer:.2f}")
    return table


def streams_table(found: Sequence[Capacity]) -> Table:
    """Return a table with one row for each search: the number of streams that passed, and the first rule broken with one more."""
    columns = (
        "way",
        "precision",
        "drafts",
        "interval ms",
        "streams",
        "late updates",
        "update ms p50 / p95",
        "final ms p50 / p95",
        "backlog s",
        "WER % (alone)",
        "with one more",
    )
    table = make_table("live streams under the strict rule", columns, left=2)
    for each in found:
        trial, passed = each.trial, each.confirmed
        figures = [""] * 5
        if passed is not None:
            figures = [
                f"{passed.late_share:.2%}",
                f"{passed.update_p50_ms:,.0f} / {passed.update_p95_ms:,.0f}",
                f"{passed.final_p50_ms:,.0f} / {passed.final_p95_ms:,.0f}",
                f"{passed.backlog_seconds:.1f}",
                f"{passed.wer:.2f} ({passed.reference_wer:.2f})",
            ]
        way = trial.way + (f", {trial.workers} gateways" if trial.workers > 1 else "")
        table.add_row(
            way,
            trial.precision,
            "yes" if trial.drafts else "no",
            f"{trial.interval_ms:g}",
            str(trial.streams),
            *figures,
            "; ".join(each.one_more.broken) if each.one_more else "",
        )
    return table


def trials_table(found: Sequence[tuple[Trial, Outcome]]) -> Table:
    columns = (
        "engine",
        "batches to",
        "interval ms",
        "streams",
        "updates/s",
        "late updates",
        "update ms p50 / p95",
        "final ms p50 / p95",
        "backlog s",
        "WER % (alone)",
        "steps",
        "engine's cores",
        "not held",
    )
    table = make_table("live streams at fixed counts", columns, left=1)
    for trial, done in found:
        table.add_row(
            f"{trial.target} {trial.precision}",
            str(trial.max_batch),
            f"{trial.interval_ms:g}",
            str(trial.streams),
            f"{done.updates / done.seconds:,.0f}",
            f"{done.late_share:.2%}",
            f"{done.update_p50_ms:,.0f} / {done.update_p95_ms:,.0f}",
            f"{done.final_p50_ms:,.0f} / {done.final_p95_ms:,.0f}",
            f"{done.backlog_seconds:.1f}",
            f"{done.wer:.2f} ({done.reference_wer:.2f})",
            f"{done.steps_share:.0%}",
            f"{done.engine_cores:g}",
            "; ".join(done.broken) or "nothing",
        )
    return table


def host_table(costs: Sequence[LoopCost]) -> Table:
    columns = ("batch", "us an update", "of it: audio", "passes", "answers", "deciding and answering")
    table = make_table("the engine loop in front of a device of no time", columns, left=0)
    for each in costs:
        parts = (each.encode_us_per_update, each.launch_us_per_update, each.answer_us_per_update)
        rest = each.engine_loop_us_per_update - sum(parts)
        table.add_row(str(each.batch), *(f"{us:.0f}" for us in (each.engine_loop_us_per_update, *parts, rest)))
    return table


def process_table(costs: Sequence[ProcessCost]) -> Table:
    columns = ("batch", "device", "code", "updates/s", "us an update: engine process", "gateway")
    table = make_table("an engine process that gateways keep busy", columns, left=3)
    for each in costs:
        figures = (each.updates_per_second, each.engine_process_us, each.gateway_us)
        table.add_row(str(each.batch), each.device, each.code, *(f"{figure:,.0f}" for figure in figures))
    return table


def soak_table(found: Soaked) -> Table:
    from benchmarks import soak

    told = found.told
    finals_ms = [latency_ms for _, latency_ms in told.finals_ms] or [0.0]
    table = make_table(f"{found.minutes:g} minutes, {found.kills} kills", ("figure", "value"), left=1)
    for name, value in (
        ("sessions that met no loss", words_of(told.undisturbed)),
        ("sessions that went on from a lost one", words_of(told.resumed)),
        ("sessions that failed", ", ".join(f"{count} {reason}" for reason, count in told.failed.items()) or "none"),
        ("final, ms: p50 / p95", f"{np.median(finals_ms):.0f} / {np.percentile(finals_ms, 95):.0f}"),
        ("an engine process killed, s until ready", ", ".join(map(str, found.recovery_seconds)) or "not measured"),
        ("tracebacks in the log", str(found.tracebacks)),
        *((f"{name}: second quarter / last quarter", f"{early:g} / {late:g}") for name, early, late in soak.growth(found.looks)),
    ):
        table.add_row(name, value)
    return table


def words_of(words: Words) -> str:
    per_thousand = 1000 / max(1, words.words)
    kinds = " / ".join(f"{count * per_thousand:.1f}" for count in (words.missing, words.added, words.changed))
    return (
        f"{words.exact} of {words.sessions} exact; of 1000 words missing / added / changed: {kinds}; "
        f"unheard {words.uncovered_seconds:.2f} s"
    )


def flood_table(found: Sequence[Flooded | Refusing]) -> Table:
    from benchmarks.flood import Flooded, Refusing

    refusing = next(each for each in found if isinstance(each, Refusing))
    beside = [each for each in found if isinstance(each, Flooded)]
    cost = f"{refusing.cpu_us:g} us of CPU, {refusing.memory_bytes:g} bytes kept"
    title = f"live speech beside attackers; a request without a key: {cost}"
    columns = ("attacker", "update p95 ms", "final p95 ms", "over none", "streams failed", "/healthz ms", "MiB grown")
    table = make_table(title, columns, left=1)
    alone = [each for each in beside if each.attack.startswith("none")]
    update_ms, final_ms = (np.mean([getattr(each, name) for each in alone]) for name in ("update_p95_ms", "final_p95_ms"))
    for each in beside:
        table.add_row(
            each.attack,
            f"{each.update_p95_ms:g}",
            f"{each.final_p95_ms:g}",
            f"{each.update_p95_ms / update_ms - 1:+.0%} / {each.final_p95_ms / final_ms - 1:+.0%}",
            str(each.failed),
            f"{each.health_ms:g}",
            f"{each.memory_mib:+.0f}",
        )
    return table


def networks_table(found: Sequence[Crossed]) -> Table:
    columns = (
        "network",
        "streams",
        "went on",
        "failed",
        "words: missing / added / changed of",
        "audio unheard s",
        "longest silence s",
        "update behind its audio, ms: p50 / p95",
    )
    table = make_table("live speech over bad networks", columns, left=1)
    for each in found:
        behind_ms = each.update_ms or [0.0]
        table.add_row(
            each.network,
            str(each.streams),
            str(each.went_on),
            ", ".join(each.failed) or "0",
            f"{each.missing} / {each.added} / {each.changed} of {each.words}",
            f"{each.uncovered_seconds:.2f}",
            f"{each.silent_seconds:.1f}",
            f"{np.median(behind_ms):.0f} / {np.percentile(behind_ms, 95):.0f}",
        )
    return table


def recording_table(found: Recorded) -> Table:
    table = make_table("a recording over REST", ("figure", "value"), left=1)
    for name, value in (
        ("audio, s", f"{found.audio_seconds:g}"),
        ("times real time: REST / the engine alone", f"{found.rtfx:g} / {found.engine_rtfx:g} ({found.share:.0%})"),
        (
            "MiB before / in the 1st, 4th, 7th and 10th tenth",
            " / ".join(f"{mib:.0f}" for mib in (found.memory_before_mib, *found.memory_tenths_mib[::3])),
        ),
        ("live update, median ms: alone / beside it", f"{found.alone.interim_ms:g} / {found.beside.interim_ms:g}"),
        ("live final, median ms: alone / beside it", f"{found.alone.final_ms:g} / {found.beside.final_ms:g}"),
    ):
        table.add_row(name, value)
    return table


def placed_table(found: Sequence[Placed]) -> Table:
    """Return a table with one row for each policy, one column for each size of the fleet."""
    sizes = list(dict.fromkeys((each.replicas, each.places) for each in found))
    columns = ("offers go to", *(f"{replicas:,} x {places:,}" for replicas, places in sizes))
    table = make_table("refused at first / and at a second try / time over 95% full, %", columns, left=1)
    for policy in dict.fromkeys(each.policy for each in found):
        shares = [f"{each.refused:.1%} / {each.lost:.2%} / {each.overloaded:.0%}" for each in found if each.policy == policy]
        table.add_row(policy, *(share.replace("%", "") for share in shares))
    return table


def grown_table(found: Sequence[Grown]) -> Table:
    starts = list(dict.fromkeys(each.start_seconds for each in found))
    columns = ("sessions grow to", "places filled", *(f"a new one after {seconds:g} s" for seconds in starts))
    table = make_table("offers lost in half an hour of growth, %", columns, left=1)
    for growth, target in dict.fromkeys((each.growth, each.target) for each in found):
        lost = [each.lost for each in found if (each.growth, each.target) == (growth, target)]
        table.add_row(growth, f"{target:.0%}", *(f"{share:.1%}" if share else "0" for share in lost))
    return table


def failed_table(found: Sequence[Failed]) -> Table:
    loads = list(dict.fromkeys(each.load for each in found))
    table = make_table(
        "a replica dies: sessions that wait, %, and for how long at most",
        ("replicas x places", *(f"{load:.0%} taken" for load in loads)),
        left=1,
    )
    for replicas, places in dict.fromkeys((each.replicas, each.places) for each in found):
        chosen = [each for each in found if (each.replicas, each.places) == (replicas, places)]
        table.add_row(
            f"{replicas} x {places}", *(f"{each.waited:.0%}, {each.seconds:.0f} s" if each.waited else "0" for each in chosen)
        )
    return table


def waits(each: Failed) -> str:
    return f"{each.waited:.0%}, {each.seconds:.0f} s" if each.waited else "0"


def fleet_tables(found: Simulated) -> list[Table]:
    return [placed_table(found.placed), grown_table(found.grown), failed_table(found.failed)]


def as_markdown(table: Table) -> str:
    """Convert a table of plain cells."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    head, *rows = (f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))
    return "\n".join([head, "|---" * len(columns) + "|", *rows]) + "\n"


def gateway_table(loads: Sequence[GatewayLoad]) -> Table:
    columns = (
        "way",
        "code",
        "sessions",
        "frame ms",
        "CPU us / message",
        "CPU ms / s of a session",
        "share of a core",
        "handling ms p50 / p99",
        "sender behind ms",
        "KiB / idle session",
        "lost",
    )
    table = make_table("the gateway on one core, without an engine", columns, left=2)
    for each in loads:
        table.add_row(
            each.way,
            each.code,
            str(each.sessions),
            f"{each.frame_ms:g}",
            f"{each.cpu_us:.0f}",
            f"{each.session_ms:.2f}",
            f"{each.core_share:.2f}",
            f"{each.handling_p50_ms:g} / {each.handling_p99_ms:g}",
            f"{each.sender_behind_ms:.0f}",
            f"{each.memory_kib:.0f}",
            str(each.messages_lost),
        )
    return table


def churn_table(churn: Churn) -> Table:
    table = make_table("sessions opened and closed", ("sessions", "MiB before", "MiB after", "growth", "ms to open one"))
    table.add_row(
        str(churn.sessions),
        f"{churn.memory_before_mib:.1f}",
        f"{churn.memory_after_mib:.1f}",
        f"{churn.growth:.1%}",
        f"{churn.connect_ms:.0f}",
    )
    return table


def comparison_table(changes: Iterable[tuple[str, float, float]]) -> Table:
    """Return a table of the figures that two runs have in common, with name, earlier and later value."""
    table = make_table("against the earlier run", ("figure", "before", "now", "ratio"), left=1)
    for name, before, now in changes:
        table.add_row(name, f"{before:,.4g}", f"{now:,.4g}", f"{now / before:.2f}" if before else "")
    return table


def reliability_table(bins: Sequence[Bin], title: str) -> Table:
    table = make_table(title, ("words", "mean confidence", "right"))
    for each in bins:
        table.add_row(f"{each.words:,}", f"{each.confidence:.2f}", f"{each.right:.2f}")
    return table


KEYTERM_COLUMNS = ("terms", "said", "of these wrong, %", "WER, %", "errors in other words, %", "words without speech")


def keyterms_table(rows: Sequence[Row], title: str) -> Table:
    """Return a table of rates with the middle 95% of the bootstrap over clips."""
    table = make_table(title, KEYTERM_COLUMNS, left=1)
    for each in rows:
        rates = map(interval, (each.wrong, each.errors, each.other_errors))
        table.add_row(each.terms, str(each.said), *rates, str(each.false_words))
    return table


def turn_ends_table(rows: Sequence[PartScore], title: str) -> Table:
    """Return a table of the cost of each part of the evidence, with the middle 95% of the bootstrap over clips."""
    columns = ("evidence", "cut with 300 ms of waiting, %", "waiting with 5% cut, ms", "cut at 0.7, %", "waiting at 0.7, ms")
    table = make_table(title, columns, left=1)
    for each in rows:
        shown = (
            interval(each.cut_at_target),
            interval(each.latency_at_target),
            f"{each.cut_usual:.1f}",
            f"{each.latency_usual:,}",
        )
        table.add_row(each.name, *shown)
    return table


def ttfs_table(rows: Sequence[ServiceTtfs], title: str) -> Table:
    table = make_table(title, ("service", "finals", "p50, ms", "p95, ms"), left=1)
    for each in rows:
        table.add_row(each.service, f"{each.finals} of {each.recordings}", f"{each.p50_ms:.0f}", f"{each.p95_ms:.0f}")
    return table


def make_table(title: str, columns: Sequence[str], left: int = 0) -> Table:
    """Make an empty table. left: number of text columns."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table
