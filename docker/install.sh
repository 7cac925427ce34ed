#!/usr/bin/env bash
# What the image's stages install, each on top of server; also runs outside Docker: install.sh STAGE VENV
#   server     the server and the weights of Moonshine Base
#   libraries  the native engine's libraries, for every level of x86-64, into the checkout
#   gpu        TensorRT for RTX and cuda-python
#   torch      torch with CUDA, and cuda-python
stage="$1"
export VENV_PATH="$2"
source "$(dirname "$0")/../scripts/environment.sh"
case "$stage" in
server)
    make_environment
    install_project server
    # Its files cannot be written to when it runs: what is imported then is compiled now.
    env -u PYTHONDONTWRITEBYTECODE "$PYTHON" -c 'import server.command, server.app, server.processes.supervisor, engine_build.build
import engine_build.native_target, engine_build.onnxruntime_target, runtime.engine.native_clip_engine, runtime.engine.native_stream_engine, runtime.engine.onnx_clip_engine, runtime.engine.onnx_stream_engine'
    find "$VENV_PATH/lib" -type d \( -name tests -o -path "*/onnx/backend/test" \) -prune -exec rm -rf {} +
    ;;
libraries)
    mkdir -p engine_build/native/compiled # there to be copied, also where it stays empty
    [ "$(uname -m)" = x86_64 ] || exit 0
    [ -n "${CXX:-}" ] || command -v g++ >/dev/null || apt_install "a C++ compiler" g++ libc6-dev
    "$PYTHON" -m engine_build.native_libraries
    ;;
gpu) install_project server,gpu ;;
torch)
    install_torch
    pip_install -c <(torch_constraints) "onnxscript>=0.5" "cuda-core>=1,<2" "cuda-bindings>=13,<14"
    ;;
*) fail "unknown stage $stage: server, libraries, gpu or torch" ;;
esac
