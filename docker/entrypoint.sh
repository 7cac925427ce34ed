#!/usr/bin/env bash
# Builds the engine for this machine where the volume has none, then serves. --build-only ends before that.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m server.command "$@"
