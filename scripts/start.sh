#!/usr/bin/env bash
# Starts the server, after installing it and building its engine where that has not been done yet.
# Settings come from the environment: docs/configuration.md.
source "$(dirname "$0")/environment.sh"
pid=$(server_pid) && fail "a server is running already ($pid); bash scripts/stop.sh --keep stops it"
[ -x "$PYTHON" ] && "$PYTHON" -c 'import server.app' 2>/dev/null || bash scripts/install.sh
build_engine

say "starting on http://${ASR_HOST:-0.0.0.0}:${ASR_PORT:-8000}; when it says ready, in a second terminal:"
say "    bash scripts/client.sh --file mid.wav --rtf 1 --full-text"
echo $$ >.server.pid
exec "$PYTHON" -m server
