#!/usr/bin/env bash
# Writes requirements.lock again: one resolution of all extras with torch and the GPU's packages, for Python 3.11 and newer on
# Linux and macOS. Arguments go to uv, as in: lock.sh --upgrade-package aiortc
source "$(dirname "$0")/environment.sh"
make_environment
"$PYTHON" -m pip install --quiet uv
extras=()
for extra in server torch tracing cluster mic gpu test chart; do extras+=(--extra "$extra"); done
"$VENV_PATH/bin/uv" --no-config pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-emit-index-url \
    "${extras[@]}" --no-emit-package moonshine-asr --no-annotate \
    --custom-compile-command "bash scripts/lock.sh" --output-file requirements.lock "$@"
