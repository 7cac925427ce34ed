"""Which TensorRT is installed: the data-centre package or TensorRT for RTX. One API; their plans do not mix."""

import importlib
from dataclasses import dataclass
from types import ModuleType

FLAVOURS = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # name: the module to import, the preferred one first


@dataclass(frozen=True)
class TensorRt:
    """An installed TensorRT."""

    flavour: str
    version: str
    module: ModuleType


def find(flavour: str | None = None) -> TensorRt | None:
    """The installed TensorRT: of this flavour, or the first of FLAVOURS there is."""
    for name in (flavour,) if flavour else FLAVOURS:
        try:
            module = importlib.import_module(FLAVOURS[name])
        except ImportError:  # not installed, or its libraries are not
            continue
        return TensorRt(name, module.__version__, module)
    return None
