"""The command moonshine-asr."""

import json
import subprocess
import sys
import tomllib
import wave

import numpy as np
import pytest
import srt
import webvtt

from benchmarks.harness.accuracy import word_error_rate
from moonshine_client import command
from server import command as serve_command
from server import settings
from tests.conftest import PROJECT, RunningServer, Speech


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of the command."""
    try:
        status = command.main(list(arguments))
    except SystemExit as exit:
        status = exit.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_version_is_the_packages(capsys):
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert run(capsys, "--version") == (0, f"moonshine-asr {version}\n", "")


def test_every_variable_is_a_flag_of_serve(capsys):
    flags = {name: serve_command.flag_of(name) for name in settings.variable_names()}
    values = {name: str(number) for number, name in enumerate(flags)}
    arguments = [word for name, flag in flags.items() for word in (flag, values[name])]
    assert vars(serve_command.parse(arguments)) == values | {"open": False, "build_only": False}
    short = vars(serve_command.parse(["--model", "mine", "--host", "::1", "--port", "9000", "--precision", "fp32"]))
    assert [short[name] for name in ("MOONSHINE_MODEL_ID", "ASR_HOST", "ASR_PORT", "MOONSHINE_PRECISION")] == [
        "mine",
        "::1",
        "9000",
        "fp32",
    ]
    _, help_text, _ = run(capsys, "serve", "--help")
    assert all(flag in help_text for flag in flags.values())


@pytest.mark.server
def test_a_flag_that_cannot_be_used_stops_serve_with_one_line():
    program = [sys.executable, "-m", "moonshine_client.command", "serve", "--asr-port", "eighty"]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("ASR_PORT='eighty' cannot be used") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("transcribe", "/no/such/file.wav"), 2, "/no/such/file.wav: no such file"),
        (("transcribe", "samples"), 2, "samples: a directory, not a file"),
        (("transcribe", "LICENSE"), 2, "LICENSE: not an audio file"),
        (
            ("transcribe", "samples/short.wav", "--live", "--server", "127.0.0.1:1"),
            1,
            "no server answers at 127.0.0.1:1: start one",
        ),
        (("transcribe", "samples/short.wav", "--server", "127.0.0.1:1"), 1, "no server answers at 127.0.0.1:1: start one"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, status, complaint, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    done, out, err = run(capsys, *arguments)
    assert (done, out) == (status, "") and err.startswith(complaint) and err.count("\n") == 1
    assert "Errno" not in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("transcibe", "talk.wav"), "has no command 'transcibe'; did you mean transcribe?"),
        (("transcribe", "talk.wav", "--formt", "srt"), "there is no --formt; did you mean --format?"),
        (("transcribe", "talk.wav", "--format", "docx"), "choose from txt, srt, vtt, json, jsonl"),
        (("transcribe", "one.wav", "two.wav", "--format", "srt"), "give -o DIRECTORY"),
        (("serve", "--asr-prot", "80"), "there is no --asr-prot; did you mean --asr-port?"),
        (("cluster", "--replica", "2"), "there is no --replica; did you mean --replicas?"),
    ],
)
def test_what_was_meant_is_said_in_place_of_the_usage(capsys, arguments, complaint):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "") and complaint in err and err.count("\n") == 2


@pytest.mark.parametrize("name", command.SUBCOMMANDS)
def test_every_command_has_help_with_examples(capsys, name):
    assert f"{name} " in run(capsys, "help")[1]
    status, text, _ = run(capsys, "help", name)
    assert status == 0 and f"usage: moonshine-asr {name}" in text and "examples:\n  " in text


@pytest.mark.slow
def test_bash_completes_commands_flags_and_choices(capsys):
    _, script, _ = run(capsys, "completion", "bash")
    completed = {
        ("moonshine-asr", "trans"): "transcribe",
        ("moonshine-asr", "transcribe", "--form"): "--format",
        ("moonshine-asr", "transcribe", "--format", "s"): "srt",
        ("moonshine-asr", "serve", "--asr-max-s"): "--asr-max-sessions",
    }
    for words, expected in completed.items():
        asked = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_moonshine_asr; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True)
        assert expected in done.stdout.split(), (words, done.stderr)
    assert run(capsys, "completion", "zsh")[1].startswith("#compdef moonshine-asr")


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(command.SUBCOMMANDS, "serve", command.Subcommand("no_such_package.command", "", "server"))
    assert command.main(["serve"]) == 1
    assert capsys.readouterr().err == "moonshine-asr serve needs no_such_package: install the package with its extra [server]\n"


# With a server


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime")


def command_of(server: RunningServer, *arguments: str, sound: bytes = b"") -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "moonshine_client.command", *arguments, "--server", server.address]
    return subprocess.run(program, cwd=PROJECT, input=sound, capture_output=True, timeout=60)


READ = {
    "txt": lambda text: text.strip(),
    "srt": lambda text: " ".join(cue.content for cue in srt.parse(text)),
    "vtt": lambda text: " ".join(cue.text for cue in webvtt.from_string(text).captions),
    "json": lambda text: json.loads(text)["text"],
    "jsonl": lambda text: " ".join(json.loads(line)["text"] for line in text.splitlines()),
}


@pytest.mark.slow
@pytest.mark.parametrize("wanted", READ)
def test_files_and_live_speech_give_the_text_in_every_format(served, recordings: dict[str, Speech], wanted):
    for live in ([], ["--rtf", "0"]):
        done = command_of(served, "transcribe", "samples/short.wav", *live, "--format", wanted)
        assert done.returncode == 0, done.stderr
        assert word_error_rate([recordings["short"].text], [READ[wanted](done.stdout.decode())]) <= 10


@pytest.mark.slow
def test_a_pipe_gives_the_text(served, recordings: dict[str, Speech]):
    sound, pcm = (PROJECT / "samples" / "short.wav").read_bytes(), recordings["short"].samples.tobytes()
    ways = {
        "file": command_of(served, "transcribe", "-", sound=sound),
        "live, of a file": command_of(served, "transcribe", "-", "--rtf", "0", sound=sound),
        "live": command_of(served, "listen", "-", sound=pcm),
        "live, with half a sample": command_of(served, "listen", "-", sound=pcm + b"x"),
    }
    for way, done in ways.items():
        assert done.returncode == 0, (way, done.stderr)
        assert word_error_rate([recordings["short"].text], [done.stdout.decode()]) <= 10, way


@pytest.mark.slow
def test_channels_are_told_apart_in_files_live_and_in_pipes(served, recordings: dict[str, Speech], tmp_path):
    first = recordings["short"].samples
    both, call = np.stack([np.zeros_like(first), first], axis=1).tobytes(), tmp_path / "call.wav"
    with wave.open(str(call), "wb") as file:
        file.setparams((2, 2, 16_000, 0, "NONE", ""))
        file.writeframes(both)
    ways = {
        "file": command_of(served, "transcribe", "--channels", str(call)),
        "live": command_of(served, "transcribe", "--channels", "--rtf", "0", str(call)),
        "pipe": command_of(served, "listen", "--channels", "2", "-", sound=both),
    }
    for way, done in ways.items():
        assert done.returncode == 0, (way, done.stderr)
        lines = done.stdout.decode().splitlines()
        assert all(line.startswith("Channel 2: ") for line in lines), way
        text = " ".join(line.removeprefix("Channel 2: ") for line in lines)
        assert word_error_rate([recordings["short"].text], [text]) <= 10, way
    assert command_of(served, "listen", "--channels", "2").returncode == 2


@pytest.mark.slow
def test_a_file_that_is_none_keeps_no_other_back(served):
    done = command_of(served, "transcribe", "/no/such.wav", "samples/short.wav", "pyproject.toml")
    assert done.returncode == 2 and len(done.stdout.decode().split()) > 5 and done.stderr.count(b"\n") == 2


@pytest.mark.slow
def test_each_input_gets_a_file_of_its_own_whatever_its_name(served, tmp_path, recordings):
    sound = (PROJECT / "samples" / "short.wav").read_bytes()
    (tmp_path / "again").mkdir()
    names = [tmp_path / "talk.wav", tmp_path / "again" / "talk.wav", tmp_path / "\udcff.wav"]
    for name in names:
        name.write_bytes(sound)
    done = command_of(served, "transcribe", *map(str, names), "--format", "srt", "-o", str(tmp_path / "out"))
    assert done.returncode == 0 and done.stdout == b"", done.stderr
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == ["talk-1.srt", "talk.srt", "\udcff.srt"]
    for path in written:
        assert word_error_rate([recordings["short"].text], [READ["srt"](path.read_text())]) <= 10


@pytest.mark.slow
def test_a_server_that_needs_a_key_says_how_to_give_it(start_server):
    locked = start_server(ASR_API_KEYS="sk-0123456789abcdef")
    refused = command_of(locked, "transcribe", "samples/short.wav")
    assert refused.returncode == 1 and refused.stderr.startswith(b"the server needs an API key: give --api-key KEY")
    assert command_of(locked, "transcribe", "samples/short.wav", "--api-key", "sk-0123456789abcdef").returncode == 0


@pytest.mark.slow
def test_what_the_server_cannot_decode_is_the_files_fault(served):
    done = command_of(served, "transcribe", "-", sound=b"no sound at all")
    assert (done.returncode, done.stdout) == (2, b"") and done.stderr.startswith(b"-: ") and b"decoded" in done.stderr
