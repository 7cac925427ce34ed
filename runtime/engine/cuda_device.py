"""One GPU through cuda-python: a stream, memory, kernels and the capture of graphs. Everything is enqueued on the one stream."""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from cuda.bindings import nvrtc
from cuda.bindings import runtime as cudart
from cuda.core import Device, Event, LaunchConfig, LegacyPinnedMemoryResource, ObjectCode, launch

from runtime.exceptions import EngineFailed

KERNELS = Path(__file__).with_name("kernels.cu")
THREADS = 256  # per block
BLOCKS = 64  # most blocks along a grid's first axis; kernels loop over the rest

CELLS = {2: "unsigned short", 4: "unsigned int"}  # by bytes


class CudaDevice:
    """The first visible device. Usable from any thread, one at a time."""

    def __init__(self, cell_bytes: int):
        """cell_bytes: size of a cached key or value, for the kernels."""
        self._device = Device(0)
        self._device.set_current()
        self._thread = threading.get_ident()
        self.stream = self._device.create_stream()
        self._pinned = LegacyPinnedMemoryResource()
        self._buffers = []  # all that was allocated, until close()
        self._executables = []  # graphs, likewise
        capability = self._device.compute_capability
        code = ObjectCode.from_cubin(compile_kernels(f"{capability.major}{capability.minor}", cell_bytes))
        self._kernels = {name: code.get_kernel(name) for name in ("hear", "keep_cross", "continue_rows", "keep_past")}

    @property
    def stream_handle(self) -> int:
        return int(self.stream.handle)

    def enter(self) -> None:
        """Make the device current on the calling thread."""
        if threading.get_ident() != self._thread:
            self._device.set_current()
            self._thread = threading.get_ident()

    def allocate(self, size: int) -> int:
        """Allocate `size` zeroed bytes of device memory and return their address."""
        buffer = self._device.allocate(max(size, 1), stream=self.stream)
        self._buffers.append(buffer)
        check(cudart.cudaMemsetAsync(int(buffer.handle), 0, max(size, 1), self.stream_handle))
        self.stream.sync()
        return int(buffer.handle)

    def zero(self, address: int, size: int) -> None:
        check(cudart.cudaMemsetAsync(address, 0, size, self.stream_handle))

    def host_memory(self, size: int) -> np.ndarray:
        """Allocate uint8 (size,), page-locked: copies to and from it overlap with work on the device."""
        buffer = self._pinned.allocate(size)
        self._buffers.append(buffer)
        memory = np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(int(buffer.handle))), np.uint8)
        memory[:] = 0
        return memory

    def copy_in(self, address: int, host: np.ndarray) -> None:
        self._copy(address, host.ctypes.data, host.nbytes, cudart.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def copy_out(self, host: np.ndarray, address: int) -> None:
        self._copy(host.ctypes.data, address, host.nbytes, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, to: int, source: int, size: int, kind: cudart.cudaMemcpyKind) -> None:
        check(cudart.cudaMemcpyAsync(to, source, size, kind, self.stream_handle))

    def launch(self, kernel: str, work: int, grid: tuple[int, int], addresses: Sequence[int], sizes: Sequence[int]) -> None:
        """Launch a kernel.

        work: cells along the grid's first axis; grid: its other two axes; addresses and sizes: the kernel's arguments.
        """
        config = LaunchConfig(grid=(min(BLOCKS, -(-work // THREADS)), *grid), block=THREADS)
        # cuda.core takes a Python int for a pointer.
        launch(self.stream, config, self._kernels[kernel], *addresses, *map(np.int32, sizes))

    def record(self) -> "CudaEvent":
        return CudaEvent(self.stream.record())

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` enqueues as a CUDA graph; returns its replay."""
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self.stream_handle, mode))
        try:
            work()
        except BaseException:
            cudart.cudaStreamEndCapture(self.stream_handle)  # makes the stream usable again; the error raised is that of the work
            raise
        graph = check(cudart.cudaStreamEndCapture(self.stream_handle))
        executable = check(cudart.cudaGraphInstantiate(graph, 0))
        check(cudart.cudaGraphDestroy(graph))
        self._executables.append(executable)

        def replay() -> None:
            check(cudart.cudaGraphLaunch(executable, self.stream_handle))

        return replay

    def close(self) -> None:
        self.stream.sync()
        while self._executables:
            check(cudart.cudaGraphExecDestroy(self._executables.pop()))
        while self._buffers:
            self._buffers.pop().close()


class CudaEvent:
    """See runtime.engine.staging.Event."""

    def __init__(self, event: Event):
        self._event = event

    @property
    def is_done(self) -> bool:
        with failing():
            return self._event.is_done

    def sync(self) -> None:
        with failing():
            self._event.sync()


@contextlib.contextmanager
def failing() -> Iterator[None]:
    """Turn an error of the device into EngineFailed. Such errors appear where the host waits for the device."""
    try:
        yield
    except Exception as exc:  # they share no base but Exception
        raise EngineFailed(f"CUDA failed: {exc}") from exc


def compile_kernels(capability: str, cell_bytes: int) -> bytes:
    """Return the cubin of kernels.cu for a compute capability such as 90. Needs no GPU.

    Raises EngineFailed with the compiler's log.
    """
    source = f"#define CELL {CELLS[cell_bytes]}\n{KERNELS.read_text()}"
    program = check(nvrtc.nvrtcCreateProgram(source.encode(), KERNELS.name.encode(), 0, [], []))
    options = [f"--gpu-architecture=sm_{capability}".encode()]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(check(nvrtc.nvrtcGetProgramLogSize(program)))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        reason = log.decode(errors="replace").strip("\0\n ")
        raise EngineFailed(f"{KERNELS.name} does not compile for {capability}: {reason}")
    cubin = bytearray(check(nvrtc.nvrtcGetCUBINSize(program)))
    check(nvrtc.nvrtcGetCUBIN(program, cubin))
    return bytes(cubin)


def check(result: tuple):
    """Return the value of a cuda-python result, which begins with a status. Raises EngineFailed unless the status is success."""
    status, *values = result
    if status.value:
        raise EngineFailed(f"CUDA failed: {status.name}")
    return values[0] if len(values) == 1 else None
