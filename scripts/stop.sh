#!/usr/bin/env bash
# Stops the server that start.sh started, drops caches and removes the virtual environment. --keep only stops the server;
# --engines removes the built engines too.
source "$(dirname "$0")/environment.sh"
ASR_SHUTDOWN_TIMEOUT_SECONDS="${ASR_SHUTDOWN_TIMEOUT_SECONDS:-20}"
if server_is_running; then
    pid=$(cat .server.pid)
    say "stopping the server ($pid); open sessions get their finals"
    kill -TERM "$pid"
    limit=$((${ASR_SHUTDOWN_TIMEOUT_SECONDS%.*} + 25))
    for _ in $(seq $((limit * 2))); do kill -0 "$pid" 2>/dev/null && sleep 0.5; done
    kill -0 "$pid" 2>/dev/null && fail "the server ($pid) has not stopped within $limit s"
fi
rm -f .server.pid
[ "${1:-}" = --keep ] && exit 0
find . -name __pycache__ -type d -not -path "./.git/*" -not -path "$VENV_PATH/*" -prune -exec rm -rf {} +
rm -rf .pytest_cache .ruff_cache .hypothesis ./*.egg-info
[ -f "$VENV_PATH/pyvenv.cfg" ] && rm -rf "$VENV_PATH"
[ "${1:-}" = --engines ] && rm -rf "${ASR_ENGINE_DIR:-engines}"
say "stopped and cleaned"
