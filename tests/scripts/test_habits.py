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
LIGHT_MODULES = (
    "server.command, server.cluster.gateway, server.cluster.supervisor, moonshine_client.command, benchmarks.simulation"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_check_passes(name):
    program, *arguments = CHECKS[name]
    command = f"{sys.prefix}/bin/{program}"
    done = subprocess.run([command, *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_faces_clients_loads_no_engine():
    code = f"import sys, {LIGHT_MODULES}; print(*sorted({{'torch', 'onnxruntime', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
