"""The installed TensorRT: the data-centre package or TensorRT for RTX. They share one API; their plans do not mix."""

import importlib
from dataclasses import dataclass
from types import ModuleType

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # name: the module to import, the preferred one first

RTX_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")
"""Capabilities that plans of TensorRT for RTX 1.7 run on by default. It has no kernels for 9.0 (H100, H200)."""


@dataclass(frozen=True)
class TensorRt:
    """An installed TensorRT."""

    flavour: str
    version: str
    module: ModuleType

    def runs_on(self, compute_capability: str) -> bool:
        return self.flavour != "tensorrt-rtx" or compute_capability in RTX_CAPABILITIES


def find(flavour: str | None = None) -> TensorRt | None:
    """Return the installed TensorRT: of this flavour, or the first of FLAVOURS that is installed."""
    for name in (flavour,) if flavour else FLAVOURS:
        try:
            module = importlib.import_module(FLAVOURS[name])
        except ImportError:  # not installed, or its libraries are missing
            continue
        return TensorRt(name, module.__version__, module)
    return None
