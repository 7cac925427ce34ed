#!/usr/bin/env bash
# Makes everything that a release publishes, into a directory: release.sh OUTDIR. Publishing is the owner's.
#   moonshine_asr-VERSION.tar.gz                            the sources
#   moonshine_asr-VERSION-py3-none-manylinux_2_28_x86_64.whl  with the native engine's libraries, for glibc 2.28 and newer
#   moonshine_asr-VERSION-py3-none-any.whl                  without, for other systems
#   moonshine-asr-client-VERSION.tgz                        the browser's client for npm, with types
# and, where Docker is, the image moonshine-asr:VERSION. What is committed is released, nothing else.
source "$(dirname "$0")/environment.sh"
PLATFORM=manylinux_2_28_x86_64
out=$(cd "$CALLER_DIR" && mkdir -p "${1:?a directory for the packages}" && cd "$1" && pwd)
[ -x "$PYTHON" ] || bash scripts/install.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
version=$("$PYTHON" -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')

step 1 5 "the tools, and the committed sources of $version"
"$PYTHON" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet --disable-pip-version-check "build>=1.2" "ziglang==0.17.1" "auditwheel>=6"
git archive HEAD | tar -x -C "$work" --one-top-level=sources

step 2 5 "the sources and the wheel for any system"
"$work/tools/bin/python" -m build --outdir "$out" "$work/sources" >/dev/null

step 3 5 "the wheel for $PLATFORM: the native engine's libraries, compiled by Zig for its glibc"
(cd "$work/sources" && CXX="$work/tools/bin/python -m ziglang c++ -target x86_64-linux-gnu.2.28" \
    PYTHONPATH="$work/sources" "$PYTHON" -m engine_build.native_libraries) >&2
"$work/tools/bin/python" -m build --wheel --outdir "$out" "--config-setting=--build-option=--plat-name=$PLATFORM" "$work/sources" >/dev/null
"$work/tools/bin/auditwheel" show "$out/moonshine_asr-$version-py3-none-$PLATFORM.whl" | tee "$work/audit" >&2
grep -q "\"$PLATFORM\"\|manylinux_2_\(1[0-9]\|2[0-8]\)_x86_64" "$work/audit" || fail "the libraries need a newer system than $PLATFORM"

step 4 5 "the browser's client for npm"
if command -v npm >/dev/null; then
    cp -r "$work/sources/deploy/npm" "$work/npm"
    cp "$work/sources/server/web/moonshine-client.js" "$work/sources/LICENSE" "$work/npm"
    sed -i "s/\"version\": \".*\"/\"version\": \"$version\"/" "$work/npm/package.json"
    (cd "$out" && npm pack --silent "$work/npm") >&2
else
    say "left out: npm is not installed"
fi

step 5 5 "the image"
if command -v docker >/dev/null && docker info >/dev/null 2>&1; then
    bash docker/build.sh --tag "moonshine-asr:$version"
else
    say "left out: no Docker engine runs here; scripts/check_image.sh builds and tries the image without one"
fi
ls -lh "$out" >&2
