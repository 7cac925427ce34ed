# shellcheck shell=bash
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

# step K N TEXT: says which part of the work begins. The script that begins first counts; those that it calls go on.
step() {
    say "$1 of $2: $3"
}

# pid_file PORT: where start.sh notes the server of a port.
pid_file() { printf '.server.%s.pid\n' "$1"; }

# server_pid FILE: of the server that the file names; fails where there is none. A stale file may name any process that came later.
server_pid() {
    local pid
    [ -f "$1" ] && read -r pid <"$1" && [[ "$pid" =~ ^[0-9]+$ ]] || return 1
    command_of "$pid" | grep -q -- "-m server" && printf '%s\n' "$pid"
}

# command_of PID: its command line. Some systems have no /proc, some no ps.
command_of() {
    if [ -r "/proc/$1/cmdline" ]; then
        tr '\0' ' ' <"/proc/$1/cmdline"
    elif command -v ps >/dev/null; then
        ps -ww -p "$1" -o command=
    fi 2>/dev/null
}

# apt_install WHAT PACKAGE...: installs Debian packages where that is allowed, else says the one line to run.
apt_install() {
    local what="$1"
    shift
    command -v apt-get >/dev/null || fail "$what is missing, and there is no apt-get to install it"
    [ "$(id -u)" = 0 ] || fail "$what is missing: sudo apt-get install -y $*"
    say "installing $* by apt-get"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# find_python: a Python of 3.11 or newer with its venv module; prints nothing where there is none.
find_python() {
    local candidate
    for candidate in ${PYTHON_FOR_VENV:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
}

make_environment() {
    "$PYTHON" -m pip --version >/dev/null 2>&1 && return # also where an earlier try was interrupted before pip was there
    local python
    python=$(find_python)
    if [ -z "$python" ]; then
        apt_install "Python 3.11 or newer with venv" python3 python3-venv
        python=$(find_python)
        [ -n "$python" ] || fail "Python 3.11 or newer is needed; this system's packages have $(python3 --version 2>&1)"
    fi
    if [ ! -e "$VENV_PATH" ] || [ -z "$(ls -A "$VENV_PATH")" ]; then
        mkdir -p "$VENV_PATH"
        touch "$VENV_MARK" # first: one that is interrupted is ours, too
    elif [ ! -f "$VENV_MARK" ] && [ ! -f "$VENV_PATH/pyvenv.cfg" ]; then
        fail "$VENV_PATH is there, and it is no Python environment"
    fi
    "$python" -m venv "$VENV_PATH"
}

# pip_install ARGUMENT...: with pip's own progress on a terminal, and quietly elsewhere.
pip_install() {
    local quiet=(--quiet)
    [ ! -t 2 ] || quiet=()
    "$PYTHON" -m pip install --disable-pip-version-check --no-input --no-compile ${quiet[@]+"${quiet[@]}"} "$@" >&2 ||
        fail "pip could not install what is needed; its own reason is above. Is a package index within reach? PIP_INDEX_URL names one"
}

# install_torch: any build of the default version, or what TORCH_VERSION and TORCH_CUDA name, as in TORCH_CUDA=cu121
# TORCH_VERSION=2.4.0. TORCH_INDEX_URL is the address of PyTorch's own wheel index, without its last part (cpu, cu121, ...).
install_torch() {
    local version="${TORCH_VERSION:-$TORCH_DEFAULT}" build="${TORCH_CUDA:-cpu}" index=() wanted
    wanted="$version${TORCH_CUDA:++$TORCH_CUDA}" # without TORCH_CUDA any build of the version will do
    if "$PYTHON" -c "import sys, torch; v = torch.__version__; sys.exit('$wanted' not in (v, v.partition('+')[0]))" 2>/dev/null; then
        return
    fi
    if [ -n "${TORCH_INDEX_URL:-}" ]; then
        index=(--extra-index-url "$TORCH_INDEX_URL/$build")
        wanted="$version+$build"
        say "installing torch $wanted: 0.2 GB to fetch for a CPU, 2 to 4 GB for a GPU"
    elif [ -z "${TORCH_CUDA:-}" ]; then
        say "installing torch $version. The ordinary index has one build for Linux, with CUDA's libraries: 3 GB to fetch."
        say "TORCH_INDEX_URL=<PyTorch's wheel index, see 'Get started' on its site> fetches 0.2 GB for a CPU"
    fi
    (pip_install -c <(torch_constraints) ${index[@]+"${index[@]}"} "torch==$wanted") ||
        fail "pip found no torch $wanted: set TORCH_INDEX_URL to PyTorch's wheel index (see 'Get started' on its site)"
}

# torch_constraints: the lock; without torch and what comes with it where another torch is asked for.
torch_constraints() {
    if [ "${TORCH_VERSION:-$TORCH_DEFAULT}${TORCH_CUDA:-}" = "$TORCH_DEFAULT" ]; then
        cat "$LOCK"
    else
        grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)==' "$LOCK"
    fi
}

# offer_compiler: a C++ compiler where the native engine needs one and it may be installed; else ONNX Runtime serves.
offer_compiler() {
    "$PYTHON" -c 'import sys; from runtime.engine import selection; sys.exit(selection.wants_compiler())' && return
    (apt_install "a C++ compiler, which makes the faster native engine possible," g++ libc6-dev) || say "going on without it"
}

# gpu_extra: ",gpu" on a machine with an NVIDIA GPU, or WITH_GPU=1.
gpu_extra() {
    [ "${WITH_GPU:-}" = 1 ] ||
        "$PYTHON" -c 'import sys; from runtime import hardware; sys.exit(hardware.find_gpu() is None)' || return 0
    echo ,gpu
}

# build_engine: the one that the settings ask for, unless it is there.
build_engine() { "$PYTHON" -m server.command --build-only; }

# is_installed: can this checkout serve?
is_installed() { [ -x "$PYTHON" ] && "$PYTHON" -c 'import server.app, engine_build.build' 2>/dev/null; }

# install_project EXTRAS: this project, editable, with some of pyproject.toml's extras, in the versions of requirements.lock.
install_project() { pip_install -c <(torch_constraints) --editable ".[$1]"; }
