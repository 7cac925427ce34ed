"""The benchmarks run, and the GPU check reports whatever happens to its stages."""

import json

import pytest

from benchmarks import gpu_check, run
from benchmarks.gpu_check import Stage
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
