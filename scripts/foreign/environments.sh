#!/usr/bin/env bash
# Makes the environments of other exporters below a folder: environments.sh FOLDER
#
# FOLDER/builder has onnxruntime-genai and Transformers' own exporter; FOLDER/optimum has Optimum, which needs an older
# Transformers. TORCH_FROM may name a folder of site-packages that has PyTorch 2.15 already, which saves gigabytes.
set -euo pipefail
folder=$1

environment() {
    local name=$1 && shift
    local place=$folder/$name
    [ -e "$place/ready" ] && return
    python3 -m venv "$place"
    if [ -n "${TORCH_FROM:-}" ]; then
        realpath "$TORCH_FROM" > "$("$place/bin/python" -c 'import site; print(site.getsitepackages()[0])')/torch_from.pth"
    else
        "$place/bin/pip" install --quiet torch==2.15.0
    fi
    "$place/bin/pip" install --quiet "$@"
    touch "$place/ready"
}

environment builder onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 \
    transformers==5.24.0
environment optimum optimum-onnx==0.1.0 onnxruntime==1.32.0 onnx==1.23.2 transformers==4.57.6
