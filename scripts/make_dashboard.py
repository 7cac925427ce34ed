"""Writes docker/grafana/dashboard.json: python scripts/make_dashboard.py"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TARGET = PROJECT / "docker" / "grafana" / "dashboard.json"

COLUMNS, WIDTH, HEIGHT = 3, 8, 8  # of Grafana's grid of 24
SOURCE = {"type": "prometheus", "uid": "prometheus"}
HERE = 'instance=~"$instance"'
"""Label filter for the servers that are chosen at the top of the page."""


@dataclass(frozen=True)
class Panel:
    title: str
    unit: str
    """Unit by Grafana's name."""
    meaning: str
    queries: dict[str, str]
    """Queries by legend."""


def total(gauge: str, by: str = "") -> str:
    return f"sum {f'by ({by}) ' if by else ''}({gauge}{{{HERE}}})"


def rate(metric: str, by: str = "", labels: str = "") -> str:
    grouped = f"sum by ({by}) " if by else "sum "
    return f"{grouped}(rate({metric}{{{HERE}{labels}}}[$__rate_interval]))"


def quantile(share: float, histogram: str, by: str = "", labels: str = "") -> str:
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', groups, labels)})"


def mean(histogram: str, by: str = "") -> str:
    return f"{rate(f'{histogram}_sum', by)} / {rate(f'{histogram}_count', by)}"


UPDATE, FINAL, IN_TIME = ', op="interim"', ', op="final"', ', le="1.0"'
LATENCY, LATE = "asr_message_latency_seconds", "asr_update_late_intervals"


def percentiles(labels: str) -> dict[str, str]:
    """Return the queries of a latency panel, by legend."""
    return {f"p{percent}": quantile(percent / 100, LATENCY, labels=labels) for percent in (50, 95, 99)}


ROWS = {
    "Load": [
        Panel(
            "Sessions and places",
            "none",
            "What is taken of what there is",
            {
                "sessions": total("asr_sessions_open"),
                "places": total("asr_sessions_max"),
            },
        ),
        Panel("Sessions by way in", "none", "Which API clients came by", {"{{api}}": total("asr_sessions_open", "api")}),
        Panel(
            "Sessions by server",
            "none",
            "How evenly they are placed",
            {
                "{{instance}}": total("asr_sessions_open", "instance"),
            },
        ),
        Panel(
            "Servers",
            "none",
            "Ready: takes sessions. Draining: about to end",
            {
                "ready": total("asr_ready"),
                "draining": total("asr_draining"),
            },
        ),
        Panel("Sessions begun", "reqps", "A second", {"{{api}}": rate("asr_sessions_total", "api")}),
        Panel("Audio heard", "none", "Seconds of audio a second", {"audio": rate("asr_audio_seconds_total")}),
    ],
    "What clients see": [
        Panel(
            "Update latency",
            "s",
            "From the newest sample of an update to its message",
            percentiles(UPDATE),
        ),
        Panel(
            "Final latency",
            "s",
            "From a client's last word to its final",
            percentiles(FINAL),
        ),
        Panel("Final latency by way in", "s", "95th percentile", {"{{api}}": quantile(0.95, LATENCY, "api", FINAL)}),
        Panel(
            "Lateness",
            "percentunit",
            "Updates that start more than an interval late. Above 0.1% the machine is full",
            {
                "late": f"1 - {rate(f'{LATE}_bucket', labels=IN_TIME)} / {rate(f'{LATE}_count')}",
            },
        ),
        Panel(
            "Errors",
            "reqps",
            "Sessions that ended by an error, by its code",
            {
                "{{reason}}": rate("asr_session_errors_total", "reason"),
            },
        ),
        Panel(
            "Refusals",
            "reqps",
            "Offers and requests that were refused, by code",
            {
                "{{reason}}": rate("asr_offers_refused_total", "reason"),
            },
        ),
    ],
    "Engine": [
        Panel("Batch fill", "none", "Rows in a step", {"{{kind}}": mean("asr_engine_step_rows", "kind")}),
        Panel(
            "Queue",
            "none",
            "Requests without a slot, and with one",
            {
                "waiting": total("asr_requests_waiting"),
                "in flight": total("asr_requests_in_flight"),
            },
        ),
        Panel(
            "Time in the queue",
            "s",
            "95th percentile",
            {
                "{{priority}}": quantile(0.95, "asr_request_queue_seconds", "priority"),
            },
        ),
        Panel(
            "Steps an update",
            "none",
            "Decoder passes of a request",
            {
                "mean": mean("asr_request_passes"),
                "p95": quantile(0.95, "asr_request_passes"),
            },
        ),
        Panel("Step time", "s", "95th percentile", {"{{kind}}": quantile(0.95, "asr_engine_step_seconds", "kind")}),
        Panel(
            "Requests",
            "reqps",
            "By priority and outcome",
            {
                "{{priority}}, {{outcome}}": rate("asr_requests_total", "priority, outcome"),
            },
        ),
    ],
    "Health": [
        Panel(
            "Backlog",
            "s",
            "Of the session that has most audio waiting",
            {
                "{{instance}}": total("asr_backlog_seconds_max", "instance"),
            },
        ),
        Panel(
            "Event loop lag",
            "s",
            "How late a process comes to what is due, 99th percentile",
            {
                "{{instance}}": quantile(0.99, "asr_event_loop_lag_seconds", "instance"),
            },
        ),
        Panel(
            "Doubts",
            "reqps",
            "Texts that were asked for again or reached their limit, and updates not sent to slow readers",
            {
                "heard again": rate("asr_segments_recovered_total"),
                "cut short": rate("asr_segments_cut_short_total"),
                "updates not sent": rate("asr_interims_dropped_total"),
            },
        ),
        Panel("GPU load", "percent", "Needs compose.gpu.yaml, or NVIDIA's exporter", {"GPU {{gpu}}": "DCGM_FI_DEV_GPU_UTIL"}),
        Panel("GPU memory", "decmbytes", "Needs compose.gpu.yaml, or NVIDIA's exporter", {"GPU {{gpu}}": "DCGM_FI_DEV_FB_USED"}),
        Panel(
            "Passes without a CUDA graph",
            "none",
            "Slow, not wrong; 0 is what should be here",
            {
                "{{instance}}": total("asr_engine_uncaptured_runs", "instance"),
            },
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": at(0, y, 24, 1), "panels": []})
        y += 1
        for number, panel in enumerate(row):
            place = at(number % COLUMNS * WIDTH, y + number // COLUMNS * HEIGHT, WIDTH, HEIGHT)
            panels.append(drawn(panel, len(panels) + 1, place))
        y += -(-len(row) // COLUMNS) * HEIGHT
    return {
        "uid": "moonshine-asr",
        "title": "moonshine-asr",
        "schemaVersion": 41,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [servers()]},
        "panels": panels,
    }


def at(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def servers() -> dict[str, Any]:
    """Return the selection of servers at the top of the page."""
    return {
        "name": "instance",
        "label": "server",
        "type": "query",
        "datasource": SOURCE,
        "query": "label_values(asr_ready, instance)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": SOURCE}
        for index, (legend, query) in enumerate(panel.queries.items())
    ]
    lines = {"drawStyle": "line", "fillOpacity": 10, "showPoints": "never", "spanNulls": False}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": lines}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text())
    print(TARGET.relative_to(PROJECT))
