"""What this machine's processor can do."""

import platform
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def sums_int8_products_exactly(cpu_info: Path = CPU_INFO, machine: str = platform.machine()) -> bool:
    """Can products of 8 bits be added up without overflow? x86 can from VNNI on; before, it adds pairs of them in 16 bits."""
    if machine.lower() not in ("x86_64", "amd64"):
        return True
    flags = next((line for line in read_lines(cpu_info) if line.startswith("flags")), "").split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def read_lines(path: Path) -> list[str]:
    """Empty where there is no such file."""
    return path.read_text().splitlines() if path.is_file() else []
