#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest.
source "$(dirname "$0")/environment.sh"
make_environment
if ! command -v g++ >/dev/null; then # the CUDA kernels are tested on the host
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "a C++ compiler is missing: apt-get install g++"
    say "installing g++"
    apt-get update -qq && apt-get install -y -qq g++ >/dev/null
fi
install_torch
install_project export,gpu,test
exec "$PYTHON" -m pytest "$@"
