"""Is there an NVIDIA GPU? Asked of the driver itself, so that it needs no package and imports none."""

import ctypes
import os
from dataclasses import dataclass

COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute, cuda.h


@dataclass(frozen=True)
class Gpu:
    """The first visible device."""

    name: str
    compute_capability: str
    """As 9.0."""
    driver_cuda_version: str
    """The newest CUDA that the driver serves, as 13.0."""


DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"  # CUDA's own


def visible() -> list[str]:
    """Every device as CUDA_VISIBLE_DEVICES names it, to be made the only one of a process; empty without any."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    named = [name.strip() for name in os.environ.get(DEVICES_VARIABLE, "").split(",") if name.strip()]
    return (named or [str(index) for index in range(count.value)])[: count.value]


def find() -> Gpu | None:
    """The first device that CUDA_VISIBLE_DEVICES leaves; None without a driver or a device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGet(ctypes.byref(device), 0)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDriverGetVersion(ctypes.byref(version))

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    capability = f"{attribute(COMPUTE_CAPABILITY_MAJOR)}.{attribute(COMPUTE_CAPABILITY_MINOR)}"
    return Gpu(name.value.decode(), capability, f"{version.value // 1000}.{version.value % 1000 // 10}")
