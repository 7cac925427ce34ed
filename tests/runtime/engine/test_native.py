"""The engine compiled for this processor: the words of the others, and rows that nothing beside them changes by a bit."""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from engine_build import native_libraries, native_target
from engine_build.options import BuildError, Stages
from runtime import hardware
from runtime.audio import Clip, count_frames, to_float
from runtime.engine import known_clip, manifest, selection
from runtime.engine.manifest import NATIVE, NATIVE_FLAGS, NATIVE_WEIGHTS, ONNXRUNTIME, Manifest
from runtime.engine.native_clip_engine import NativeClipEngine
from runtime.engine.native_engine import shape_of
from runtime.engine.native_library import CrossAttention, NativeModel
from runtime.engine.protocol import Row
from runtime.engine.token_biases import NO_BIASES
from runtime.exceptions import EngineDirectoryError, EngineFailed
from server.stream.confidence import END_BIAS
from server.stream.transcript import common_prefix
from tests import engines, greedy
from tests.conftest import MODEL
from tests.runtime.engine import test_native_kernels as kernels

PROJECT = Path(__file__).parents[3]
LIBRARY = native_libraries.LEAST.library
SURE = np.log(0.8)
"""Of a token, as both precisions believe theirs: where one is surer than this, their best two are no near tie."""


def test_float32_gives_the_words_of_onnx_runtime(native_fp32, fp32, clips):
    for clip in clips:
        heard = Clip(clip.samples)
        assert greedy.decode(native_fp32.engine, heard).tokens == greedy.decode(fp32.engine, heard).tokens, clip.text


@pytest.mark.parametrize("precision", ["native_bf16", "native_int8"])
def test_other_precisions_give_float32s_words_but_for_near_ties(precision, request, native_fp32, clips):
    rounded, differing = request.getfixturevalue(precision), 0
    for clip in clips:
        heard, start = Clip(clip.samples), native_fp32.engine.limits.start_token
        expected, found = (greedy.decode(each.engine, heard).tokens for each in (native_fp32, rounded))
        if found == expected:
            continue
        differing += 1
        at = common_prefix(expected, found)
        native_fp32.engine.encode([0], [heard])
        best = native_fp32.engine.decode([Row(0, (start, *expected[:at]), 0, END_BIAS)])[0].log_probs[-1]
        rounded.engine.encode([0], [heard])
        second = rounded.engine.decode([Row(0, (start, *expected[:at]), 0, END_BIAS)])[0].log_probs[-1]
        assert max(best, second) < SURE, f"{clip.text}: other words, {best:.2f} and {second:.2f}"
    assert differing <= len(clips) // 5


@pytest.mark.parametrize("precision", ["native_fp32", "native_bf16", "native_int8"])
def test_rows_alone_equal_rows_in_a_batch_bit_for_bit(precision, request, clips):
    engine = request.getfixturevalue(precision).engine
    chosen = [Clip(clips[index].samples) for index in (1, 18, 0, 14, 5)]
    engine.encode(range(5), chosen)
    rows = [Row(slot, (1, *range(700 + slot, 700 + 9 * slot)), 0, END_BIAS) for slot in range(5)]
    together = engine.decode(rows)
    for slot, clip in enumerate(chosen):
        engine.encode([7], [clip])
        (alone,) = engine.decode([Row(7, rows[slot].tokens, 0, END_BIAS)])
        assert (alone.tokens == together[slot].tokens).all() and (alone.log_probs == together[slot].log_probs).all()
        one_by_one = [engine.decode([Row(7, (token,), index, END_BIAS)])[0] for index, token in enumerate(rows[slot].tokens)]
        assert [float(each.log_probs[0]) for each in one_by_one] == alone.log_probs.tolist(), "a block, or its tokens one by one"
    for slot in (*range(5), 7):
        engine.free(slot)


def test_threads_change_no_bit(native_int8, built, clips):
    threads = engines.open_native("int8", built, threads=3).engine
    clip, tokens = Clip(clips[0].samples), (1, *range(500, 530))
    answers = []
    for engine in (native_int8.engine, threads):
        engine.encode([0], [clip])
        answers.append((engine.decode([Row(0, tokens, 0)])[0].log_probs, engine.align([0], [tokens[1:]]).result()[0]))
        engine.free(0)
    threads.close()
    assert (answers[0][0] == answers[1][0]).all() and np.allclose(answers[0][1], answers[1][1], atol=1e-6)


def test_alignments_are_those_of_onnx_runtime(native_fp32, fp32, clips):
    clip = Clip(clips[0].samples)
    tokens = greedy.decode(fp32.engine, clip).tokens
    shares = []
    for opened in (native_fp32, fp32):
        opened.engine.encode([0], [clip])
        shares += opened.engine.align([0], [tokens]).result()
        opened.engine.free(0)
    assert shares[0].shape == shares[1].shape and np.abs(shares[0] - shares[1]).max() < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_no_number_in_one_slot_is_told_and_reaches_no_other(precision, built, clips):
    directory = built(precision, NATIVE)
    weights = dict(np.load(directory / NATIVE_WEIGHTS))
    found = Manifest.model_validate_json((directory / manifest.FILE_NAME).read_bytes())
    model = NativeModel(directory / LIBRARY, shape_of(found, weights), weights)
    team, samples = model.team(2), to_float(Clip(clips[18].samples))
    frames, heads = count_frames(len(samples)), found.decoder_layers * found.heads
    positions, own_positions = model.whole_blocks(frames), model.whole_blocks(found.max_positions)
    own = [np.zeros(heads * model.kept_size(own_positions), model.kept_dtype) for _ in range(3)]
    cross = [np.zeros(heads * model.kept_size(positions), model.kept_dtype) for _ in range(3)]
    for each in cross:
        model.encode(team, samples, each, positions)
    cross[1][: model.kept_size(positions)] = np.nan  # one head of the first layer: its share of what follows is an eighth

    no_lists = [(NO_BIASES.tokens, NO_BIASES.values)]

    def decode(slots: list[int]) -> np.ndarray:
        count = len(slots)
        _, log_probs = model.decode(
            team,
            np.tile([found.start_token, 700], count),
            np.full(count, 2, np.int32),
            np.zeros(count, np.int32),
            np.zeros(count, np.float32),
            [own[slot].ctypes.data for slot in slots],
            [CrossAttention(cross[slot].ctypes.data, positions, frames) for slot in slots],
            own_positions,
            np.zeros(2 * count, np.int32),
            no_lists,
        )
        return log_probs.reshape(count, 2)

    together = decode([0, 1, 2])
    assert np.isnan(together[1]).all() and (together[[0, 2]] == decode([0, 2])).all()
    with pytest.raises(EngineFailed, match="token 40000 is none"):
        model.decode(
            team,
            np.array([40_000]),
            *(np.array([number], np.int32) for number in (1, 0)),
            np.zeros(1, np.float32),
            [own[0].ctypes.data],
            [CrossAttention(cross[0].ctypes.data, positions, frames)],
            own_positions,
            np.zeros(1, np.int32),
            no_lists,
        )
    team.close()
    model.close()


@pytest.fixture
def copied(built, tmp_path: Path) -> Path:
    """An engine directory of its own, to be damaged."""
    directory = built("fp32", NATIVE)
    return Path(shutil.copytree(directory, tmp_path / directory.name))


def opened_from(directory: Path) -> None:
    selection.open_engine(selection.choose(directory.parent, MODEL, "fp32", NATIVE), max_batch=2)


@pytest.mark.parametrize("name", [LIBRARY, NATIVE_WEIGHTS])
def test_a_truncated_file_is_refused_in_one_line(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(EngineDirectoryError, match=f"{name} is missing or damaged; run: .*--target native"):
        opened_from(copied)


def test_a_library_for_another_processor_is_refused_in_one_line(copied):
    path = copied / manifest.FILE_NAME
    path.write_text(path.read_text().replace('"f16c"', '"f16c", "avx_of_tomorrow"'))
    with pytest.raises(
        EngineDirectoryError, match=r"no library for this processor, only .*avx2\.so; ASR_TARGET=onnxruntime runs"
    ):
        opened_from(copied)


def test_the_first_library_that_the_processor_can_run_is_taken(built, monkeypatch):
    found = manifest.load(built("int8", NATIVE), MODEL, NATIVE, "int8", max_batch=1)
    assert list(found.libraries) == ["engine.avx512-bf16.so", "engine.avx512-vnni.so", "engine.avx-vnni.so", "engine.avx2.so"]
    for flags, library in (
        (native_libraries.AVX512, "engine.avx512-vnni.so"),
        ((*NATIVE_FLAGS, "avx_vnni"), "engine.avx-vnni.so"),
        ((*NATIVE_FLAGS, "avx512f"), "engine.avx2.so"),
        (("avx2",), None),
    ):
        monkeypatch.setattr(hardware, "processor_flags", lambda flags=flags: frozenset(flags))
        assert selection.library_for(found.libraries) == library


def test_a_library_that_does_not_fit_its_weights_is_refused_in_one_line(copied):
    choice = selection.choose(copied.parent, MODEL, "fp32", NATIVE)
    found = selection.check(choice, max_batch=2)
    weights = dict(np.load(copied / NATIVE_WEIGHTS))
    del weights["decoder.3.out"]
    np.savez(copied / NATIVE_WEIGHTS, **weights)
    with pytest.raises(EngineDirectoryError, match=r"does not fit its weights: the weights lack decoder\.3\.out"):
        NativeClipEngine(copied, LIBRARY, found, 2)


def test_a_file_that_is_no_library_is_refused_in_one_line(copied):
    found = selection.check(selection.choose(copied.parent, MODEL, "fp32", NATIVE), max_batch=2)
    (copied / LIBRARY).write_bytes(b"no library")
    with pytest.raises(EngineDirectoryError, match="cannot be loaded"):
        NativeClipEngine(copied, LIBRARY, found, 2)


def test_without_a_compiler_the_build_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(hardware, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(
        BuildError, match=r"needs a C\+\+ compiler, which is not here; install g\+\+, or use --target onnxruntime"
    ):
        native_libraries.compile_library(tmp_path / LIBRARY, "fp32")
    with pytest.raises(BuildError, match="install g"):
        native_target.check_machine()
    monkeypatch.setenv("CXX", "no-such-compiler -v")
    with pytest.raises(BuildError, match="the compiler cannot be run: .*no-such-compiler"):
        native_libraries.compile_library(tmp_path / LIBRARY, "fp32")


def test_on_another_architecture_the_build_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(BuildError, match="is for x86-64, this is aarch64; --target onnxruntime runs anywhere"):
        native_target.check_machine()


def test_a_level_that_the_compiler_does_not_know_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "engine.cpp").write_text("int engine;\n")
    monkeypatch.setattr(native_libraries, "SOURCES", tmp_path)
    tomorrow = native_libraries.Level("tomorrow", ("-mavx-of-tomorrow",), ())
    said = Stages(Progress(console=Console(file=(lines := io.StringIO()))))
    levels = (tomorrow, native_libraries.LEAST)
    assert native_libraries.compile_libraries(tmp_path, "fp32", levels, said) == [native_libraries.LEAST]
    assert "left out tomorrow" in lines.getvalue() and "-mavx-of-tomorrow" in lines.getvalue()
    assert (tmp_path / LIBRARY).is_file() and not (tmp_path / tomorrow.library).is_file()


@pytest.fixture
def compiled(tmp_path, monkeypatch) -> Path:
    """Libraries as a wheel has them, of one level."""
    directory = tmp_path / "package"
    (directory / "float16").mkdir(parents=True)
    (directory / "float16" / LIBRARY).write_bytes(b"machine code")
    (directory / native_libraries.SUM_FILE).write_text(native_libraries.sources_sha256() + "\n")
    monkeypatch.setattr(native_libraries, "COMPILED_LIBRARIES", directory)
    monkeypatch.setenv("CXX", "no-such-compiler")
    return directory


def test_libraries_of_the_package_need_no_compiler(compiled, tmp_path):
    native_target.check_machine()
    levels, made_by = native_libraries.provide(tmp_path, "int8", Stages.silent())
    assert (levels, made_by) == ([native_libraries.LEAST], "as the package has them")
    assert (tmp_path / LIBRARY).read_bytes() == b"machine code"


def test_libraries_of_other_sources_are_not_taken(compiled, tmp_path):
    (compiled / native_libraries.SUM_FILE).write_text("of yesterday\n")
    with pytest.raises(BuildError, match="the compiler cannot be run: .*no-such-compiler"):
        native_libraries.provide(tmp_path, "int8", Stages.silent())


@pytest.mark.parametrize("level", kernels.EMULATED)
def test_the_code_for_other_processors_hears_the_known_clip(built, tmp_path, level):
    """On any processor: their instructions are emulated. How they run on a processor that has them it does not say."""
    directory = Path(shutil.copytree(built("int8", NATIVE), tmp_path / "engine"))
    kernels.compiled(
        directory / "emulated.so", native_libraries.SOURCES / "engine.cpp", *kernels.EMULATED[level], "-DMOONSHINE_HALF"
    )
    found = Manifest.model_validate_json((directory / manifest.FILE_NAME).read_bytes())
    engine = NativeClipEngine(directory, "emulated.so", found, max_batch=2)
    assert known_clip.transcribe(engine, 1) == list(found.known_tokens)
    engine.close()


def test_a_compiler_that_fails_is_quoted_with_its_first_error(tmp_path, monkeypatch):
    broken = tmp_path / "engine.cpp"
    broken.write_text("int main() { return nothing; }\n")
    monkeypatch.setattr(native_libraries, "SOURCES", tmp_path)
    with pytest.raises(
        BuildError, match=r"cannot compile the native engine: .*engine.cpp:1.*error.*nothing.*--target onnxruntime"
    ):
        native_libraries.compile_library(tmp_path / "engine.so", "fp32")


def test_a_clip_is_heard_under_the_sanitizers(built, tmp_path):
    """In a process of its own, where they must come first. int8, whose first convolution is of floats, has both products."""
    directory = Path(shutil.copytree(built("int8", NATIVE), tmp_path / "engine"))
    kernels.compiled(directory / "sanitized.so", native_libraries.SOURCES / "engine.cpp", *kernels.SANITIZERS, "-DMOONSHINE_HALF")
    script = f"""
from pathlib import Path
from runtime.engine import known_clip
from runtime.engine.manifest import Manifest
from runtime.engine.native_clip_engine import NativeClipEngine
directory = Path({str(directory)!r})
manifest = Manifest.model_validate_json((directory / "manifest.json").read_bytes())
engine = NativeClipEngine(directory, "sanitized.so", manifest, max_batch=2, threads=2)
assert known_clip.transcribe(engine, 1) == list(manifest.known_tokens)
engine.close()
"""
    assert sanitized([sys.executable, "-c", script]) == ""


def test_the_kernels_are_clean_under_the_sanitizers():
    """Their tests, once more."""
    module = str(Path(kernels.__file__).relative_to(PROJECT))
    assert (
        sanitized([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", module], **{kernels.SANITIZED: "1"})
        == ""
    )


def sanitized(command: list[str], **variables: str) -> str:
    """What went wrong; empty where nothing did."""
    preloaded = " ".join(
        subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    )
    environment = os.environ | variables | {"LD_PRELOAD": preloaded, "ASAN_OPTIONS": "detect_leaks=0"}  # Python keeps what it has
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stdout + done.stderr)[-3000:]


VNNI = (*NATIVE_FLAGS, "avx_vnni")


@pytest.mark.parametrize(
    ("flags", "compiler", "precision", "target", "reason"),
    [
        (VNNI, "true", None, NATIVE, "the fastest on this processor"),
        (NATIVE_FLAGS, "true", None, NATIVE, "the fastest on this processor"),
        (NATIVE_FLAGS, "true", "int8", NATIVE, "the fastest on this processor"),
        ((*NATIVE_FLAGS, "avx512_bf16"), "true", "bf16", NATIVE, "the fastest on this processor"),
        (VNNI, "", None, ONNXRUNTIME, r"needs a C\+\+ compiler: install g"),
        (VNNI, "true", "fp32", ONNXRUNTIME, "in fp32 the native engine is no faster on this processor"),
        (VNNI, "true", "bf16", ONNXRUNTIME, "in bf16 the native engine is no faster on this processor"),
        (NATIVE_FLAGS, "", None, ONNXRUNTIME, r"needs a C\+\+ compiler: install g"),
        (("avx2",), "true", "int8", ONNXRUNTIME, "needs a processor with avx2, fma, f16c"),
    ],
)
def test_auto_takes_native_where_it_is_the_best_and_says_why(monkeypatch, tmp_path, flags, compiler, precision, target, reason):
    a_machine_with(monkeypatch, flags, compiler)
    found, why = selection.target_to_build(precision)
    assert found == target and re.search(reason, why)
    assert selection.choose(tmp_path, MODEL, precision).target == target, "nothing is built: what would be"


@pytest.mark.parametrize(
    ("built_targets", "flags", "compiler", "target"),
    [
        ([ONNXRUNTIME], VNNI, "true", ONNXRUNTIME),
        ([ONNXRUNTIME, NATIVE], VNNI, "true", NATIVE),
        ([NATIVE], VNNI, "", NATIVE),
        ([NATIVE], NATIVE_FLAGS, "", NATIVE),
        ([NATIVE], ("avx2",), "true", ONNXRUNTIME),
    ],
)
def test_auto_serves_what_has_been_built(monkeypatch, tmp_path, built_targets, flags, compiler, target):
    a_machine_with(monkeypatch, flags, compiler)
    for each in built_targets:
        (tmp_path / manifest.directory_name(MODEL, each, "int8")).mkdir()
        (tmp_path / manifest.directory_name(MODEL, each, "int8") / manifest.FILE_NAME).touch()
    assert selection.choose(tmp_path, MODEL, None).target == target


def a_machine_with(monkeypatch, flags: tuple[str, ...], compiler: str) -> None:
    """And without a GPU."""
    monkeypatch.setattr(hardware, "find_gpu", lambda: None)
    monkeypatch.setattr(hardware, "processor_flags", lambda cpu_info=None: frozenset(flags))
    monkeypatch.setattr(hardware, "COMPILERS", ())
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(selection, "COMPILED_LIBRARIES", Path("/nowhere"))


@pytest.mark.parametrize("compiled", [True, False])
def test_libraries_of_the_package_are_as_good_as_a_compiler(monkeypatch, tmp_path, compiled):
    a_machine_with(monkeypatch, NATIVE_FLAGS, "")
    if compiled:
        monkeypatch.setattr(selection, "COMPILED_LIBRARIES", tmp_path)
    assert (selection.target_to_build(None)[0] == NATIVE) is compiled
    assert selection.wants_compiler() is not compiled
