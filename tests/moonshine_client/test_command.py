"""The command moonshine-asr."""

import subprocess
import sys
import tomllib

import pytest

from moonshine_client import command
from server import command as serve_command
from server import settings
from tests.conftest import PROJECT


def run(*arguments: str) -> subprocess.CompletedProcess:
    program = [sys.executable, "-m", "moonshine_client.command", *arguments]
    return subprocess.run(program, cwd=PROJECT, capture_output=True, text=True, timeout=60)


def test_the_version_is_the_packages():
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert run("--version").stdout == f"moonshine-asr {version}\n"


def test_every_variable_is_a_flag_of_serve():
    flags = {name: serve_command.flag_of(name) for name in settings.variable_names()}
    values = {name: str(number) for number, name in enumerate(flags)}
    arguments = [word for name, flag in flags.items() for word in (flag, values[name])]
    assert serve_command.parse(arguments) == values
    help_text = run("serve", "--help").stdout
    assert all(flag in help_text for flag in flags.values())


def test_a_flag_that_cannot_be_used_stops_serve_with_one_line():
    done = run("serve", "--asr-port", "eighty")
    assert done.returncode == 2 and done.stderr.startswith("ASR_PORT='eighty' cannot be used") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "status", "complaint"), [
    (("transcribe", "/no/such/file.wav"), 2, "/no/such/file.wav cannot be read"),
    (("transcribe", "pyproject.toml"), 2, "pyproject.toml holds no audio"),
    (("transcribe", "samples/short.wav", "--server", "127.0.0.1:1"), 1, "failed: no server at http://127.0.0.1:1/webrtc"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(arguments, status, complaint):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "") and done.stderr.startswith(complaint)
    assert done.stderr.count("\n") == 1


def test_a_missing_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(command.ENTRIES, "serve", ("no_such_package.command", "server"))
    assert command.main(["serve"]) == 1
    assert capsys.readouterr().err == "moonshine-asr serve needs no_such_package: pip install 'moonshine-asr[server]'\n"
