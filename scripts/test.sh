#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest. --fast runs what needs no engine and no server.
source "$(dirname "$0")/environment.sh"
make_environment
command -v g++ >/dev/null || apt_install "a C++ compiler, for the tests of the CUDA kernels," g++ libc6-dev
if [ "${1:-}" = --fast ]; then
    shift
    "$PYTHON" -c 'import aiortc, fastapi, msgspec, pytest' 2>/dev/null || install_project server,test
    exec "$PYTHON" -m pytest tests/server tests/runtime/scheduler tests/moonshine_client tests/scripts \
        -m "not engine and not server and not slow" "$@"
fi
[ "$(id -u)" != 0 ] || command -v chromium >/dev/null || apt_install "a browser, for the tests of the page," chromium
[ "$(id -u)" != 0 ] || command -v promtool >/dev/null || apt_install "Prometheus, for the tests of the alarms," prometheus
install_torch
install_project export,gpu,test,chart
exec "$PYTHON" -m pytest "$@"
