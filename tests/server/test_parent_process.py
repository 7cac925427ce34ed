"""A process ends with its parent, whatever it is doing."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.server.ray.test_child_server import until


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_a_program_that_loses_exceptions_ends_with_its_parent():
    """As an import does where one comes within a callback."""
    child = "import time\nprint('up', flush=True)\nwhile True:\n    try: time.sleep(60)\n    except KeyboardInterrupt: pass"
    parent = f"""
        import functools, os, subprocess, sys
        from server.parent_process import end_with
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE,
                                 preexec_fn=functools.partial(end_with, os.getpid()))
        child.stdout.readline()
        print(child.pid)
    """
    pid = run(parent)
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_once_sigint_is_handled_it_comes_instead_and_only_where_anything_does():
    parent = """
        import os
        from server.parent_process import death_signal, end_undrained, end_with
        end_undrained()
        before = death_signal()
        end_with(os.getppid())
        at_first = death_signal()
        end_undrained()
        print(before, at_first, death_signal())
    """
    assert run(parent) == f"0 {signal.SIGTERM.value} {signal.SIGINT.value}"
