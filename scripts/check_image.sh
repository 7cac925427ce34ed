#!/usr/bin/env bash
# Builds the image from Debian's packages, without Docker, and transcribes through it: check_image.sh [TARGET] (cpu)
# Needs buildah and debootstrap, and root. IMAGE_DIR keeps the storage and the base image between runs (default: a temporary folder).
# Serves as the image's own user, and read-only as a user that it does not know. Prints sizes and times.
source "$(dirname "$0")/environment.sh"
target="${1:-cpu}"
work="${IMAGE_DIR:-$(mktemp -d)}"
mkdir -p "$work"
work=$(cd "$work" && pwd)
base=localhost/debian-python image="localhost/moonshine-asr:$target" port="${ASR_PORT:-18700}"
[ "$(id -u)" = 0 ] || fail "only root can build images this way"
for tool in buildah debootstrap; do command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install -y buildah debootstrap"; done
[ -x "$PYTHON" ] || fail "make the environment first: bash scripts/install.sh"
export STORAGE_DRIVER=vfs
buildah=(buildah --root "$work/storage" --runroot "$work/run")
container="" server=""
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    [ -z "$container" ] || "${buildah[@]}" rm "$container" >/dev/null 2>&1 || true
    [ -n "${IMAGE_DIR:-}" ] || rm -rf "$work"
}
trap finish EXIT
mounted_size() { # in MB, of an image's files
    local id directory
    id=$("${buildah[@]}" from --pull-never "$1") && directory=$("${buildah[@]}" mount "$id")
    du -sm "$directory" | cut -f1
    "${buildah[@]}" rm "$id" >/dev/null
}

if ! "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1; then
    step 1 4 "the base image: Debian ${SUITE:=bookworm} with its Python"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" "$work/root" >/dev/null
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/" # it trusts what this machine trusts: some networks inspect TLS
    id=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add --quiet "$id" "$work/root" / >/dev/null
    "${buildah[@]}" commit --quiet "$id" "$base" >/dev/null
    "${buildah[@]}" rm "$id" >/dev/null
    rm -rf "$work/root"
fi

step 2 4 "the image $image"
began=$SECONDS
"${buildah[@]}" build --isolation chroot --pull-never --layers --target "$target" --build-arg "PYTHON_IMAGE=$base" \
    --file docker/Dockerfile --tag "$image" . >&2
say "built in $((SECONDS - began)) s: $(mounted_size "$image") MB, of them $(mounted_size "$base") MB the base image"

# serve_as USER: the image, read-only but for /engines and /tmp, as a user.
serve_as() {
    local engines="$work/engines-$1"
    mkdir -p "$engines" && chmod 1777 "$engines"
    container=$("${buildah[@]}" from --pull-never "$image")
    if [ "$1" = 10001 ]; then
        "${buildah[@]}" run --isolation chroot --user "$1" --volume "$engines:/engines" --env "ASR_PORT=$port" \
            --env ASR_HOST=127.0.0.1 "$container" -- bash docker/entrypoint.sh >&2 &
    else
        local root
        root=$("${buildah[@]}" mount "$container")
        # shellcheck disable=SC2016 # expanded by the shell in the new namespace
        unshare --mount bash -c 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && mount --bind "$2" "$1/engines" &&
            mount -t tmpfs tmpfs "$1/tmp" && mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && cd / &&
            exec chroot --userspec="$3:$3" "$1" env -i HOME=/tmp ASR_ENGINE_DIR=/engines PATH=/opt/venv/bin:/usr/bin:/bin \
                ASR_HOST=127.0.0.1 ASR_PORT="$4" bash /app/docker/entrypoint.sh' bash "$root" "$engines" "$1" "$port" >&2 &
    fi
    server=$!
}

for user in 10001 4242; do
    step "$([ $user = 10001 ] && echo 3 || echo 4)" 4 "transcribe through it as user $user"
    began=$SECONDS
    serve_as $user
    "$PYTHON" - "$port" <<'PYTHON'
import asyncio, sys, time
import httpx
from moonshine_client import audio_file
from moonshine_client.client import transcribe

address = f"127.0.0.1:{sys.argv[1]}"
for _ in range(1200):
    try:
        if httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200:
            break
    except httpx.TransportError:
        pass
    time.sleep(0.1)
else:
    sys.exit("the image's server was not ready within 120 s")
print("ready", file=sys.stderr)
with open("samples/short.wav", "rb") as file:
    answer = httpx.post(f"http://{address}/v1/audio/transcriptions", files={"file": file}, data={"model": "moonshine-base"},
                        timeout=60, trust_env=False)
answer.raise_for_status()
print("REST:  ", answer.json()["text"])
done = asyncio.run(transcribe(address, audio_file.load("samples/short.wav"), rtf=4.0))
print("WebRTC:", done.final["text"])
if not all("try again" in text.lower() for text in (answer.json()["text"], done.final["text"])):
    sys.exit("these are not the words of samples/short.wav")
PYTHON
    say "served as user $user, from nothing to transcripts in $((SECONDS - began)) s"
    kill "$server"
    wait "$server" || true
    server="" && "${buildah[@]}" rm "$container" >/dev/null && container=""
done
