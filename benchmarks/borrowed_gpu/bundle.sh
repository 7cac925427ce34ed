#!/usr/bin/env bash
# Packs what a borrowed GPU machine lacks, for one without network: bundle.sh [PART_MIB]
# Such a machine is taken to have Python 3.12 with torch, transformers, onnx, onnxruntime, httpx, rich, pytest, hypothesis,
# uvloop and prometheus-client. Writes .gpu_bundle/part-N, each of PART_MIB MiB at most (default: 52, which leaves room for the
# checkout in 64), and prints what to call there, part by part.
source "$(dirname "$0")/../../scripts/environment.sh"
part_mib="${1:-52}"
bundle=.gpu_bundle
wheels=(pydantic pydantic-core annotated-types typing-inspection itsdangerous msgspec pyzmq whisper-normalizer more-itertools)
[ -x "$PYTHON" ] || fail "make the environment first: bash scripts/install.sh"

rm -rf "$bundle" && mkdir -p "$bundle/packed/site" "$bundle/packed/eval"

say "wheels for Python 3.12"
pinned=()
for name in "${wheels[@]}"; do
    version=$("$PYTHON" -c "from importlib.metadata import version; print(version('$name'))") || fail "$name is not installed here"
    pinned+=("$name==$version")
done
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux2010 manylinux1; do
    platforms+=(--platform "${platform}_x86_64")
done
"$PYTHON" -m pip install --quiet --no-deps --no-compile --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
    --target "$bundle/packed/site" "${pinned[@]}"

say "weights, without the library that nobody reads"
"$PYTHON" - "$bundle/packed/site" <<'PYTHON'
import importlib.metadata
import shutil
import sys
from pathlib import Path

site = Path(sys.argv[1])
package = importlib.metadata.distribution("moonshine-cpp")
for file in package.files or ():
    if "base-en" in file.parts or file.suffix == ".py" or file.parts[0].endswith(".dist-info"):
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package.locate_file(file), site / file)
PYTHON

say "the evaluation clips as WAV: there is no PyAV there"
"$PYTHON" - "$bundle/packed/eval" <<'PYTHON'
import sys
import wave
from pathlib import Path

from benchmarks.harness.accuracy import EVALUATION
from moonshine_client import audio_file

for clip in EVALUATION.glob("*.flac"):
    with wave.open(str(Path(sys.argv[1]) / f"{clip.stem}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio_file.SAMPLE_RATE)
        file.writeframes(audio_file.load(clip).tobytes())
PYTHON

say "packing"
tar -C "$bundle/packed" -cf - site eval | xz -T0 -6 >"$bundle/packed.tar.xz"
split -b "${part_mib}m" -d -a 1 --numeric-suffixes=1 "$bundle/packed.tar.xz" "$bundle/part-"
rm -r "$bundle/packed" "$bundle/packed.tar.xz"
parts=("$bundle"/part-*)
for part in "${parts[@]}"; do
    mv "$part" "$part.piece" && mkdir "$part" && mv "$part.piece" "$part/piece"
    cp benchmarks/borrowed_gpu/unpack.sh "$part/unpack.sh"
    printf '%s of %s\n' "${part##*-}" "${#parts[@]}" >"$part/number"
done

du -sh --apparent-size "${parts[@]}" >&2
cat <<END
On the GPU machine, in the root of this checkout, within one boot, and each with its part brought along:
$(printf '    source %s/unpack.sh\n' "${parts[@]}")
and in the shell of the last one
    bash scripts/gpu_check.sh OUTDIR
END
