#!/usr/bin/env bash
# Installs everything to build engines and to serve them. --serve installs what serving needs only: no torch.
# With an NVIDIA GPU, TensorRT for RTX and cuda-python too; without one, on a processor with VNNI, a C++ compiler where it may.
#   VENV_PATH       where the virtual environment is or will be (.venv)
#   TORCH_CUDA      a CUDA build of torch, such as cu121 (default: CPU); TORCH_VERSION, TORCH_INDEX_URL with it
source "$(dirname "$0")/environment.sh"
make_environment
if [ "${1:-}" = --serve ]; then
    install_project "server$(gpu_extra)"
else
    install_torch
    install_project "export$(gpu_extra)"
    [ -n "$(gpu_extra)" ] || offer_compiler
fi
say "installed in $VENV_PATH"
