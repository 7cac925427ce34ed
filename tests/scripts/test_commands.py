"""Every command and every piece of Python in the README and the docs: it runs as written, or it is said here why not."""

import ast
import concurrent.futures
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PAGES = (
    "README.md",
    "SECURITY.md",
    "AGENTS.md",
    "examples/README.md",
    *(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md"))),
)
PORT = 8000  # as the pages have it
NOT_HERE = {
    "git clone": "tests/scripts/test_quick_start.py clones, starts, streams and stops",
    "bash scripts/start.sh": "the same",
    "ASR_API_KEYS=": "the same script; tests/server/test_access.py has the keys",
    "bash scripts/test.sh": "what runs this test",
    "bash scripts/cluster.sh": "tests/server/ray/test_replica.py deploys on two simulated nodes",
    "bash scripts/gpu_check.sh": "needs a GPU",
    "bash docker/": "needs a Docker engine; tests/docker/ tries the scripts with a stand-in, and builds the image without one",
    "docker compose": "needs a Docker engine",
    "helm install": "needs a cluster; tests/deploy/test_chart.py renders the chart",
    "pip install": "tests/scripts/test_package.py installs the wheel",
    "moonshine-asr serve": "the same, and serves",
    "moonshine-asr bench": "takes all cores for a minute",
    "moonshine-asr transcribe talk.mp3": "tests/moonshine_client/test_command.py, with files that are here",
    "moonshine-asr listen": "needs a microphone; tests/moonshine_client/test_command.py listens to a pipe",
    "ffmpeg": "tests/server/transports/ sends by WHIP; tests/moonshine_client/test_command.py pipes",
    "curl -N http://localhost:8000/whip": "goes with a sender; tests/server/transports/ reads the events",
}
"""Beginnings of commands that this test does not run."""


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for match in re.finditer(rf"```{language}\n(.*?)```", (PROJECT / page).read_text(), re.DOTALL):
            yield page, match[1]


def commands() -> list[tuple[str, str]]:
    lines = [(page, line.partition(" #")[0].strip()) for page, block in blocks("bash") for line in block.splitlines()]
    return [(page, line) for page, line in lines if line]


def is_run(command: str) -> bool:
    return not command.startswith(tuple(NOT_HERE))


def test_every_reason_is_for_a_command_that_is_there():
    assert [start for start in NOT_HERE if not any(command.startswith(start) for _, command in commands())] == []


@pytest.mark.parametrize(("page", "code"), [pytest.param(page, code, id=page) for page, code in blocks("python")])
def test_python_in_the_pages_is_python(page, code):
    """Fragments may await; scripts are run below."""
    compile(code, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.slow
@pytest.mark.server
def test_commands_and_scripts_run_as_written(start_server):
    """Side by side, with the port of the server that is here."""
    port = start_server().address.rpartition(":")[2]
    bin_directory = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": f"{bin_directory}:{os.environ['PATH']}",
        "VENV_PATH": str(Path(bin_directory).parent),
        "ASR_SERVER": f"127.0.0.1:{port}",
        "NO_PROXY": "*",
        "no_proxy": "*",
    }
    scripts = [code for _, code in blocks("python") if "await " not in code.replace("async def", "") or "asyncio.run" in code]
    todo = [["bash", "-c", command] for _, command in commands() if is_run(command)]
    todo += [[sys.executable, "-c", code] for code in scripts if "localhost" in code and ("print(" in code)]
    assert len(todo) >= 5

    def run(command: list[str]) -> str:
        here = [part.replace(f"localhost:{PORT}", f"localhost:{port}") for part in command]
        done = subprocess.run(here, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
        return (
            ""
            if done.returncode == 0 and done.stdout.strip()
            else f"{command[-1]}\n{done.returncode}\n{done.stdout}{done.stderr}"
        )

    with concurrent.futures.ThreadPoolExecutor() as pool:
        failed = [said for said in pool.map(run, todo) if said]
    assert failed == [], "\n".join(failed)
