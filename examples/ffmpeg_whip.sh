#!/usr/bin/env bash
# A file, or any source that FFmpeg 8 or newer can read, sent by WHIP; the words as they come: bash examples/ffmpeg_whip.sh [FILE]
set -euo pipefail
server="${SERVER:-localhost:8000}"
file="${1:-samples/short.wav}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT

"${FFMPEG:-ffmpeg}" -v verbose -re -i "$file" -c:a libopus -ar 48000 -ac 2 -f whip "http://$server/whip" 2> "$log" < /dev/null &
until session="$(grep -oE '/whip/session/[A-Za-z0-9._-]+' "$log" | head -1)" && [ -n "$session" ]; do
  kill -0 $! || { cat "$log"; exit 1; }
  sleep 0.1
done
curl --silent --no-buffer "http://$server$session/events" > /dev/null
curl --silent "http://$server$session/captions.vtt"
