#!/bin/sh
# Measures the base against itself in TRIALS runs of their own, and counts the 95 % intervals that contain zero: it
# should be at least 18 of 20. Exits with 1 if it's fewer than nine tenths. It takes TRIALS measurements' time, so no
# test runs it.
#
#   scripts/aa_trials.sh [experiment] [options of `measure`]
#   TRIALS=5 scripts/aa_trials.sh lora/lora_r8 --model synthetic/llama-135m
set -eu

trials=${TRIALS:-20}
program=${PEFT_BENCH:-target/release/peft-bench}
experiment=${1:-lora/lora_r8}
[ $# -eq 0 ] || shift

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
contained=0
trial=1
while [ "$trial" -le "$trials" ]; do
    "$program" measure "$experiment" --aa --output "$folder/$trial" "$@" > "$folder/$trial.txt"
    grep '^a/a' "$folder/$trial.txt"
    if grep -q '"contains_zero": true' "$folder/$trial"/*.json; then
        contained=$((contained + 1))
    fi
    trial=$((trial + 1))
done
echo "$contained of $trials intervals contain zero"
[ $((contained * 10)) -ge $((trials * 9)) ]
