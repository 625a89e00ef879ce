#!/usr/bin/env bash
# Exports a checkpoint with every exporter, and measures all in one run beside this program's own graphs:
# compare.sh CHECKPOINT FOLDER [options of `peft-bench measure`]
#
# FOLDER takes the environments (about 6 GB without TORCH_FROM, see environments.sh), the exports and the results.
# What is complete there is kept, so that a second run only measures. PEFT_BENCH names the program, if it isn't on PATH.
# A checkpoint of Transformers 5 gets the older key `rope_theta` too, without which Optimum takes another rotation.
# The exit code is that of `measure`, which fails if logits differ too much; the table is printed all the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 2 ] || { echo "usage: compare.sh CHECKPOINT FOLDER [options of measure]" >&2; exit 2; }
[ -e "$1/config.json" ] || { echo "$1 has no config.json: name the folder of a checkpoint" >&2; exit 1; }
checkpoint=$(realpath "$1") && mkdir -p "$2" && folder=$(realpath "$2") && shift 2
name=${PEFT_BENCH:-peft-bench}
program=$(command -v "$name") || { echo "there is no program $name: PEFT_BENCH names it" >&2; exit 1; }
program=$(realpath "$program")

"$here/environments.sh" "$folder/environments"

if [ ! -e "$folder/checkpoint" ]; then
    partial=$folder/.partial-checkpoint
    rm -rf "$partial" && mkdir "$partial"
    for file in "$checkpoint"/*.json "$checkpoint"/*.jinja "$checkpoint"/*.model; do
        if [ -e "$file" ]; then cp -L "$file" "$partial/"; fi
    done
    for weights in "$checkpoint"/*.safetensors; do
        ln -s "$(realpath "$weights")" "$partial/"
    done
    python3 - "$partial/config.json" <<'PYTHON'
import json, sys
path = sys.argv[1]
config = json.load(open(path))
theta = (config.get("rope_parameters") or {}).get("rope_theta")
if theta is not None:
    config["rope_theta"] = theta
json.dump(config, open(path, "w"), indent=2)
PYTHON
    mv "$partial" "$folder/checkpoint"
fi

export_with() {
    local environment=$1 kind=$2
    [ -e "$folder/$kind/exported" ] && return
    rm -rf "${folder:?}/$kind"
    "$folder/environments/$environment/bin/python" "$here/export.py" "$kind" "$folder/checkpoint" "$folder/$kind"
    touch "$folder/$kind/exported"
}

for kind in builder-float32 builder-int4 transformers transformers-fused; do
    export_with builder "$kind"
done
export_with optimum optimum

cd "$folder"
rm -rf results ours-4bit
# Quantizes the checkpoint, which then stands beside the builder's.
"$program" generate checkpoint --quantize 4bit --prompt a --max-new-tokens 1 --ep cpu --export-dir ours-4bit > generated
code=0
"$program" measure checkpoint ours-4bit/*/base builder-float32 optimum transformers transformers-fused builder-int4 \
    --ep cpu "$@" || code=$?
python3 "$here/table.py" results
exit "$code"
