#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest. --fast runs what needs no engine and no server.
# The tests need torch: TORCH_INDEX_URL=<PyTorch's wheel index> fetches its small CPU build (see scripts/install.sh).
source "$(dirname "$0")/environment.sh"
make_environment
command -v g++ >/dev/null || apt_install "a C++ compiler, for the tests of the CUDA kernels," g++ libc6-dev
if [ "${1:-}" = --fast ]; then
    shift
    "$PYTHON" -c 'import aiortc, fastapi, msgspec, pytest' 2>/dev/null || install_project server,test
    exec "$PYTHON" -m pytest -n 2 --dist loadfile tests/server tests/runtime/scheduler tests/moonshine_client tests/scripts \
        -m "not engine and not server and not slow" "$@"
fi

# provide_tools: Prometheus and promtool out of their Debian package, which would start a service where it is installed.
provide_tools() {
    local work
    work=$(mktemp -d)
    chmod 755 "$work" # apt-get downloads as a user of its own
    if apt-get update -qq && (cd "$work" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb .); then
        cp "$work"/usr/bin/prometheus "$work"/usr/bin/promtool "$VENV_PATH/bin/"
    else
        say "going on without Prometheus"
    fi
    rm -rf "$work"
}

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    command -v chromium >/dev/null || apt_install "a browser, for the tests of the page," chromium
    { command -v firefox-esr && command -v pulseaudio; } >/dev/null ||
        apt_install "another browser, and audio that it plays to nobody," firefox-esr pulseaudio
    command -v buildah >/dev/null || apt_install "what builds images, for the test of the image," buildah debootstrap
    PATH="$VENV_PATH/bin:$PATH" command -v promtool >/dev/null || provide_tools
fi
install_torch
install_project server,torch,gpu,test,chart
PATH="$VENV_PATH/bin:$PATH" exec "$PYTHON" -m pytest -n 2 --dist loadfile "$@" # most tests wait more than they compute
