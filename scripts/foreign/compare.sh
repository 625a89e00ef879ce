#!/usr/bin/env bash
# Exports a checkpoint with every exporter, and measures all in one run beside this program's own graphs:
# compare.sh CHECKPOINT FOLDER [options of `peft-bench measure`]
#
# FOLDER takes the environments (about 6 GB without TORCH_FROM, see environments.sh), the exports and the results.
# A checkpoint of Transformers 5 gets the older key `rope_theta` too, without which Optimum takes another rotation.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkpoint=$(realpath "$1") && mkdir -p "$2" && folder=$(realpath "$2") && shift 2
program=${PEFT_BENCH:-peft-bench}

"$here/environments.sh" "$folder/environments"

if [ ! -e "$folder/checkpoint/config.json" ]; then
    mkdir -p "$folder/checkpoint"
    cp -L "$checkpoint"/*.json "$folder/checkpoint/"
    for weights in "$checkpoint"/*.safetensors; do
        ln -sf "$(realpath "$weights")" "$folder/checkpoint/"
    done
    python3 - "$folder/checkpoint/config.json" <<'PYTHON'
import json, sys
path = sys.argv[1]
config = json.load(open(path))
theta = (config.get("rope_parameters") or {}).get("rope_theta")
if theta is not None:
    config["rope_theta"] = theta
json.dump(config, open(path, "w"), indent=2)
PYTHON
fi

export_with() {
    local environment=$1 kind=$2
    [ -e "$folder/$kind/exported" ] && return
    "$folder/environments/$environment/bin/python" "$here/export.py" "$kind" "$folder/checkpoint" "$folder/$kind"
    touch "$folder/$kind/exported"
}

for kind in builder-float32 builder-int4 transformers transformers-fused; do
    export_with builder "$kind"
done
export_with optimum optimum

cd "$folder"
# Quantizes the checkpoint, which then stands beside the builder's.
"$program" generate checkpoint --quantize 4bit --prompt a --max-new-tokens 1 --ep cpu > generated
"$program" measure checkpoint exported_models/*-4bit/base builder-float32 optimum transformers transformers-fused \
    builder-int4 --ep cpu "$@"
python3 "$here/table.py" results
