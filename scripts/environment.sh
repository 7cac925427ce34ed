# Sourced by the other scripts: where the project and its virtual environment are, and how to install into it.
set -euo pipefail
export CALLER_DIR="${CALLER_DIR:-$PWD}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV_PATH="${VENV_PATH:-$PWD/.venv}"
PYTHON="$VENV_PATH/bin/python"
TORCH_DEFAULT=2.13.0 # what setup.cfg pins

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# server_is_running: does .server.pid name a server? A stale file may name any process that came later.
server_is_running() {
    [ -f .server.pid ] && tr '\0' ' ' <"/proc/$(cat .server.pid)/cmdline" 2>/dev/null | grep -q -- "-m server"
}

make_environment() {
    [ -x "$PYTHON" ] && return
    local python=""
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed (Debian, Ubuntu: apt-get install python3 python3-venv)"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "Python's venv module is missing: apt-get install python3-venv"
        say "installing python3-venv"
        apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
    fi
    say "making the virtual environment $VENV_PATH"
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
        "$PYTHON" -m pip install --quiet ${index[@]+"${index[@]}"} "torch==$version+$TORCH_CUDA" ||
            fail "pip found no torch $version+$TORCH_CUDA: set TORCH_INDEX_URL to PyTorch's wheel index (see 'Get started' on its site)"
    elif [ -n "${TORCH_INDEX_URL:-}" ]; then
        "$PYTHON" -m pip install --quiet "${index[@]}" "torch==$version+cpu"
    else
        # An ordinary index has one build for Linux, with CUDA libraries: it serves here too, only larger.
        "$PYTHON" -m pip install --quiet "torch==$version"
    fi
}

# gpu_extra: ",gpu" on a machine with an NVIDIA GPU, or WITH_GPU=1.
gpu_extra() {
    [ "${WITH_GPU:-}" = 1 ] || "$PYTHON" -c 'import sys; from runtime import hardware; sys.exit(hardware.find_gpu() is None)' || return 0
    echo ,gpu
}

# install_project EXTRAS: this project, editable, with some of setup.cfg's extras.
install_project() {
    say "installing the project${1:+ with $1}"
    "$PYTHON" -m pip install --quiet --editable ".${1:+[$1]}"
}
