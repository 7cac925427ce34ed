"""The OpenAPI page: it describes what is served, and needs nothing from elsewhere."""

import re

import httpx
import pytest
from openapi_spec_validator import validate

from tests.conftest import PROJECT, RunningServer


@pytest.fixture(scope="module")
def served(start_server) -> RunningServer:
    return start_server(ASR_TARGET="onnxruntime")


@pytest.fixture(scope="module")
def schema(served) -> dict:
    return served.get("/openapi.json").json()


def operations(schema: dict) -> dict[tuple[str, str], dict]:
    return {(method.upper(), path): found for path, methods in schema["paths"].items() for method, found in methods.items()}


def test_the_description_is_valid_and_every_operation_says_what_it_is_for(schema):
    validate(schema)
    for name, operation in operations(schema).items():
        assert operation["summary"] and operation["tags"], name
        assert [status for status in operation["responses"] if status.startswith("2")], name


def test_every_way_in_of_the_docs_is_described(schema):
    """And the other way round: what is described is named in the docs."""
    text = (PROJECT / "docs" / "interfaces.md").read_text()
    named = {path.rstrip(".") for path in re.findall(r"/(?:v1|whip|webrtc)[\w/.]*", text)}
    described = {path for _, path in operations(schema)} | set(re.findall(r"`(/[\w/]+)`", schema["info"]["description"]))
    for path in ("/webrtc", "/whip", "/v1/audio/transcriptions", "/v1/models", "/v1/listen", "/v1/realtime/calls", "/ws"):
        assert path in described
    patterns = [re.sub(r"{\w+}", r"[^/]+", path) for path in described]
    unknown = {path for path in named if not any(re.fullmatch(pattern, path) for pattern in patterns)}
    assert {path for path in unknown if path.startswith("/v1/")} <= {"/v1/listen"}


def test_what_is_refused_is_refused_as_described(served, schema):
    """Each operation that takes a body, with one that is none of its."""
    for (method, path), operation in operations(schema).items():
        if method != "POST" or "requestBody" not in operation:
            continue
        headers = {"Content-Type": "application/sdp" if "whip" in path or path == "/v1/realtime/calls" else "text/plain"}
        answer = httpx.post(
            f"http://{served.address}{path.replace('{channel}', 'x')}", content="?", headers=headers, trust_env=False
        )
        answer_of = operation["responses"].get(str(answer.status_code))
        assert answer_of, (path, answer.status_code)
        required = answer_of["content"]["application/json"]["schema"]["required"]
        assert set(required) <= set(answer.json()), path


def test_the_page_comes_whole_from_this_server(served):
    page = served.get("/docs")
    assert page.status_code == 200
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert httpx.URL(address).host in ("", "127.0.0.1") and httpx.get(address, trust_env=False).status_code == 200
