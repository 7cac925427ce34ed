#!/usr/bin/env bash
# Builds the image moonshine-asr:latest; arguments go to docker build, as in: build.sh --target cpu --tag moonshine-asr:cpu
set -euo pipefail
cd "$(dirname "$0")/.."
exec docker build --file docker/Dockerfile --tag moonshine-asr:latest "$@" .
