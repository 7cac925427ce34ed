"""A stand-in for a GPU, so that the TensorRT engine runs where there is none: its buffers, addresses, shapes and order.

Device memory is host memory, the kernels are those of runtime/engine/kernels.cu compiled for the host, and a plan is the
ONNX it was compiled from, run by ONNX Runtime. What TensorRT and CUDA themselves do is left to tests marked gpu.
"""

import ctypes
import enum
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from runtime.engine.staging import Done

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
ALIGNMENT = 256


def at(address: int, dtype: type, shape: Sequence[int]) -> np.ndarray:
    """The array that lies at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


class Late(Done):
    """An event that is past only once somebody waits for it: no step is seen to be done before the next is planned."""

    is_done = False


class HostCuda:
    """See runtime.cuda_device.CudaDevice. Counts what it is asked for."""

    stream_handle = 0

    def __init__(self, kernels: ctypes.CDLL, event: Done | None = None):
        self._kernels = kernels
        self._event = event or Done()
        self._memory: list[np.ndarray] = []
        self.stream = self
        self.captured = 0
        self.closed = False

    @property
    def allocations(self) -> int:
        return len(self._memory)

    def sync(self) -> None:
        pass

    def enter(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        address = self.host_memory(size + ALIGNMENT).ctypes.data
        return address + -address % ALIGNMENT

    def zero(self, address: int, size: int) -> None:
        ctypes.memset(address, 0, size)

    def host_memory(self, size: int) -> np.ndarray:
        self._memory.append(np.zeros(size, np.uint8))
        return self._memory[-1]

    def copy_in(self, address: int, host: np.ndarray) -> None:
        ctypes.memmove(address, host.ctypes.data, host.nbytes)

    def copy_out(self, host: np.ndarray, address: int) -> None:
        ctypes.memmove(host.ctypes.data, address, host.nbytes)

    def launch(self, kernel: str, work: int, grid: tuple[int, int], addresses: Sequence[int], sizes: Sequence[int]) -> None:
        arguments = [*map(ctypes.c_void_p, addresses), *map(ctypes.c_int, sizes)]
        getattr(self._kernels, f"run_{kernel}")(1, *grid, 1, *arguments)

    def record(self) -> Done:
        return self._event

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        return work

    def close(self) -> None:
        self.closed = True


class HostTensorRt:
    """What runtime/engine/tensorrt_engine.py uses of the tensorrt module. A plan's bytes are the path of its ONNX."""

    class ExecutionContextAllocationStrategy(enum.Enum):
        USER_MANAGED = 0

    class Logger:
        WARNING = 0

        def __init__(self, level: int):
            pass

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> "HostEngine":
            return HostEngine(Path(plan.decode()))


class HostTensorRtRtx(HostTensorRt):
    """TensorRT for RTX: contexts come from a configuration, with a cache of compiled kernels."""

    class DynamicShapesKernelSpecializationStrategy(enum.Enum):
        LAZY = 0
        EAGER = 1

    class Runtime(HostTensorRt.Runtime):
        def deserialize_cuda_engine(self, plan: bytes) -> "HostRtxEngine":
            return HostRtxEngine(Path(plan.decode()))


class HostKernels:
    """A cache that takes what one has serialised, and nothing else."""

    HEAD = b"kernels of "

    def __init__(self) -> None:
        self.contexts = 0
        self.found = b""

    def deserialize(self, data: bytes) -> bool:
        self.found = data if data.startswith(self.HEAD) else b""
        return bool(self.found)

    def serialize(self) -> bytes:
        return self.HEAD + str(self.contexts).encode()


class HostRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: enum.Enum | None = None

    def __init__(self) -> None:
        self.kernels: HostKernels | None = None
        self.allocation: enum.Enum | None = None

    def set_execution_context_allocation_strategy(self, strategy: enum.Enum) -> None:
        self.allocation = strategy

    def create_runtime_cache(self) -> HostKernels:
        return HostKernels()

    def set_runtime_cache(self, kernels: HostKernels) -> bool:
        self.kernels = kernels
        return True


class HostEngine:
    device_memory_size_v2 = 1024

    def __init__(self, path: Path):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def create_execution_context(self, strategy) -> "HostContext":
        return HostContext(self.session)


class HostRtxEngine(HostEngine):
    def create_runtime_config(self) -> HostRuntimeConfig:
        return HostRuntimeConfig()

    def create_execution_context(self, config: HostRuntimeConfig) -> "HostContext":
        strategies = HostTensorRtRtx.DynamicShapesKernelSpecializationStrategy
        assert config.dynamic_shapes_kernel_specialization_strategy is strategies.EAGER, "a graph keeps what it was captured with"
        assert config.allocation is HostTensorRt.ExecutionContextAllocationStrategy.USER_MANAGED
        config.kernels.contexts += 1
        return HostContext(self.session)


class HostContext:
    def __init__(self, session: onnxruntime.InferenceSession):
        self._session = session
        self._inputs = {each.name: TYPES[each.type] for each in session.get_inputs()}
        self._outputs = [each.name for each in session.get_outputs()]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % ALIGNMENT == 0 and size >= HostEngine.device_memory_size_v2

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        return index >= 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return name in self._inputs

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in self._inputs or name in self._outputs

    def execute_async_v3(self, stream: int) -> bool:
        feed = {name: at(self._addresses[name], dtype, self._shapes[name]) for name, dtype in self._inputs.items()}
        for name, value in zip(self._outputs, self._session.run(None, feed), strict=True):
            at(self._addresses[name], value.dtype, value.shape)[:] = value
        return True
