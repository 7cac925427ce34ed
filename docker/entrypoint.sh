#!/usr/bin/env bash
# Builds the engine for this machine where the volume has none, then serves. --build-only ends before that.
set -euo pipefail
cd "$(dirname "$0")/.."
EXPORTS="${EXPORTS:-/opt/exports}"

engine=$(python -m server --print-engine)
IFS=$'\t' read -r directory target precision max_batch state <<<"$engine"
if [ "$state" != usable ]; then
    echo "building the engine $directory, once for this volume" >&2
    cp -r "$EXPORTS"/. "$(dirname "$directory")"
    python engine_build/build.py --model "${MOONSHINE_MODEL_ID:-UsefulSensors/moonshine-base}" \
        --target "$target" --precision "$precision" --max-batch "$max_batch" --out "$(dirname "$directory")"
fi
[ "${1:-}" = --build-only ] || exec python -m server
