#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, in less than ten minutes: gpu_check.sh OUTDIR
# Uses the virtual environment where there is one, else the python3 it finds with what is installed there; installs nothing.
source "$(dirname "$0")/environment.sh"
[ $# -ge 1 ] || fail "usage: bash scripts/gpu_check.sh OUTDIR"
outdir="$1"
case "$outdir" in /*) ;; *) outdir="$CALLER_DIR/$outdir" ;; esac
[ -x "$PYTHON" ] || PYTHON=$(command -v python3)
exec "$PYTHON" -m benchmarks.gpu_check "$outdir" "${@:2}"
