"""Alarms, dashboard and compose file: run by a real Prometheus where there is one."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from benchmarks.servers import free_port
from moonshine_client.client import transcribe
from scripts import make_dashboard
from server import settings
from server.errors import Code
from server.telemetry.metrics import Metrics
from tests.conftest import PROJECT, RunningServer

DOCKER = PROJECT / "docker"
ALARMS = PROJECT / "docs" / "alerts.md"
SCRAPE_SECONDS = 1
LONGEST_WAIT_SECONDS = 30.0
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is not there")


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def rules() -> list[dict]:
    return [rule for group in load(DOCKER / "alerts.yaml")["groups"] for rule in group["rules"]]


def test_the_page_of_alarms_has_each_rule_as_it_is_and_says_what_it_means():
    text = ALARMS.read_text()
    rows = {cells[1]: cells for line in text.splitlines() if (cells := cells_of(line)) and len(cells) == 4}
    assert {f"`{rule['alert']}`" for rule in rules()} == {name for name in rows if name.startswith("`")}
    for rule in rules():
        alarm, _, expression, hold = rows[f"`{rule['alert']}`"]
        assert expression == f"`{rule['expr']}`" and hold == rule.get("for", "at once").replace("m", " min")
        assert f"**{alarm[0].upper()}{alarm[1:]}.**" in text


def cells_of(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_what_an_alarm_counts_is_there_before_it_happens():
    """A counter that appears with its first event has not increased."""
    shown = Metrics().render().decode()
    for rule in rules():
        for metric, reasons in re.findall(r'(asr_\w+)\{reason=~?"([^"]+)"\}', rule["expr"]):
            for reason in reasons.split("|"):
                assert reason in set(Code)
                assert re.search(rf'{metric}\{{[^}}]*reason="{reason}"[^}}]*\}} 0\.0', shown), f"{metric} {reason}"


@needs_prometheus
@pytest.mark.parametrize(
    "command",
    [["check", "config", DOCKER / "prometheus.yaml"], ["test", "rules", PROJECT / "tests" / "docker" / "alerts_test.yaml"]],
    ids=["config", "rules"],
)
def test_prometheus_takes_the_configuration_and_the_alarms_go_off_when_they_should(command):
    done = subprocess.run(["promtool", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_is_tried():
    tried = (PROJECT / "tests" / "docker" / "alerts_test.yaml").read_text()
    assert all(f'alertname="{rule["alert"]}"' in tried for rule in rules())


def test_the_dashboard_is_what_its_script_makes():
    assert make_dashboard.TARGET.read_text() == make_dashboard.text(), "python scripts/make_dashboard.py"


def test_the_dashboard_s_panels_lie_side_by_side():
    taken = set()
    for panel in json.loads(make_dashboard.text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and all(x < 24 for x, _ in cells)
        taken |= cells


def test_the_compose_file_names_what_is_there_and_gives_a_drain_its_time():
    for name in ("compose.yaml", "compose.gpu.yaml"):
        for service in load(DOCKER / name)["services"].values():
            for volume in service.get("volumes", []):
                assert not volume.startswith(".") or (DOCKER / volume.partition(":")[0]).is_file(), volume
    server = load(DOCKER / "compose.yaml")["services"]["server"]
    ours = {name: value for name, value in server["environment"].items() if name != "CUDA_CACHE_PATH"}
    assert set(ours) <= set(settings.variable_names())
    listening = settings.load(ours).listen
    assert int(server["stop_grace_period"].removesuffix("s")) > listening.drain_seconds + listening.shutdown_timeout_seconds
    targets = load(DOCKER / "prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"127.0.0.1:{listening.admin_port}"]


# The queries, against the server's own text


@pytest.fixture(scope="module")
def watched(start_server) -> tuple[RunningServer, str]:
    """And where Prometheus asks."""
    port = free_port()
    return start_server(ASR_ADMIN_PORT=str(port), ASR_TARGET="onnxruntime"), f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def prometheus(watched, tmp_path_factory) -> Iterator[str]:
    """Its address; it asks the server every second."""
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    configuration = load(DOCKER / "prometheus.yaml")
    configuration["global"] = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [watched[1]]}]
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    shutil.copy(DOCKER / "alerts.yaml", directory)
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={directory}/prometheus.yaml",
            f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    until(lambda: asked(address, "asr_ready"))
    yield address
    process.terminate()
    process.wait()


def until(holds: Callable[[], object]) -> None:
    """Other processes offer nothing to wait on."""
    deadline = time.monotonic() + LONGEST_WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(SCRAPE_SECONDS / 4)


def asked(address: str, query: str) -> list[float]:
    """The query's values now; none where Prometheus is not there yet."""
    try:
        answer = httpx.get(f"{address}/api/v1/query", params={"query": query}, trust_env=False)
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    told = answer.json()
    assert told["status"] == "success", told
    return [float(sample["value"][1]) for sample in told["data"]["result"]]


def speak_and_be_counted(server: RunningServer, prometheus: str, audio: np.ndarray, count: int) -> float:
    """The latency of the final that is then the count-th, as its client was told it, in milliseconds."""
    final = asyncio.run(transcribe(server.address, audio)).final
    until(lambda: asked(prometheus, 'sum (asr_messages_sent_total{op="final"})') == [count])
    return final["latency_ms"]


@needs_prometheus
@pytest.mark.server
@pytest.mark.engine
def test_every_query_of_the_dashboard_and_the_alarms_finds_the_server(watched, prometheus, recordings):
    told = [speak_and_be_counted(watched[0], prometheus, recordings["short"].samples, count) for count in (1, 2)]
    for panel in json.loads(make_dashboard.text())["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"].replace("$instance", ".*").replace("$__rate_interval", "1m")
            found = asked(prometheus, query)
            assert found or "DCGM" in query, f"{panel['title']}: {query}"
            assert any(value == value for value in found) or "DCGM" in query, f"{panel['title']} has no number: {query}"
    latency = asked(prometheus, 'sum (asr_message_latency_seconds_sum{op="final", api="webrtc"})')
    assert latency == [pytest.approx(sum(told) / 1000, abs=0.002)]
    for rule in rules():
        if rule["alert"] != "GpuWithoutItsGraphs":
            operand = re.split(r" (?:>|==) ", rule["expr"])[0]
            assert asked(prometheus, operand), f"{rule['alert']}: {operand}"
    assert not asked(prometheus, 'ALERTS{alertstate="firing"}')
