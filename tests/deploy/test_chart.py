"""The Helm chart: linted, rendered with Helm's own code, and validated against the schemas of Kubernetes and KEDA. No cluster."""

import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from server import settings
from tests.conftest import PROJECT

helm = pytest.importorskip("helm_python", reason="the extra chart is not installed")
kubernetes_validate = pytest.importorskip("kubernetes_validate")
keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1")
monitoring = pytest.importorskip("cloudcoil.models.prometheus_operator.v1")

CHART = PROJECT / "deploy" / "chart"
KUBERNETES = ("1.30", "1.34")
OF_OTHERS = ("ScaledObject", "PodMonitor")  # kinds that Kubernetes itself does not have
NOT_OURS = {"CUDA_CACHE_PATH"}
SECRET = {"name": "s", "key": "k"}
VALUES: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "without autoscaling": {"autoscaling": {"enabled": False}, "replicas": 3},
    "behind TURN": {"network": {"mode": "turn", "iceServersSecret": SECRET}},
    "WebSockets on a CPU": {"network": {"mode": "websocket"}, "gpu": {"count": 0}, "settings": {"MOONSHINE_PRECISION": "int8"}},
    "engines in a claim": {"engines": {"source": "claim", "claim": {"name": "plans"}}, "apiKeysSecret": SECRET},
    "engines in the image": {"engines": {"source": "image"}, "signingKeySecret": SECRET, "podAnnotations": {"a": "b"}},
    "everything off": {name: {"enabled": False} for name in ("autoscaling", "podDisruptionBudget", "monitor")},
    "placed": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "imagePullSecrets": [{"name": "registry"}],
        "monitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
}


def rendered(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="asr", namespace="speech")
    return [
        document for name, text in files.items() if name.endswith(".yaml") for document in yaml.safe_load_all(text) if document
    ]


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def pod_of(values: Mapping[str, Any]) -> dict[str, Any]:
    return of_kind(rendered(values), "Deployment")["spec"]["template"]["spec"]


def environment_of(container: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def test_helm_finds_nothing_to_complain_of():
    found = helm.lint(CHART, strict=True)
    assert not found["errors"] and [each["error"] for each in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_document_is_one_that_kubernetes_takes(values):
    documents = rendered(values)
    for document in documents:
        for version in KUBERNETES if document["kind"] not in OF_OTHERS else ():
            kubernetes_validate.validate(document, version, strict=True)
    kinds = {document["kind"] for document in documents}
    assert ("ScaledObject" in kinds) == values.get("autoscaling", {}).get("enabled", True)
    assert ("Job" in kinds) == (values.get("engines", {}).get("source", "job") == "job")
    assert len({(document["kind"], document["metadata"]["name"]) for document in documents}) == len(documents)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_variable_is_a_setting_and_the_server_would_start_with_it(values):
    (server,) = pod_of(values)["containers"]
    given = {name: value for name, value in environment_of(server).items() if name not in NOT_OURS}
    assert set(given) <= set(settings.variable_names())
    settings.load(given)


def test_the_grace_period_is_longer_than_the_drain_and_the_finals():
    for drain in (0, 300):
        pod = pod_of({"drainSeconds": drain})
        listening = settings.load({name: value for name, value in environment_of(pod["containers"][0]).items() if value}).listen
        assert listening.drain_seconds == drain
        assert pod["terminationGracePeriodSeconds"] > listening.drain_seconds + listening.shutdown_timeout_seconds


def test_a_pod_compiles_nothing_and_the_job_builds_what_it_serves():
    documents = rendered({"settings": {"MOONSHINE_PRECISION": "fp16"}})
    server = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    job = of_kind(documents, "Job")["spec"]["template"]["spec"]["containers"][0]
    assert server["command"] == ["python", "-m", "server"] and job["args"] == ["--build-only"]
    assert [mount["readOnly"] for mount in server["volumeMounts"] if mount["name"] == "engines"] == [True]
    for name in ("ASR_ENGINE_DIR", "MOONSHINE_PRECISION"):
        assert environment_of(server)[name] == environment_of(job)[name]
    assert server["resources"] == job["resources"] and server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "--build-only" in (PROJECT / "docker" / "entrypoint.sh").read_text()


def test_engines_are_built_before_any_pod_of_the_server_starts():
    """A pod that waited for the job would hold the GPU that the job needs."""
    documents = rendered({})
    hooks = {each["kind"]: each["metadata"].get("annotations", {}) for each in documents}
    assert (
        hooks["Job"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        and hooks["PersistentVolumeClaim"]["helm.sh/hook"] == "pre-install"
    )
    assert int(hooks["PersistentVolumeClaim"]["helm.sh/hook-weight"]) < int(hooks["Job"]["helm.sh/hook-weight"])
    assert "initContainers" not in of_kind(documents, "Deployment")["spec"]["template"]["spec"]


def test_media_passes_no_service():
    documents = rendered({})
    assert [port["targetPort"] for port in of_kind(documents, "Service")["spec"]["ports"]] == ["http"]
    pod = of_kind(documents, "Deployment")["spec"]["template"]["spec"]
    assert pod["hostNetwork"] and "ASR_UDP_PORTS" in environment_of(pod["containers"][0])
    assert "hostNetwork" not in pod_of({"network": {"mode": "websocket"}})


def unknown(model: BaseModel, given: Mapping[str, Any]) -> list[str]:
    """Keys that the kind does not have; its models take them without a word."""
    names = {field.alias or name: name for name, field in type(model).model_fields.items()}
    found = [key for key in given if key not in names]
    for key in given.keys() & names.keys():
        told, value = getattr(model, names[key]), given[key]
        for below, each in zip(told, value, strict=True) if isinstance(told, list) else [(told, value)]:
            found += unknown(below, each) if isinstance(below, BaseModel) and isinstance(each, dict) else []
    return found


def test_what_is_for_keda_and_prometheus_has_fields_that_they_know():
    documents = rendered({})
    for kind, module in (("ScaledObject", keda), ("PodMonitor", monitoring)):
        document = of_kind(documents, kind)
        assert unknown(getattr(module, kind).model_validate(document), document) == []
    misspelt = document | {"spec": document["spec"] | {"podMetricEndpoints": []}}
    assert unknown(monitoring.PodMonitor.model_validate(misspelt), misspelt) == ["podMetricEndpoints"]


def trigger_of(values: Mapping[str, Any]) -> dict[str, str]:
    (trigger,) = of_kind(rendered(values), "ScaledObject")["spec"]["triggers"]
    return trigger["metadata"]


def test_the_scaler_s_threshold_is_a_share_of_the_places():
    assert trigger_of({"maxSessions": 64, "autoscaling": {"target": 0.7}})["threshold"] == "44"
    assert trigger_of({"maxSessions": 1})["threshold"] == "1"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus is not there")
def test_the_scaler_counts_the_sessions_of_this_release_but_those_of_pods_that_drain(tmp_path):
    query = trigger_of({})["query"]

    def series(pod: str, sessions: int, draining: int, namespace: str = "speech") -> list[dict[str, str]]:
        labels = f'namespace="{namespace}",pod="{pod}"'
        return [
            {"series": f'asr_sessions_open{{{labels},api="webrtc"}}', "values": f"{sessions}x3"},
            {"series": f'asr_sessions_open{{{labels},api="deepgram"}}', "values": "1x3"},
            {"series": f"asr_draining{{{labels}}}", "values": f"{draining}x3"},
        ]

    pods = [
        ("asr-6d4cf56db6-aaaaa", 10, 0),
        ("asr-6d4cf56db6-bbbbb", 20, 0),
        ("asr-5c4cf56db6-ccccc", 40, 1),
        ("other-6d4cf56db6-x", 80, 0),
    ]
    all_series = [each for pod in pods for each in series(*pod)] + series("asr-6d4cf56db6-aaaaa", 160, 0, "elsewhere")
    tests = [
        {
            "interval": "30s",
            "input_series": found,
            "promql_expr_test": [
                {"expr": query, "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": value} for value in values]}
            ],
        }
        for found, values in ((all_series, [32]), ([], []))
    ]
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_monitor_asks_the_port_that_needs_no_key():
    documents = rendered({"monitor": {"labels": {"release": "prometheus"}}})
    monitor = of_kind(documents, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    server = of_kind(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert str(ports[endpoint["port"]]) == environment_of(server)["ASR_ADMIN_PORT"] and monitor["metadata"]["labels"]["release"]


@pytest.mark.parametrize(
    "nonsense",
    [
        {"maxSessions": 0},
        {"maxSession": 5},
        {"network": {"mode": "udp"}},
        {"network": {"mode": "turn"}},
        {"drainSeconds": -1},
        {"network": {"udpPorts": "all"}},
        {"engines": {"source": "claim"}},
        {"settings": {"PATH": "/"}},
        {"settings": {"ASR_WORKERS": 2}},
        {"readinessPath": "/healthz"},
        {"autoscaling": {"target": 1.5}},
        {"image": {"repository": ""}},
        {"gpu": {"count": -1}},
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(nonsense):
    with pytest.raises(helm.HelmError):
        rendered(nonsense)


def test_the_chart_is_of_this_version():
    from importlib.metadata import version

    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version("moonshine-asr")
