#!/usr/bin/env bash
# Runs a script of this folder in an environment that's thrown away.
#
#     scripts/deploy/run.sh real_model.py target/release/peft-bench BASE LORA DORA
#     scripts/deploy/run.sh fixtures.py target/release/peft-bench > table.md
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
script=$1
shift
"$environment/bin/python" "$here/$script" "$@"
