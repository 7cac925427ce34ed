"""Tests the installed TensorRT on this GPU: compiles a tiny network, runs it and compares. python -m benchmarks.tensorrt_probe

A runtime that lacks kernels for a GPU may read a plan, make a context, and return zeros without an error.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np

from runtime import hardware
from runtime.engine import tensorrt_package
from runtime.engine.tensorrt_engine import bind, why_refused

ROWS, INNER, COLUMNS = 16, 64, 32
LARGEST_DIFFERENCE = 1e-3  # of sums of 64 products in float32


def main() -> int:
    package = tensorrt_package.find()
    if package is None:
        print("no TensorRT is installed")
        return 1
    print(f"{package.flavour} {package.version} on {hardware.find_gpu()}")
    from engine_build.options import Stages
    from engine_build.tensorrt_target import compile_plan
    from runtime.engine.cuda_device import CudaDevice

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "tiny.onnx"
        expected = write_network(path)
        plan = compile_plan(package, path.name, path.read_bytes(), [{"x": ((ROWS, INNER),) * 3}], Stages.silent())
    print(f"compiled, {len(plan):,} bytes")
    return 0 if runs_right(package.module, plan, lambda: CudaDevice(4), expected) else 1


def write_network(path: Path) -> np.ndarray:
    """Write the network max(x W, 0) with a random W; returns its output for given()."""
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.random.default_rng(1).standard_normal((INNER, COLUMNS)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["xw"]), helper.make_node("Relu", ["xw"], ["y"])]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, size]) for name, size in (("x", INNER), ("y", COLUMNS)))
    graph = helper.make_graph(nodes, "tiny", [x], [y], [numpy_helper.from_array(weight, "w")])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return np.maximum(given() @ weight, 0)


def given() -> np.ndarray:
    return np.random.default_rng(2).standard_normal((ROWS, INNER)).astype(np.float32)


def runs_right(trt: ModuleType, plan: bytes, open_cuda: Callable, expected: np.ndarray) -> bool:
    """True if the plan gives the expected output; prints every step's result. trt: TensorRT's module; open_cuda: returns a
    runtime.engine.cuda_device.CudaDevice."""
    runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        print(f"the plan cannot be read: {why_refused(trt, runtime, plan)}")
        return False
    cuda = open_cuda()
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is None:
        print("no execution context was made")
        return False
    size, x = max(engine.device_memory_size_v2, 1), given()
    answer = cuda.host_memory(expected.nbytes)
    source, result = cuda.allocate(x.nbytes), cuda.allocate(expected.nbytes)
    context.set_device_memory(cuda.allocate(size), size)
    context.set_optimization_profile_async(0, cuda.stream_handle)
    bind(context, {"x": (x.shape, source)}, {"y": result})
    cuda.copy_in(source, x)
    ran = context.execute_async_v3(cuda.stream_handle)
    cuda.copy_out(answer, result)
    cuda.record().sync()
    found = answer.view(np.float32).reshape(expected.shape)
    difference = float(np.abs(found - expected).max())
    print(
        f"it {'ran' if ran else 'did NOT run'}; {np.count_nonzero(found)} of {found.size} numbers are not zero, "
        f"they differ by {difference:.2g} at most from those of the host"
    )
    return bool(ran) and difference <= LARGEST_DIFFERENCE


if __name__ == "__main__":
    sys.exit(main())
