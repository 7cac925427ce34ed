"""The benchmarks run, and the GPU check reports whatever happens to its stages."""

import json

import numpy as np
import pytest

from benchmarks import file_sets, gpu_check, run
from benchmarks.gpu_check import Stage
from benchmarks.listening import listen
from benchmarks.model_size import ModelSize
from runtime import manifest
from runtime.manifest import ONNXRUNTIME, TORCH


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


def test_the_report_names_machine_stages_and_what_they_said():
    outcomes = [gpu_check.Outcome("builds", True, 3.0, "fine"), gpu_check.Outcome("probe", False, 1.0, "no such capability")]
    found = {"machine": gpu_check.machine.describe(), "found": gpu_check.what_is_installed()}
    text = gpu_check.report(found, outcomes)
    assert "| builds | passed | 3 |" in text and "| probe | **failed** | 1 |" in text and "no such capability" in text
    assert found["found"]["torch"] is True


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
