#!/usr/bin/env bash
# Starts the server, after installing it and building its engine where that has not been done yet.
# Settings come from the environment: docs/configuration.md. Arguments go to `moonshine-asr serve`, as in: start.sh --port 9000 --open
source "$(dirname "$0")/environment.sh"
port="${ASR_PORT:-8000}"
for ((number = 1; number <= $#; number++)); do
    case "${!number}" in
    --port | --asr-port) next=$((number + 1)) && port="${!next:-}" ;;
    --port=* | --asr-port=*) port="${!number#*=}" ;;
    esac
done
note=$(pid_file "$port")
pid=$(server_pid "$note") && fail "a server of port $port is running already ($pid); ASR_PORT=$port bash scripts/stop.sh --keep stops it"
is_installed || bash scripts/install.sh
echo $$ >"$note"
exec "$PYTHON" -m server.command "$@"
