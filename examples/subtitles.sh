#!/usr/bin/env bash
# Subtitles for every video and recording in a folder, beside it in FOLDER/subtitles: bash examples/subtitles.sh FOLDER
set -euo pipefail
shopt -s nullglob nocaseglob
folder=${1:?usage: subtitles.sh FOLDER}
files=("$folder"/*.{mp4,mkv,webm,mov,mp3,m4a,wav,flac,ogg})
[ "${#files[@]}" -gt 0 ] || { echo "no videos or recordings in $folder" >&2; exit 2; }
exec moonshine-asr transcribe --server "${SERVER:-localhost:8000}" --format srt --output-dir "$folder/subtitles" "${files[@]}"
