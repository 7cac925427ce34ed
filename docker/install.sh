#!/usr/bin/env bash
# What the image's two stages install; also runs outside Docker:
#   install.sh export VENV EXPORTS "PRECISIONS"   torch and the exporter; exports the model in these precisions to
#                                                 EXPORTS, and compiles the engine for CPUs
#   install.sh serve VENV                         the server with TensorRT and cuda-python, no torch
stage="$1"
export VENV_PATH="$2"
source "$(dirname "$0")/../scripts/environment.sh"
case "$stage" in
export)
    exports="$3"
    bash scripts/install.sh
    for precision in $4; do
        "$PYTHON" engine_build/build.py --target tensorrt --precision "$precision" --export-only --out "$exports"
    done
    [ "$(uname -m)" != x86_64 ] || "$PYTHON" engine_build/build.py --target native --precision int8 --max-batch 256 --out "$exports"
    ;;
serve)
    WITH_GPU=1 bash scripts/install.sh --serve
    ;;
*) fail "unknown stage $stage: export or serve" ;;
esac
