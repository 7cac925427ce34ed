#!/usr/bin/env bash
# Writes requirements.lock anew: the newest versions of everything but torch, which install.sh picks for the machine.
# Arguments go to uv, as in: lock.sh --upgrade-package aiortc
source "$(dirname "$0")/environment.sh"
make_environment
"$PYTHON" -m pip install --quiet uv
# uv does not read pip's configuration: where pip has an index of its own, uv is told of it.
index=$("$PYTHON" -m pip config get global.index-url 2>/dev/null || true)
[ -n "$index" ] && export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
"$VENV_PATH/bin/uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --no-emit-index-url \
    --extra server --extra tracing --extra cluster --extra export --extra gpu --extra test --extra chart --no-emit-package moonshine-asr --no-annotate \
    --custom-compile-command "bash scripts/lock.sh" --output-file requirements.lock "$@"
