#!/usr/bin/env bash
# Builds the image moonshine-asr:latest; arguments go to docker build, as in: build.sh --build-arg PRECISIONS="fp16 bf16"
set -euo pipefail
cd "$(dirname "$0")/.."
exec docker build --file docker/Dockerfile --tag moonshine-asr:latest "$@" .
