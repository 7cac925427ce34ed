# shellcheck shell=bash
# Sourced on a borrowed GPU machine, once for each part of bundle.sh; after the last one PYTHONPATH has what was missing.
gpu_bundle_dir="${GPU_BUNDLE_DIR:-/tmp/gpu_bundle}"
gpu_part_dir="$(dirname "${BASH_SOURCE[0]}")"
read -r gpu_part _ gpu_parts <"$gpu_part_dir/number"
mkdir -p "$gpu_bundle_dir"
cp "$gpu_part_dir/piece" "$gpu_bundle_dir/piece-$gpu_part"
if [ "$(find "$gpu_bundle_dir" -name 'piece-*' | wc -l)" = "$gpu_parts" ]; then
    cat "$gpu_bundle_dir"/piece-* | xz -d -T0 | tar -C "$gpu_bundle_dir" -xf -
    cp "$gpu_bundle_dir"/eval/*.wav tests/data/eval/
fi
export PYTHONPATH="$gpu_bundle_dir/site${PYTHONPATH:+:$PYTHONPATH}"
