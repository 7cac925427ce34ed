"""The machine on which a figure was measured; every result includes it."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path

import numpy as np

from runtime import hardware

PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "numpy",
    "onnxruntime",
    "torch",
    "triton",
    "transformers",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-core",
    "cuda-bindings",
    "aiortc",
)


def describe() -> dict:
    """Return machine, versions, commit and date, ready for JSON."""
    found = hardware.find_gpu()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpu": found and found.name,
        "compute_capability": found and found.compute_capability,
        "driver": driver_version() if found else None,
        "python": platform.python_version(),
        "versions": {package: version for package in PACKAGES if (version := installed_version(package))},
    }


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the checkout's commit, with a plus if it has uncommitted changes."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=PROJECT, capture_output=True, text=True)
    except OSError:  # no git here
        return None
    return done.stdout.strip() or None


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def driver_version() -> str | None:
    return query_gpu("driver_version")


def gpu_memory_mib() -> int | None:
    """Return the memory in use on the GPU, by all processes."""
    used = query_gpu("memory.used")
    return int(used) if used and used.isdigit() else None


def query_gpu(field: str) -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else None


def measure_ceilings(precision: str) -> tuple[float, float]:
    """Return this machine's floating-point operations a second in a large matrix product, and bytes a second in a copy."""
    if hardware.find_gpu() is None:
        return cpu_ceilings()
    import torch

    if not torch.cuda.is_available():
        return float("inf"), float("inf")  # no floor is known

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision, torch.float16)
    size, elements = 8192, 1 << 28
    matrix = torch.randn(size, size, device="cuda", dtype=dtype)
    numbers = torch.empty(2, elements, device="cuda", dtype=torch.float32)
    product = timed_on_gpu(torch, lambda: torch.mm(matrix, matrix))
    copy = timed_on_gpu(torch, lambda: numbers[0].copy_(numbers[1]))
    return 2 * size**3 / product, 2 * 4 * elements / copy


def timed_on_gpu(torch, work, repeats: int = 10) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def cpu_ceilings() -> tuple[float, float]:
    size, elements = 2048, 1 << 26
    left, right = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    source, target = np.ones(elements, np.float32), np.empty(elements, np.float32)
    seconds = []
    for work in (lambda: left @ right, lambda: np.copyto(target, source)):
        work()
        runs = []
        for _ in range(5):
            began = time.perf_counter()
            work()
            runs.append(time.perf_counter() - began)
        seconds.append(min(runs))
    return 2 * size**3 / seconds[0], 2 * 4 * elements / seconds[1]
