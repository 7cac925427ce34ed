#!/usr/bin/env bash
# Stops the server that start.sh started, drops caches and removes the virtual environment that the scripts made. --keep only
# stops the server; --engines removes the built engines too. What the scripts did not make is left alone.
source "$(dirname "$0")/environment.sh"
ASR_SHUTDOWN_TIMEOUT_SECONDS="${ASR_SHUTDOWN_TIMEOUT_SECONDS:-20}"
ENGINES="${ASR_ENGINE_DIR:-engines}"
if pid=$(server_pid); then
    say "stopping the server ($pid); open sessions get their finals"
    kill -TERM "$pid"
    limit=$((${ASR_SHUTDOWN_TIMEOUT_SECONDS%.*} + 25))
    for _ in $(seq $((limit * 2))); do kill -0 "$pid" 2>/dev/null && sleep 0.5; done
    kill -0 "$pid" 2>/dev/null && fail "the server ($pid) has not stopped within $limit s"
fi
rm -f .server.pid
[ "${1:-}" = --keep ] && exit 0

for package in benchmarks engine_build moonshine_client runtime scripts server tests; do
    find "$package" -name __pycache__ -type d -prune -exec rm -rf {} +
done
rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis moonshine_asr.egg-info

if [ -f "$VENV_MARK" ]; then
    rm -rf "$VENV_PATH"
elif [ -d "$VENV_PATH" ]; then
    say "left alone: $VENV_PATH, which these scripts did not make"
fi

if [ "${1:-}" = --engines ] && [ -d "$ENGINES" ]; then
    for engine in "$ENGINES"/*/; do # a build writes its manifest last; nobody else writes one with this field
        grep -qs '"builder_sha256"' "$engine/manifest.json" && rm -rf "$engine"
    done
    rmdir "$ENGINES" 2>/dev/null || say "left alone: $ENGINES, which has something else in it"
fi
say "stopped and cleaned"
