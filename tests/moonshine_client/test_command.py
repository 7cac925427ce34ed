"""The command moonshine-asr."""

import subprocess
import sys
import tomllib

import pytest

from moonshine_client import command
from server import command as serve_command
from server import settings
from tests.conftest import PROJECT


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
    assert serve_command.parse(arguments) == values
    _, help_text, _ = run(capsys, "serve", "--help")
    assert all(flag in help_text for flag in flags.values())


@pytest.mark.server
def test_a_flag_that_cannot_be_used_stops_serve_with_one_line():
    program = [sys.executable, "-m", "moonshine_client.command", "serve", "--asr-port", "eighty"]
    done = subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("ASR_PORT='eighty' cannot be used") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "status", "complaint"), [
    (("transcribe", "/no/such/file.wav"), 2, "/no/such/file.wav cannot be read"),
    (("transcribe", "pyproject.toml"), 2, "pyproject.toml holds no audio"),
    (("transcribe", "samples/short.wav", "--server", "127.0.0.1:1"), 1, "failed: no server at http://127.0.0.1:1/webrtc"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(arguments, status, complaint, capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    done, out, err = run(capsys, *arguments)
    assert (done, out) == (status, "") and err.startswith(complaint) and err.count("\n") == 1


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(command.ENTRIES, "serve", ("no_such_package.command", "server"))
    assert command.main(["serve"]) == 1
    assert capsys.readouterr().err == "moonshine-asr serve needs no_such_package: pip install 'moonshine-asr[server]'\n"
