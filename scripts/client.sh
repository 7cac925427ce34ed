#!/usr/bin/env bash
# Streams a file to a running server and prints the words as they come: client.sh --file mid.wav --rtf 1 --full-text
source "$(dirname "$0")/environment.sh"
[ -x "$PYTHON" ] || bash scripts/install.sh
exec "$PYTHON" tests/client.py "$@"
