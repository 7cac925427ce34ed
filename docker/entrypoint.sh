#!/usr/bin/env bash
# Takes the engine for CPUs from the image, builds the one for this machine where the volume has none, then serves.
# --build-only ends before that.
set -euo pipefail
cd "$(dirname "$0")/.."
EXPORTS="${EXPORTS:-/opt/exports}"
volume="${ASR_ENGINE_DIR:-engines}"

for compiled in "$EXPORTS"/*-native-*; do # the image has no compiler
    theirs="$volume/${compiled##*/}"
    [ ! -d "$compiled" ] || cmp -s "$compiled/manifest.json" "$theirs/manifest.json" && continue
    rm -rf "$theirs" "$volume/.copying"
    cp -r "$compiled" "$volume/.copying"
    mv "$volume/.copying" "$theirs"
done

engine=$(python -m server --print-engine)
IFS=$'\t' read -r directory target precision max_batch state <<<"$engine"
if [ "$state" != usable ]; then
    echo "building the engine $directory, once for this volume" >&2
    cp -r "$EXPORTS"/. "$(dirname "$directory")"
    python engine_build/build.py --model "${MOONSHINE_MODEL_ID:-UsefulSensors/moonshine-base}" \
        --target "$target" --precision "$precision" --max-batch "$max_batch" --out "$(dirname "$directory")"
fi
[ "${1:-}" = --build-only ] || exec python -m server
