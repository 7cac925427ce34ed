"""/llms.txt: what programs that write programs read. Its commands run as they stand."""

import re
import shutil
import subprocess

import httpx
import pytest

from tests.server.web.browsing import SHORT


@pytest.fixture(scope="module")
def guide(served) -> str:
    response = httpx.get(f"http://{served.address}/llms.txt", trust_env=False)
    assert response.headers["content-type"].startswith("text/plain")
    return response.text


def test_every_command_runs_against_the_server_that_was_asked(guide, served, tmp_path):
    shutil.copy(SHORT, tmp_path / "recording.wav")
    commands = re.findall(r"^    (curl .*)$", guide, re.MULTILINE)
    assert len(commands) >= 6 and all(served.address in command for command in commands)
    for command in commands:
        done = subprocess.run(["bash", "-c", f"{command} --fail --noproxy '*'"], cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 0 and done.stdout, command


def test_every_address_is_there(guide, served):
    addresses = set(re.findall(rf"http://{served.address}(/[\w./-]*)", guide))
    for path in addresses - {"/v1/audio/transcriptions", "/v1/listen", "/v1"}:
        assert httpx.get(f"http://{served.address}{path}", trust_env=False).status_code == 200, path
