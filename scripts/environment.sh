# Sourced by the other scripts: where the project and its virtual environment are, and how to install into it.
set -euo pipefail
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV_PATH="${VENV_PATH:-$PWD/.venv}"
PYTHON="$VENV_PATH/bin/python"
VENV_MARK="$VENV_PATH/.made-by-moonshine-asr" # stop.sh removes no other environment
LOCK=requirements.lock
TORCH_DEFAULT=2.13.0 # what pyproject.toml pins

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# server_pid: of the server that .server.pid names; fails where there is none. A stale file may name any process that came later.
server_pid() {
    local pid
    [ -f .server.pid ] && read -r pid <.server.pid && [[ "$pid" =~ ^[0-9]+$ ]] || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q -- "-m server" && printf '%s\n' "$pid"
}

# apt_install WHAT PACKAGE...: installs Debian packages where that is allowed, else says the one line to run.
apt_install() {
    local what="$1"
    shift
    command -v apt-get >/dev/null || fail "$what is missing, and there is no apt-get to install it"
    [ "$(id -u)" = 0 ] || fail "$what is missing: sudo apt-get install -y $*"
    say "installing $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# find_python: a Python of 3.11 or newer with its venv module; prints nothing where there is none.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

make_environment() {
    [ -x "$PYTHON" ] && return
    local python
    python=$(find_python)
    if [ -z "$python" ]; then
        apt_install "Python 3.11 or newer with venv" python3 python3-venv
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11 or newer is needed; this system's packages have $(python3 --version 2>&1)"
    fi
    say "making the virtual environment $VENV_PATH"
    if [ ! -e "$VENV_PATH" ] || [ -z "$(ls -A "$VENV_PATH")" ]; then
        mkdir -p "$VENV_PATH"
        touch "$VENV_MARK" # first: one that is interrupted is ours, too
    elif [ ! -f "$VENV_MARK" ] && [ ! -f "$VENV_PATH/pyvenv.cfg" ]; then
        fail "$VENV_PATH is there, and it is no Python environment"
    fi
    "$python" -m venv "$VENV_PATH"
}

# install_torch: the CPU build by default; TORCH_CUDA=cu121 TORCH_VERSION=2.5.1 picks a CUDA wheel. TORCH_INDEX_URL is the
# address of PyTorch's own wheel index, without its last part (cpu, cu121, ...): needed where pip's index lacks the build.
install_torch() {
    local version="${TORCH_VERSION:-$TORCH_DEFAULT}" build="${TORCH_CUDA:-cpu}" index=()
    [ -n "${TORCH_INDEX_URL:-}" ] && index=(--extra-index-url "$TORCH_INDEX_URL/$build")
    local wanted="$version${TORCH_CUDA:++$TORCH_CUDA}" # without TORCH_CUDA any build of the version will do
    if "$PYTHON" -c "import sys, torch; v = torch.__version__; sys.exit('$wanted' not in (v, v.partition('+')[0]))" 2>/dev/null; then
        return
    fi
    say "installing torch $version ($build), for the engine build"
    if [ -n "${TORCH_CUDA:-}" ]; then
        "$PYTHON" -m pip install --quiet -c "$LOCK" ${index[@]+"${index[@]}"} "torch==$version+$TORCH_CUDA" ||
            fail "pip found no torch $version+$TORCH_CUDA: set TORCH_INDEX_URL to PyTorch's wheel index (see 'Get started' on its site)"
    elif [ -n "${TORCH_INDEX_URL:-}" ]; then
        "$PYTHON" -m pip install --quiet -c "$LOCK" "${index[@]}" "torch==$version+cpu"
    else
        # An ordinary index has one build for Linux, with CUDA libraries: it serves here too, only larger.
        "$PYTHON" -m pip install --quiet -c "$LOCK" "torch==$version"
    fi
}

# offer_compiler: a C++ compiler where the native engine is the best, none is there, and it may be installed; else ONNX Runtime serves.
offer_compiler() {
    "$PYTHON" -c 'import sys; from runtime import hardware; sys.exit(hardware.has_vnni() and not hardware.find_compiler())' && return
    (apt_install "a C++ compiler, which makes the faster native engine possible," g++ libc6-dev) || say "going on without it"
}

# gpu_extra: ",gpu" on a machine with an NVIDIA GPU, or WITH_GPU=1.
gpu_extra() {
    [ "${WITH_GPU:-}" = 1 ] ||
        "$PYTHON" -c 'import sys; from runtime import hardware; sys.exit(hardware.find_gpu() is None)' || return 0
    echo ,gpu
}

# build_engine: the one that the settings ask for, unless it is there.
build_engine() {
    local engine directory max_batch state asked
    engine=$("$PYTHON" -m server --print-engine)
    IFS=$'\t' read -r directory _ _ max_batch state <<<"$engine"
    [ "$state" = usable ] && return
    "$PYTHON" -c 'import torch, onnxscript' 2>/dev/null || bash scripts/install.sh
    say "building the engine"
    asked=(--target "${ASR_TARGET:-auto}") # auto may find that it cannot build what was chosen, and builds another
    [ -z "${MOONSHINE_PRECISION:-}" ] || asked+=(--precision "$MOONSHINE_PRECISION")
    "$PYTHON" engine_build/build.py --model "${MOONSHINE_MODEL_ID:-UsefulSensors/moonshine-base}" "${asked[@]}" \
        --max-batch "$max_batch" --out "$(dirname "$directory")"
}

# install_project EXTRAS: this project, editable, with some of pyproject.toml's extras, in the versions of requirements.lock.
install_project() {
    say "installing the project with $1"
    "$PYTHON" -m pip install --quiet -c "$LOCK" --editable ".[$1]"
}
