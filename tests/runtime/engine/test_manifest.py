"""A manifest that somebody edited, cut short or copied from elsewhere is refused with one line."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.engine import manifest
from runtime.engine.manifest import FILE_NAME, Manifest
from runtime.exceptions import EngineDirectoryError

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
WHOLE = {
    "format": manifest.FORMAT,
    "model": "a/b",
    "weights_source": "x",
    "weights_sha256": "0",
    "target": "onnxruntime",
    "precision": "fp32",
    "builder_sha256": "0",
    "max_batch": 8,
    "max_seconds": 26.0,
    "dim": 416,
    "heads": 8,
    "head_dim": 52,
    "encoder_layers": 8,
    "decoder_layers": 8,
    "aligner_layers": 2,
    "vocabulary": 32768,
    "max_positions": 194,
    "start_token": 1,
    "end_token": 2,
    "files": {"a.bin": {"bytes": 1, "sha256": "0"}},
    "versions": {},
    "built_at": "2026-01-01T00:00:00Z",
}


def load(directory: Path, text: str | bytes) -> Manifest:
    (directory / FILE_NAME).write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    return manifest.load(directory, "a/b", "onnxruntime", "fp32", 8)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.dictionaries(st.sampled_from(sorted(WHOLE)), ANYTHING, min_size=1, max_size=3), names=st.text(max_size=5))
def test_a_field_that_holds_anything(tmp_path, changes, names):
    with pytest.raises(EngineDirectoryError, match="run: "):
        load(tmp_path, json.dumps({**WHOLE, "files": {names: WHOLE["files"]["a.bin"]}, **changes}))


@given(
    text=st.binary(max_size=40) | st.integers(0, len(json.dumps(WHOLE)) - 1).map(lambda size: json.dumps(WHOLE)[:size].encode())
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_no_manifest(tmp_path, text):
    with pytest.raises(EngineDirectoryError, match="is damaged"):
        load(tmp_path, text)
