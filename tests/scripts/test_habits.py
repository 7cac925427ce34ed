"""What every commit keeps: lint, format, types, layers, spelling, and a fast part that loads no engine."""

import ast
import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.conftest import PROJECT

CHECKS = {
    "ruff": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "layers": ["lint-imports", "--no-cache"],
    "spelling": [
        "codespell",
        "runtime",
        "server",
        "engine_build",
        "moonshine_client",
        "benchmarks",
        "scripts",
        "docker",
        "docs",
        "tests",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ],
}
FAST = ("tests/server", "tests/runtime/scheduler", "tests/moonshine_client", "tests/scripts")
HEAVY = {"torch", "onnxruntime", "transformers"}
LIGHT_MODULES = (
    "server.command",
    "server.processes.gateway",
    "server.processes.supervisor",
    "moonshine_client.command",
    "benchmarks.harness.simulation",
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
    assert heavy_modules_after(f"import {', '.join(LIGHT_MODULES)}") == "loaded"


@pytest.mark.slow
def test_the_supervisor_loads_nothing_that_serves():
    """It waits for its processes, with a hundred megabytes less."""
    names = "{'aiortc', 'av', 'fastapi'} & set(sys.modules)"
    code = f"import sys; import server.__main__, server.processes.supervisor; print(*sorted({names}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


PACKAGES = ("runtime", "server", "engine_build", "moonshine_client")
NO_BEGINNINGS = frozenset(
    [
        "about",
        "after",
        "although",
        "among",
        "and",
        "are",
        "as",
        "at",
        "because",
        "before",
        "behind",
        "between",
        "but",
        "by",
        "can",
        "did",
        "do",
        "does",
        "for",
        "from",
        "has",
        "have",
        "how",
        "if",
        "in",
        "into",
        "is",
        "may",
        "must",
        "nor",
        "not",
        "of",
        "on",
        "or",
        "over",
        "since",
        "so",
        "than",
        "that",
        "to",
        "under",
        "until",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "within",
        "without",
    ]
)
"""A docstring that begins like this is no plain sentence and names nothing."""
APIS = {
    "deepgram": ("deepgram",),
    "wyoming": ("wyoming",),
    "whip": ("whip",),
    "openai": ("openai", "realtime"),
    "jambonz": ("jambonz",),
    "vapi": ("vapi",),
    "vosk": ("vosk",),
    "twilio": ("twilio",),
    "audiosocket": ("audiosocket",),
}
NAMES_APIS = (
    "server/app.py",
    "server/settings.py",
    "server/telemetry/metrics.py",
    "server/http/openapi.py",
    "server/apis/session_names.py",
)


def modules() -> list[tuple[str, ast.Module]]:
    paths = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    return [(str(path.relative_to(PROJECT)), ast.parse(path.read_text())) for path in paths]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_every_docstring_is_a_plain_sentence_or_names_a_thing():
    wrong = []
    for path, module in modules():
        for node in filter(is_text, ast.walk(module)):
            first = re.match(r"[A-Za-z]+", node.value.value.strip())
            if first and first[0].lower() in NO_BEGINNINGS:
                wrong.append(f"{path}:{node.lineno}: {node.value.value.strip()[:60]}")
    assert not wrong, "\n".join(wrong)


def test_no_class_is_defined_twice():
    classes = [(node.name, path) for path, module in modules() for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    counts = Counter(name for name, _ in classes)
    assert not [(name, path) for name, path in classes if counts[name] > 1]


def test_no_function_has_more_than_fifty_lines_and_no_class_more_than_three_hundred():
    long = []
    for path, module in modules():
        for node in ast.walk(module):
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(node, ast.ClassDef) or is_function:
                lines = node.end_lineno - node.lineno + 1
                if lines > (50 if is_function else 300):
                    long.append(f"{path}: {node.name} has {lines} lines")
    assert not long, "\n".join(long)


@pytest.mark.parametrize("api", APIS)
def test_an_api_is_named_in_its_own_folder_and_where_all_are(api):
    found = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "server").rglob("*.py")
        if any(name in path.read_text().lower() for name in APIS[api])
    }
    assert {path for path in found if not path.startswith(f"server/apis/{api}/")} <= set(NAMES_APIS)


def test_the_formatter_decides_everywhere():
    files = subprocess.run(
        ["git", "grep", "-lE", r"#\s*fmt: ?(skip|off)", "--", "*.py"], cwd=PROJECT, capture_output=True, text=True
    )
    assert files.stdout.split() == []
