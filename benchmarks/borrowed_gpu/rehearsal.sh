#!/usr/bin/env bash
# Rehearses on this machine what a borrowed GPU machine without network will do: rehearsal.sh DIR [--smoke]
# DIR gets a Python 3.12 with just the packages that such a machine has, a copy of this checkout and the report. The torch engine
# runs on the CPU; where this user may, nothing of it reaches a network. PYTHON312 names the interpreter, by default python3.12.
source "$(dirname "$0")/../../scripts/environment.sh"
[ $# -ge 1 ] || fail "usage: bash benchmarks/borrowed_gpu/rehearsal.sh DIR [--smoke]"
mkdir -p "$1"
directory=$(cd "$1" && pwd)
there=(transformers onnx onnxscript onnxruntime nanobind uvloop prometheus-client httpx rich pytest hypothesis psutil
    "cuda-core>=1,<2" "cuda-bindings>=13,<14")
lacks=(pydantic pydantic-core annotated-types typing-inspection aiortc av)

python="$directory/python/bin/python"
if [ ! -x "$python" ]; then
    say "a Python 3.12 with what is there"
    "${PYTHON312:-python3.12}" -m venv "$directory/python" || fail "PYTHON312 names a Python 3.12 with its venv module"
    "$python" -m pip install --quiet "torch==$TORCH_DEFAULT" "${there[@]}"
    "$python" -m pip uninstall --quiet --yes "${lacks[@]}"
fi

bash benchmarks/borrowed_gpu/bundle.sh >/dev/null
say "the checkout, as it would travel"
rm -rf "$directory/checkout" "$directory/bundle" && mkdir "$directory/checkout"
git ls-files --cached --others --exclude-standard -z | tar --null -T - -cf - | tar -C "$directory/checkout" -xf -
cp -r .gpu_bundle "$directory/checkout/"

run() { "$@"; }
if unshare --net true 2>/dev/null; then
    run() { unshare --net bash -c 'ip link set lo up 2>/dev/null; exec "$@"' bash "$@"; }
else
    say "this user may not take the network away; whatever needs one will not be seen"
fi
cat >"$directory/call.sh" <<'END'
cd "$1/checkout" && shift
for part in .gpu_bundle/part-*; do source "$part/unpack.sh"; done
exec bash scripts/gpu_check.sh "$@"
END
say "the call"
VENV_PATH=/nowhere PATH="$directory/python/bin:$PATH" GPU_BUNDLE_DIR="$directory/bundle" \
    run bash "$directory/call.sh" "$directory" "$directory/report" "${@:2}"
