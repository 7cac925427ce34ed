"""Does the installed TensorRT run on this GPU? Records exactly what it says: python -m benchmarks.tensorrt_probe"""

import argparse
import sys
from pathlib import Path

from runtime import hardware
from runtime.engine import tensorrt_package
from runtime.engine.manifest import DECODER_PLAN, ENCODER_PLAN, TENSORRT, directory_name


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.tensorrt_probe", description=__doc__.splitlines()[0])
    parser.add_argument("--engines", type=Path, default=Path("engines"))
    parser.add_argument("--model", default="UsefulSensors/moonshine-base")
    arguments = parser.parse_args()
    package = tensorrt_package.find()
    if package is None:
        print("no TensorRT is installed")
        return 1
    trt = package.module
    print(f"{package.flavour} {package.version} on {hardware.find_gpu()}")
    runtime = trt.Runtime(trt.Logger(trt.Logger.VERBOSE))
    directory = arguments.engines / directory_name(arguments.model, TENSORRT, "fp16")
    read = True
    for plan in (ENCODER_PLAN, DECODER_PLAN):
        data = (directory / plan).read_bytes()
        if hasattr(runtime, "get_engine_validity"):
            print(f"{plan}: validity {runtime.get_engine_validity(data)}")
        engine = runtime.deserialize_cuda_engine(data)
        print(f"{plan}: {'deserialised' if engine else 'NOT deserialised'}")
        if engine:
            made = "made" if engine.create_execution_context() else "NOT made"
            print(f"{plan}: a context was {made}; {engine.device_memory_size_v2} bytes of activations")
        read = read and engine is not None
    return 0 if read else 1


if __name__ == "__main__":
    sys.exit(main())
