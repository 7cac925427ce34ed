#!/usr/bin/env bash
# Checks a checkpoint on a folder of speech, by transformers and by every engine here: check_model.sh MODEL FOLDER
source "$(dirname "$0")/environment.sh"
[ -x "$PYTHON" ] || bash scripts/install.sh
exec "$PYTHON" benchmarks/run.py model "$@"
