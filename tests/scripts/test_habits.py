"""What every commit keeps: lint, format, types, layers, spelling, and a fast part that loads no engine."""

import subprocess
import sys

import pytest

from tests.conftest import PROJECT

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "layers": ["lint-imports", "--no-cache"],
    "spelling": ["codespell", "runtime", "server", "engine_build", "moonshine_client", "benchmarks", "scripts", "docker", "docs",
                 "tests", "README.md", "CHANGELOG.md", "SECURITY.md"],
}  # fmt: skip
FAST = ("tests/server", "tests/runtime/scheduler", "tests/moonshine_client", "tests/scripts")
HEAVY = {"torch", "onnxruntime", "transformers"}
LIGHT_MODULES = (
    "server.command, server.processes.gateway, server.processes.supervisor, moonshine_client.command, benchmarks.simulation"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_check_passes(name):
    program, *arguments = CHECKS[name]
    command = f"{sys.prefix}/bin/{program}"
    done = subprocess.run([command, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def heavy_modules_after(code: str, *arguments: str) -> str:
    """Names of the modules with an engine in them that Python has loaded behind this code."""
    code = f"import sys; {code}; print('loaded', *sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_the_fast_part_loads_no_engine():
    """What scripts/test.sh --fast runs."""
    assert heavy_modules_after("import pytest; pytest.main(sys.argv[1:])", *FAST, "--collect-only", "-qq") == "loaded"
    assert all(folder in (PROJECT / "scripts" / "test.sh").read_text() for folder in FAST)


@pytest.mark.slow
def test_what_faces_clients_loads_no_engine():
    assert heavy_modules_after(f"import {LIGHT_MODULES}") == "loaded"


@pytest.mark.slow
def test_the_supervisor_loads_nothing_that_serves():
    """It waits for its processes, with a hundred megabytes less."""
    names = "{'aiortc', 'av', 'fastapi'} & set(sys.modules)"
    code = f"import sys; import server.__main__, server.processes.supervisor; print(*sorted({names}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
