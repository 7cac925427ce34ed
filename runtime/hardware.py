"""This machine's processor instructions, C++ compiler and NVIDIA GPUs, read from the system without any package."""

import ctypes
import importlib.util
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
COMPILERS = ("c++", "g++", "clang++")
X86 = ("x86_64", "amd64")


def sums_int8_products_exactly(cpu_info: Path | None = None, machine: str = platform.machine()) -> bool:
    """True if 8-bit products are added without overflow. x86 does so with VNNI; without VNNI it adds pairs in 16 bits."""
    return machine.lower() not in X86 or has_vnni(cpu_info)


def has_vnni(cpu_info: Path | None = None) -> bool:
    """True if the processor has VNNI, x86's instructions for 8-bit products."""
    flags = processor_flags(cpu_info)
    return "avx512_vnni" in flags or "avx_vnni" in flags


def has_flags(flags: Iterable[str]) -> bool:
    """True if the processor has all these instructions, by the names of /proc/cpuinfo."""
    return processor_flags().issuperset(flags)


def processor_flags(cpu_info: Path | None = None) -> frozenset[str]:
    return frozenset(next((line for line in read_lines(cpu_info or CPU_INFO) if line.startswith("flags")), "").split())


def find_compiler() -> list[str]:
    """Return the command of a C++ compiler: CXX, else the first that is installed, else PyPI's Zig; empty if there is none."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named
    if installed := list(filter(shutil.which, COMPILERS)):
        return installed[:1]
    return [sys.executable, "-m", "ziglang", "c++"] if importlib.util.find_spec("ziglang") else []


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file; empty if it does not exist."""
    return path.read_text().splitlines() if path.is_file() else []


COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute, cuda.h


@dataclass(frozen=True)
class Gpu:
    """The first visible device."""

    name: str
    compute_capability: str
    """Compute capability, such as 9.0."""
    driver_cuda_version: str
    """Newest CUDA version that the driver supports, such as 13.0."""


DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"  # CUDA's own
TORCH_DEVICE_VARIABLE = "TORCH_ENGINE_DEVICE"  # "cpu" tries the torch engine without a GPU


def visible_gpus() -> list[str]:
    """Return each device's name for CUDA_VISIBLE_DEVICES, so that a process can get just one; empty without devices."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    named = [name.strip() for name in os.environ.get(DEVICES_VARIABLE, "").split(",") if name.strip()]
    return (named or [str(index) for index in range(count.value)])[: count.value]


def find_gpu() -> Gpu | None:
    """Return the first device that CUDA_VISIBLE_DEVICES allows; None without a driver or a device."""
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
