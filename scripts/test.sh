#!/usr/bin/env bash
# Installs what the tests need and runs them; arguments go to pytest.
source "$(dirname "$0")/environment.sh"
make_environment
install_torch
install_project export,test
exec "$PYTHON" -m pytest "$@"
