#!/usr/bin/env bash
# Runs moonshine-asr:latest with the GPU, where there is one, and the engines in the volume moonshine-engines.
# Host networking by default: audio comes over UDP ports that WebRTC chooses freely. --publish runs in a network of its own
# instead, with port 8000 and a range of UDP ports published (UDP_PORTS, 40000-40199: about one for each session).
# Nothing is written but to the volume and to a /tmp in memory.
# Other arguments go to docker run, as in: run.sh -e MOONSHINE_PRECISION=int8 -e ASR_MAX_SESSIONS=200
set -euo pipefail
UDP_PORTS="${UDP_PORTS:-40000-40199}"
PORT="${ASR_PORT:-8000}"
SPARE_SECONDS=25 # behind the finals: connections are closed, the engine is given back

network=(--network host)
if [ "${1:-}" = --publish ]; then
    shift
    # A container's sockets take their ports from the range that is published.
    network=(--publish "$PORT:$PORT" --publish "$UDP_PORTS:$UDP_PORTS/udp"
        --sysctl "net.ipv4.ip_local_port_range=${UDP_PORTS/-/ }")
fi
# docker stop kills after 10 s, and the server takes longer for the finals of open sessions.
shutdown="${ASR_SHUTDOWN_TIMEOUT_SECONDS:-20}" drain="${ASR_DRAIN_SECONDS:-0}"
for argument in "$@"; do
    case "$argument" in
    *ASR_SHUTDOWN_TIMEOUT_SECONDS=*) shutdown="${argument##*=}" ;;
    *ASR_DRAIN_SECONDS=*) drain="${argument##*=}" ;;
    esac
done
gpus=()
command -v nvidia-smi >/dev/null && gpus=(--gpus all)
hardened=(--read-only --tmpfs /tmp --env CUDA_CACHE_PATH=/engines/.cuda --cap-drop ALL --security-opt no-new-privileges)
exec docker run --rm --init "${network[@]}" ${gpus[@]+"${gpus[@]}"} "${hardened[@]}" --volume moonshine-engines:/engines \
    --env "ASR_PORT=$PORT" --env "ASR_SHUTDOWN_TIMEOUT_SECONDS=$shutdown" --env "ASR_DRAIN_SECONDS=$drain" \
    --stop-timeout $((${drain%.*} + ${shutdown%.*} + SPARE_SECONDS)) "$@" moonshine-asr:latest
