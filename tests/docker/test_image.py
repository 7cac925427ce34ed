"""The image, built from Debian's packages without Docker, and speech through it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.servers import free_port
from tests.conftest import PROJECT
from tests.scripts.test_quick_start import strangers_environment

MOST_OVER_BASE_MB = 600
TOOLS = ("buildah", "debootstrap")


@pytest.mark.image
@pytest.mark.slow
@pytest.mark.server
@pytest.mark.skipif(os.geteuid() != 0 or not all(map(shutil.which, TOOLS)), reason="needs root, buildah and debootstrap")
def test_the_image_is_built_and_transcribes_by_rest_and_webrtc_also_read_only_and_as_a_stranger():
    environment = strangers_environment(ASR_PORT=str(free_port()), VENV_PATH=str(Path(sys.executable).parent.parent))
    command = ["bash", "scripts/check_image.sh", "cpu"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    whole, base = map(int, re.search(r"built in \d+ s: (\d+) MB, of them (\d+) MB the base image", done.stderr).groups())
    assert whole - base <= MOST_OVER_BASE_MB
    assert len(re.findall(r"^(REST|WebRTC):.* try again", done.stdout, re.MULTILINE)) == 4, "both ways, as two users"
