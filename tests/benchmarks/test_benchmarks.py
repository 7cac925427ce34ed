"""The benchmarks run, and the GPU check reports whatever happens to its stages."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import comparison, file_sets, gateway, gpu_check, host, offline, run, soak, streams
from benchmarks.commands.common import write_line
from benchmarks.gpu_check import Stage
from benchmarks.harness import accuracy
from benchmarks.listening import listen
from benchmarks.model_size import ModelSize
from benchmarks.streams import Capacity
from benchmarks.trial import WER_WORDS, Outcome, Trial, judge, pooled, recordings_of
from runtime import hardware
from runtime.engine import manifest
from runtime.engine.manifest import ONNXRUNTIME, TORCH


def test_the_engine_benchmark_measures_and_compares(built, tmp_path, capsys):
    directory, out = built("fp32"), tmp_path / "results" / "engine.jsonl"
    (tmp_path / directory.name).symlink_to(directory)
    options = ["--precision", "fp32", "--batches", "1", "--seconds", "2", "--engines", str(tmp_path), "--out", str(out)]
    assert run.main(["engine", "--target", TORCH, "--target", ONNXRUNTIME, *options]) == 0
    results = [json.loads(line) for line in out.read_text().splitlines()]
    missing, engine, peer = (result["run"] for result in results)
    assert "no engine in" in missing["failure"], "and the others were measured all the same"
    assert engine["measurements"][0]["rtfx"] > 0 and peer["engine"] == "transformers generate" and peer["measurements"]
    assert all(result["machine"]["cores"] and result["machine"]["versions"]["onnxruntime"] for result in results)
    assert "over transformers" in capsys.readouterr().out


def test_the_floor_is_made_of_operations_or_bytes_whichever_takes_longer(built):
    found = manifest.Manifest.model_validate_json((built("fp32") / manifest.FILE_NAME).read_bytes())
    size = ModelSize.of(found)
    by_bytes, by_operations = size.step_floor_ms(1, 400, 1e15, 1e9), size.step_floor_ms(1, 400, 1e9, 1e15)
    weights = 4 * (8 * 18 * 416**2 + 32_768 * 416)
    assert by_bytes == pytest.approx((weights + 4 * 8 * 2 * 432 * 416) / 1e9 * 1000)
    assert by_operations == pytest.approx(2 * (weights / 4 + 8 * 2 * 432 * 416) / 1e9 * 1000)


def test_every_stage_has_an_outcome_and_none_outlasts_its_limit():
    now, limits = [0.0], {}

    def run_stage(stage: Stage, limit_seconds: float) -> tuple[bool, str]:
        limits[stage.name] = limit_seconds
        now[0] += {"quick": 1.0, "hangs": limit_seconds, "fails": 2.0, "last": 5.0}[stage.name]
        return stage.name == "quick", f"{stage.name} said"

    stages = [Stage(name, (), limit) for name, limit in (("quick", 60), ("hangs", 40), ("fails", 30), ("last", 300))]
    outcomes = gpu_check.run_stages(stages, 60.0, lambda: now[0], run_stage)
    assert [each.passed for each in outcomes] == [True, False, False, False]
    assert limits == {"quick": 60, "hangs": 40, "fails": 19, "last": 17}, "the smaller of its own and what is left"
    now[0] = 0.0
    late = gpu_check.run_stages([Stage("hangs", (), 99), Stage("late", (), 9)], 60.0, lambda: now[0], run_stage)
    assert late[1].said == "not begun: 60 s were up" and not late[1].passed


def test_a_stage_that_hangs_or_cannot_start_is_reported():
    passed, said = gpu_check.run_process(Stage("hangs", ("sh", "-c", "echo begun; sleep 30"), 1), 0.5)
    assert not passed and "begun" in said and "stopped at its limit" in said
    passed, said = gpu_check.run_process(Stage("missing", ("/no/such/program",), 1), 1)
    assert not passed and "could not be started" in said


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("GPU_REHEARSAL"), reason="takes minutes: GPU_REHEARSAL=1 before gpu_check.sh is run anywhere"
)
@pytest.mark.skipif(hardware.find_gpu() is not None, reason="there is a GPU, so this is no rehearsal")
def test_the_check_of_a_gpu_is_rehearsed_on_the_cpu(built, tmp_path, capfd):
    """Every stage at its smallest: only the driver is missing, and named."""
    engines = built("fp32", TORCH).parent
    assert gpu_check.main([str(tmp_path), "--engines", str(engines), "--smoke"]) == 1
    found = json.loads((tmp_path / "gpu_check.json").read_text())["stages"]
    said = {each["name"]: each["said"] for each in found}
    assert [each["name"] for each in found if not each["passed"]] == ["the GPU"], said
    assert "nvidia-smi could not be started" in said["the GPU"]
    kinds = [json.loads(line)["benchmark"] for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert set(kinds) == {"streams", "engine"}


def test_the_report_names_machine_stages_and_what_they_said():
    outcomes = [gpu_check.Outcome("builds", True, 3.0, "fine"), gpu_check.Outcome("probe", False, 1.0, "no such capability")]
    found = {"machine": gpu_check.machine.describe()}
    text = gpu_check.report(found, outcomes)
    assert "| builds | passed | 3 |" in text and "| probe | **failed** | 1 |" in text and "no such capability" in text


def test_requirements_are_named_where_they_are_missing(monkeypatch, capsys):
    assert gpu_check.check_requirements() == 0 and "missing: nothing" in capsys.readouterr().out
    monkeypatch.setattr(gpu_check, "NEEDED", (*gpu_check.NEEDED, "no_such_package", "no_such.part"))
    assert gpu_check.check_requirements() == 1
    assert "missing: no_such_package, no_such.part" in capsys.readouterr().out


def test_a_stage_is_ended_with_all_that_it_started(tmp_path):
    """Also with what began a session of its own."""
    script = f"setsid sleep 100 & echo $! > {tmp_path}/pid; sleep 100"
    passed, said = gpu_check.run_process(Stage("hangs", ("sh", "-c", script), 1), 1.0)
    assert not passed and "stopped at its limit" in said
    status = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/status")
    assert not status.exists() or "Z (zombie)" in status.read_text()


@given(st.lists(st.sampled_from("abcd"), max_size=9), st.lists(st.sampled_from("abcd"), min_size=1, max_size=9))
def test_errors_are_counted_as_jiwer_counts_them(heard, said):
    found = jiwer.process_words(" ".join(said), " ".join(heard))
    assert accuracy.edits(said, heard) == found.substitutions + found.deletions + found.insertions


@pytest.mark.slow
def test_streams_in_processes_are_heard_by_one_engine_process(built):
    directory = built("fp32").parent
    trial = Trial("processes", 2, 8.0, 1000.0, str(directory), ONNXRUNTIME, "fp32", workers=2)
    done = streams.run_in_fresh_process(trial, {each.name: each.text for each in recordings_of("")})
    assert done.errors == [] and done.utterances >= 2 and done.updates >= 6 and done.engine_cores > 0 and done.steps_share > 0


@pytest.mark.parametrize("batch", [4, 64])
def test_the_engine_loop_is_measured_in_front_of_a_modelled_device(batch):
    cost = host.engine_loop_cost(batch, rounds=3, repeats=1)
    parts = cost.encode_us_per_update, cost.launch_us_per_update, cost.answer_us_per_update
    assert min(parts) > 0 and sum(parts) < cost.engine_loop_us_per_update


def test_an_engine_process_is_measured_behind_a_gateway_that_keeps_it_busy():
    found = host.run_engine_process(host.PROJECT, batch=4, seconds=0.5, costs=host.H100)
    assert sorted(found) == ["engine_process_us", "gateway_us", "updates_per_second"] and min(found.values()) > 0


def test_the_quality_benchmark_streams_measures_and_draws(built, tmp_path, capsys, monkeypatch):
    built("fp32")
    short = next(each for each in file_sets.sample_recordings() if each.name == "short")
    monkeypatch.setitem(file_sets.FILE_SETS, "samples", lambda seconds: [short])
    out, plot = tmp_path / "quality.jsonl", tmp_path / "quality.png"
    options = ["--target", ONNXRUNTIME, "--sets", "samples", "--webrtc-sets", "samples", "--compute", "not counted"]
    assert run.main(["quality", *options, "--precision", "fp32", "--out", str(out), "--plot", str(plot)]) == 0
    in_process, over_webrtc = json.loads(out.read_text())["results"]
    assert in_process["way"] == "computing not counted" and over_webrtc["way"] == "WebRTC"
    assert in_process["wer"] == in_process["offline_wer"] == over_webrtc["wer"] == 0
    assert in_process["violations"] == over_webrtc["violations"] == 0
    assert 0 < in_process["appeared_ms"]["p50"] < in_process["stable_ms"]["p50"] and over_webrtc["stable_ms"]["p50"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "UPWR" in capsys.readouterr().out


def test_the_roofline_holds_every_product_against_the_units(tmp_path, capsys):
    out = tmp_path / "roofline.jsonl"
    assert run.main(["roofline", "--out", str(out)]) == 0
    results = [json.loads(line)["result"] for line in out.read_text().splitlines()]
    assert {each["kind"] for each in results} == {"float32", "bfloat16", "int8"}
    assert all(each["milliseconds"] > 0 and each["peak_billions_a_second"] > 0 for each in results)
    assert "of peak" in capsys.readouterr().out


def test_the_offline_benchmark_measures_compares_and_draws(built, tmp_path, capsys, monkeypatch):
    """With an earlier run beside it; a peer that cannot be installed is named, not fatal."""
    built("fp32")
    recordings = file_sets.clips_one_by_one()[:2]
    monkeypatch.setattr(offline, "corpus", lambda: recordings)
    monkeypatch.setattr(offline, "REPEATS", 1)
    monkeypatch.setattr(offline, "TRANSFORMERS_REPEATS", 1)
    monkeypatch.setattr(offline, "TRANSFORMERS_BATCHES", (2,))
    monkeypatch.setattr(offline, "PEERS", (offline.Peer("nobody", ("no-such-package-anywhere",), "moonshine_cpp_peer.py"),))
    monkeypatch.setattr(offline, "PEER_ENVIRONMENTS", tmp_path / "peers")
    earlier, out, plot = tmp_path / "earlier.jsonl", tmp_path / "now.jsonl", tmp_path / "offline.png"
    options = ["offline", "--target", ONNXRUNTIME, "--precisions", "fp32", "--batches", "2"]
    assert run.main([*options, "--out", str(earlier)]) == 0
    assert run.main([*options, "--peers", "--out", str(out), "--plot", str(plot), "--compare", str(earlier)]) == 0
    ours, peer, nobody, *missing = (json.loads(line)["result"] for line in out.read_text().splitlines())
    assert ours["rtfx"] > 0 and peer["rtfx"] > 0 and ours["wer"] <= peer["wer"] + 5
    assert nobody["failure"] and nobody["rtfx"] is None and all(each["failure"] for each in missing)
    printed = capsys.readouterr().out
    assert "over transformers" in printed and "against the earlier run" in printed and "not measured" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("way", ["in process", "WebRTC"])
def test_a_trial_streams_real_audio_in_a_process_of_its_own(way, built):
    directory = built("fp32").parent
    trial = Trial(way, 2, 9.0, 500.0, str(directory), ONNXRUNTIME, "fp32", drafts=way == "WebRTC")
    done = streams.run_in_fresh_process(trial, {each.name: each.text for each in recordings_of("")})
    assert done.streams == 2 and done.errors == [] and done.utterances >= 2 and done.updates >= 8
    assert done.final_p95_ms > 0 and done.update_p95_ms > 0 and done.steps_share > 0
    assert not any("streams failed" in said for said in done.broken)


def test_the_streams_benchmark_searches_tells_the_rule_and_draws(built, tmp_path, capsys, monkeypatch):
    built("fp32")
    monkeypatch.setattr(streams, "references_of", lambda trial: {})
    monkeypatch.setattr(
        streams,
        "run_in_fresh_process",
        lambda trial, references: outcome(
            trial.streams, broken=[] if trial.streams <= 4 + trial.drafts else ["backlog reached 4.0 s"]
        ),
    )
    out, plot = tmp_path / "streams.jsonl", tmp_path / "streams.png"
    options = ["--precisions", "fp32", "--target", ONNXRUNTIME, "--start", "4", "--step", "2"]
    assert run.main(["streams", *options, "--out", str(out), "--plot", str(plot), "--compare", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["result"]["trial"]["way"], line["result"]["trial"]["drafts"]) for line in lines] == [
        ("in process", True),
        ("WebRTC", True),
        ("in process", False),
    ]
    assert [line["result"]["trial"]["streams"] for line in lines] == [5, 5, 4]
    assert all("at most 0.1% of updates" in line["rule"] and line["machine"]["cores"] for line in lines)
    printed = capsys.readouterr().out
    assert "at most 0.1% of updates" in printed and "4 streams, 40 s: passed" in printed and "s: backlog reached" in printed
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_figures_of_two_runs_meet_under_the_same_name(tmp_path):
    earlier, later = tmp_path / "earlier.jsonl", tmp_path / "later.jsonl"
    for path, factor in ((earlier, 1), (later, 2)):
        for precision, carried in (("fp32", 5), ("int8", 9)):
            trial = Trial("in process", carried * factor, 40.0, 1000.0, "", "", precision)
            found = Capacity(trial, outcome(carried, final_p95_ms=300.0 * factor), outcome(carried + 1, final_p95_ms=9000.0), [])
            write_line(path, {"benchmark": "streams", "machine": {"cores": 2}, "result": dataclasses.asdict(found)})
    changes = {name: (before, now) for name, before, now in comparison.compare(earlier, later)}
    assert changes["streams, in process, 1000, int8, 1, 1: streams"] == (9, 18)
    (final,) = (change for name, change in changes.items() if "fp32" in name and name.endswith("confirmed: final_p95_ms"))
    assert final == (300, 600), "of the trial that passed, not of the one that failed"


@pytest.mark.parametrize("carried", [0, 1, 5, 8, 9, 13])
def test_the_search_finds_what_is_carried_and_confirms_it(carried):
    tried = []

    def try_streams(asked: Trial) -> Outcome:
        tried.append((asked.streams, asked.seconds))
        return outcome(asked.streams, broken=[] if asked.streams <= carried else ["too many"])

    settings = Trial("in process", 0, 40.0, 1000.0, "", "", "")
    found = streams.search(settings, start=8, step=4, long_seconds=120.0, run=try_streams, progress=lambda line: None)
    assert found.trial.streams == carried
    assert carried == 0 or (carried, 120.0) in tried, "confirmed by a long trial"
    assert found.one_more.streams == carried + 1 and found.one_more.broken


def test_a_long_trial_that_fails_takes_a_stream_away():
    def try_streams(asked: Trial) -> Outcome:
        return outcome(asked.streams, broken=[] if asked.streams <= (6 if asked.seconds > 100 else 8) else ["too many"])

    settings = Trial("in process", 0, 40.0, 1000.0, "", "", "")
    found = streams.search(settings, start=8, step=4, long_seconds=120.0, run=try_streams, progress=lambda line: None)
    assert (found.trial.streams, found.one_more.streams) == (6, 7)


def outcome(count: int, **changed) -> Outcome:
    whole = Outcome(count, 40.0, 10, 400, 0.0, 100.0, 200.0, 150.0, 300.0, 1.0, 0.9, 5.0, WER_WORDS, 5.0, 5.0, [], 0.5)
    return dataclasses.replace(whole, **changed)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"late_share": 0.001}, None),
        ({"late_share": 0.0011}, "0.11% of updates"),
        ({"final_p95_ms": 1001.0}, "p95 final latency was 1,001 ms"),
        ({"backlog_seconds": 3.1}, "backlog reached 3.1 s"),
        ({"wer": 5.11}, "WER was 5.11%, of one stream alone 5.00%"),
        ({"wer": 5.11, "words": WER_WORDS - 1}, None),
        ({"wer": 4.0}, None),
        ({"updates": 0}, "no update was seen"),
        ({"errors": ["TimeoutError: no answer"]}, "1 streams failed: TimeoutError: no answer"),
    ],
)
def test_every_part_of_the_rule_is_judged(changed, said):
    broken = judge(outcome(4, **changed))
    assert broken == [] if said is None else len(broken) == 1 and broken[0].startswith(said)


def test_word_error_rates_are_judged_over_all_trials_of_as_many_streams():
    half = WER_WORDS // 2
    worse, better = outcome(4, words=half, wer=5.3), outcome(4, words=half, wer=4.8)
    assert not worse.broken and not pooled([worse, better]).broken
    assert pooled([worse, better]).wer == pytest.approx(5.05)
    assert "WER was 5.30%" in pooled([worse, worse]).broken[0]


def test_a_search_goes_on_until_there_are_words_enough():
    tried = []

    def try_streams(asked: Trial) -> Outcome:
        tried.append(asked)
        return outcome(asked.streams, words=WER_WORDS // 4, broken=[] if asked.streams <= 2 else ["too many"])

    streams.search(Trial("in process", 0, 40.0, 1000.0, "", "", ""), 2, 1, 120.0, try_streams, lambda line: None)
    assert sum(each.streams == 2 for each in tried) == 4


def test_the_gateway_benchmark_counts_every_message(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gateway, "TORN_DOWN_SECONDS", 1.0)
    out, plot = tmp_path / "gateway.jsonl", tmp_path / "gateway.png"
    options = ["--sessions", "3", "--seconds", "1", "--churn", "10", "--out", str(out), "--plot", str(plot)]
    assert run.main(["gateway", *options]) == 0
    *loads, churned = (json.loads(line) for line in out.read_text().splitlines())
    assert [load["result"]["way"] for load in loads] == ["data channel", "websocket"]
    for load in loads:
        assert load["result"]["messages"] == 3 * 50 and load["result"]["messages_lost"] == 0
        assert load["result"]["cpu_us"] > 0 and load["result"]["memory_kib"] > 0
    assert churned["churn"]["memory_after_mib"] > 0 and "CPU us / message" in capsys.readouterr().out


def message(text: str, stable: int = 0) -> dict:
    return {"op": "interim", "text": text, "stable": stable}


def test_what_a_listener_saw_is_measured_word_by_word():
    words = [{"w": word, "start_ms": 0, "end_ms": end} for word, end in (("The", 300), ("cat", 600), ("sat.", 900))]
    final = {"op": "final", "text": "The cat sat.", "stable": 12, "words": words}
    heard = listen(
        [(0.5, message("The hat")), (1.0, message("The cat,", 3)), (1.5, message("The cat sat", 3)), (2.0, final)], 1.6
    )
    assert [word.appeared_ms for word in heard.words] == [500, 1000, 1500]
    assert [word.stable_ms for word in heard.words] == [1000, 2000, 2000]
    assert (heard.unstable_words, heard.unstable_as_shown) == (1, 3), "hat; and with punctuation also cat, and sat"
    assert heard.violations == 0 and heard.final_latency_ms == pytest.approx(400)


def test_text_that_changes_what_was_stable_is_a_violation():
    words = [{"w": "cat", "start_ms": 0, "end_ms": 300}]
    final = {"op": "final", "text": "cat", "stable": 3, "words": words}
    for broken in ([(0.1, message("hat", 3))], [(0.1, message("cat", 3)), (0.2, message("cat", 2))]):
        assert listen([*broken, (1.0, final)], 0.5).violations == 1


def test_joined_recordings_hold_every_clip_between_pauses():
    (recording,) = file_sets.joined_over_background(60.0)
    assert 40 <= len(recording.samples) / 16_000 <= 60 and len(recording.alone) >= 5
    assert recording.text == " ".join(piece.text for piece in recording.alone)
    speech = np.concatenate([piece.samples for piece in recording.alone]).astype(float)
    quiet_power = (recording.samples.astype(float) ** 2).sum() - (speech**2).sum()
    quiet_power /= len(recording.samples) - len(speech)
    assert 10 * np.log10((speech**2).mean() / quiet_power) == pytest.approx(15, abs=1)


def test_a_soak_looks_at_all_processes_and_tells_growth_from_noise():
    program = "print('here', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"here\n", "before its program is loaded it has no memory of its own"
        assert child.pid in soak.children_of(os.getpid()) and soak.age_seconds(child.pid) < 60
        alone, both = (soak.look_at(pids, 1.0) for pids in ([os.getpid()], [os.getpid(), child.pid]))
        assert 0 < alone.files < both.files and alone.memory_mib < both.memory_mib and soak.look_at([2**22 + 1], 1.0).files == 0
    finally:
        child.communicate(b"\n")
    looks = [soak.Look(float(number), 100.0 + (50 if number < 2 else 0), 10 + number // 6, 4) for number in range(12)]
    assert list(soak.growth(looks)) == [("memory_mib", 100.0, 100.0), ("files", 10.0, 11.0), ("threads", 4.0, 4.0)]
