#!/usr/bin/env bash
# Stops the servers that start.sh started, drops caches and removes the virtual environment that the scripts made. --keep only
# stops; --engines removes the built engines too. With ASR_PORT set, it stops the server of that port only, and removes nothing
# while another one runs. What the scripts did not make is left alone.
source "$(dirname "$0")/environment.sh"
case "${1:-}" in
'' | --keep | --engines) ;;
*) fail "usage: stop.sh [--keep | --engines]" ;;
esac
ASR_SHUTDOWN_TIMEOUT_SECONDS="${ASR_SHUTDOWN_TIMEOUT_SECONDS:-20}"
ENGINES="${ASR_ENGINE_DIR:-engines}"

stop_server() {
    local pid limit
    if pid=$(server_pid "$1"); then
        say "stopping the server of $1 ($pid); open sessions get their finals"
        kill -TERM "$pid"
        limit=$((${ASR_SHUTDOWN_TIMEOUT_SECONDS%.*} + 25))
        # One that has ended, and that its parent has not waited for, has no command line any more.
        for _ in $(seq $((limit * 10))); do server_pid "$1" >/dev/null && sleep 0.1; done
        server_pid "$1" >/dev/null && fail "the server ($pid) has not stopped within $limit s"
    fi
    rm -f "$1"
}

# remove DIRECTORY: at once out of the way, then in the background.
remove() {
    local doomed
    doomed="$(dirname "$1")/.removing-$$-$(basename "$1")"
    mv "$1" "$doomed" && (rm -rf "$doomed" >/dev/null 2>&1 &)
}

shopt -s nullglob
for each in .server.${ASR_PORT:-*}.pid; do stop_server "$each"; done
[ "${1:-}" = --keep ] && exit 0
for each in .server.*.pid; do
    server_pid "$each" >/dev/null && fail "another server of this checkout is running (${each}): its environment stays"
done

for package in benchmarks engine_build moonshine_client runtime scripts server tests; do
    find "$package" -name __pycache__ -type d -prune -exec rm -rf {} +
done
rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis moonshine_asr.egg-info

if [ -f "$VENV_MARK" ]; then
    say "removing $VENV_PATH ($(du -sh "$VENV_PATH" 2>/dev/null | cut -f1)); stop.sh --keep leaves it for the next start"
    remove "$VENV_PATH"
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
