#!/usr/bin/env bash
# A recording into subtitles: bash examples/transcribe.sh [FILE] [FORMAT]
set -euo pipefail
curl --fail-with-body --silent --show-error --noproxy '*' \
    -F "file=@${1:-samples/short.wav}" -F model=moonshine-base -F "response_format=${2:-srt}" \
    "http://${SERVER:-localhost:8000}/v1/audio/transcriptions"
