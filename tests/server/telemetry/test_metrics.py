"""What the documents say of metrics."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from server.errors import Code
from server.telemetry.metrics import PASSES, BatchHistogram, Metrics
from tests.conftest import PROJECT

DOCUMENTS = [path for path in PROJECT.glob("docs/*.md") if "asr_" in path.read_text()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_metric_that_is_named_exists_and_has_these_labels(document):
    metrics, text = Metrics(), document.read_text()
    names = {name: family for family in metrics.registry.collect() for name in names_of(family)}
    for name, labels in re.findall(r"\b(asr_[a-z_]+)\b(?:\{([^}]*)\})?", text):
        assert name in names, name
        if reason := re.search(r'reason=~?"([^"]*)"', labels):
            assert set(reason[1].replace("\\", "").split("|")) <= {code.value for code in Code}, reason[1]
        if edge := re.search(r'le="([^"]*)"', labels):
            assert edge[1] in {sample.labels["le"] for sample in names[name].samples if "le" in sample.labels}, (name, edge[1])


def names_of(family) -> list[str]:
    return [family.name, *(family.name + suffix for suffix in ("_total", "_bucket", "_count", "_sum"))]


@given(amounts=st.lists(st.integers(0, 100) | st.sampled_from(PASSES), max_size=40))
def test_amounts_observed_together_count_as_one_by_one(amounts):
    pages = []
    for kind in (Histogram, BatchHistogram):
        registry = CollectorRegistry()
        histogram = kind("passes", "of a request", ["kind"], buckets=PASSES, registry=registry).labels("any")
        if kind is BatchHistogram:
            histogram.observe_all(amounts)
        else:
            for amount in amounts:
                histogram.observe(amount)
        pages.append([line for line in generate_latest(registry).decode().splitlines() if "_created" not in line])
    assert pages[0] == pages[1]
