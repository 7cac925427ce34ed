#!/usr/bin/env bash
# Runs one streaming session against a running server; the exit code tells whether it gave words.
source "$(dirname "$0")/environment.sh"
[ -x "$PYTHON" ] || bash scripts/install.sh
exec "$PYTHON" tests/warmup.py "$@"
