#!/usr/bin/env bash
# Streams a file many times at once against a running server: bench.sh --n 16 --concurrency 8
source "$(dirname "$0")/environment.sh"
[ -x "$PYTHON" ] || bash scripts/install.sh
exec "$PYTHON" tests/bench.py "$@"
