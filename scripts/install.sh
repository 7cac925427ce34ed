#!/usr/bin/env bash
# Installs everything to build engines and to serve them, without torch. With an NVIDIA GPU, TensorRT for RTX and cuda-python too.
# --torch installs torch, too: for the torch engine, and for checkpoints of other shapes than Base and Tiny.
#   VENV_PATH       where the virtual environment is or will be (.venv); PYTHON_FOR_VENV names the Python that makes it
#   TORCH_CUDA      a CUDA build of torch, such as cu121; TORCH_VERSION and TORCH_INDEX_URL with it. They imply --torch.
source "$(dirname "$0")/environment.sh"
with_torch="${TORCH_CUDA:-}${TORCH_VERSION:-}"
case "${1:-}" in
'' | --serve) ;; # --serve is what older versions called it
--torch) with_torch=1 ;;
*) fail "usage: install.sh [--torch]" ;;
esac
steps=3
[ -z "$with_torch" ] || steps=4
step 1 "$steps" "the virtual environment $VENV_PATH"
make_environment
step 2 "$steps" "Python packages: about 200 MB to fetch, 450 MB on disk"
extras="server$(gpu_extra)"
install_project "$extras"
step 3 "$steps" "a C++ compiler, where the native engine needs one"
offer_compiler
if [ -n "$with_torch" ]; then
    step 4 "$steps" "torch"
    install_torch
    pip_install -c <(torch_constraints) "onnxscript>=0.5"
fi
say "installed in $SECONDS s: $(du -sh "$VENV_PATH" | cut -f1) in $VENV_PATH"
