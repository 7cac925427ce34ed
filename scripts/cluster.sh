#!/usr/bin/env bash
# Serves with replicas on a Ray cluster, after installing and building what they need. Settings come from the environment.
#   cluster.sh                    two replicas on this machine, in a cluster of its own
#   cluster.sh --head             the first machine of a cluster of several
#   cluster.sh --join HOST:6379   another machine of it: replicas are placed there, too
# Other arguments go to `moonshine-asr cluster`.
source "$(dirname "$0")/environment.sh"
is_installed || bash scripts/install.sh
"$PYTHON" -c 'import ray.serve' 2>/dev/null || install_project cluster
build_engine
ray="$VENV_PATH/bin/ray"
token=~/.ray/auth_token
export ASR_ENGINE_DIR="${ASR_ENGINE_DIR:-$PWD/engines}" # of this machine, wherever the others have theirs
# Whoever talks to Ray runs programs here: without a token nobody does.
export RAY_AUTH_MODE=token

case "${1:-}" in
--join)
    [ $# = 2 ] || fail "usage: cluster.sh --join HOST:6379"
    [ -f "$token" ] || fail "copy $token of the first machine here, to the same place; only you may be able to read it"
    say "this machine is part of the cluster of $2 until Ctrl-C"
    exec "$ray" start --address "$2" --block
    ;;
--head)
    shift
    head="$(hostname -I | cut -d' ' -f1):6379" # and no other cluster that may run here
    [ -f "$token" ] || "$ray" get-auth-token --generate >/dev/null
    chmod 600 "$token"
    "$ray" status --address "$head" >/dev/null 2>&1 || "$ray" start --head --node-ip-address "${head%:*}" --port 6379
    say "on each other machine, with a copy of $token: bash scripts/cluster.sh --join $head"
    set -- --address "$head" "$@"
    ;;
esac
exec "$VENV_PATH/bin/moonshine-asr" cluster "$@"
