#!/bin/sh
# Measures the base against itself in TRIALS separate runs, and counts the 95 % intervals that contain zero. Of 20, at
# least 18 should. Exits with 1 if fewer than 90 % do, or if a run fails. It takes as long as TRIALS measurements (some
# minutes by default), so no test runs it.
#
#   scripts/aa_trials.sh [experiment] [options of `measure`]
#   TRIALS=5 scripts/aa_trials.sh lora/lora_r8 --model synthetic/llama-336m
#   PEFT_BENCH=/path/to/peft-bench scripts/aa_trials.sh
#
# By default it uses short prompts and few tokens, since only the spread of the runs matters. Override these with
# `--config` or `--prompts`.
set -u

root=$(cd "$(dirname "$0")/.." && pwd)
trials=${TRIALS:-20}
program=${PEFT_BENCH:-$root/target/release/peft-bench}
experiment=${1:-$root/experiments/lora/lora_r8}
[ $# -eq 0 ] || shift

case $trials in
'' | 0 | *[!0-9]*)
    echo "TRIALS must be a number above zero, and is \`$trials\`" >&2
    exit 2
    ;;
esac
if [ ! -x "$program" ]; then
    echo "there is no program \`$program\`; run \`cargo build --release\`, or set PEFT_BENCH" >&2
    exit 2
fi

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM
cat > "$folder/config.json" <<'JSON'
{
  "model_id": "synthetic/llama-135m",
  "dtype": "float32",
  "seed": 42,
  "max_new_tokens": 4,
  "num_inference_runs": 10,
  "num_prompt_samples": 1
}
JSON
cat > "$folder/prompts.json" <<'JSON'
{
  "short": ["Write a line about the sea."],
  "medium": ["Explain in a few words why the sky is blue at noon and red in the evening."],
  "long": ["Compare the train, the bus and the bicycle for a way of ten kilometres to work, with hills and rain."]
}
JSON
case " $* " in
*" --config"*) ;;
*) set -- --config "$folder/config.json" "$@" ;;
esac
case " $* " in
*" --prompts"*) ;;
*) set -- --prompts "$folder/prompts.json" "$@" ;;
esac

contained=0
failed=0
trial=1
while [ "$trial" -le "$trials" ]; do
    results=$folder/$trial
    if "$program" measure "$experiment" --aa --output "$results" --export-dir "$folder/exported" "$@" \
        > "$results.txt" 2> "$results.log"; then
        verdict='does not contain zero'
        if grep -q '"contains_zero": true' "$results"/*.json; then
            contained=$((contained + 1))
            verdict='contains zero'
        fi
        interval=$(sed -n 's|^a/a.*itself: \([^,]*\),.*|\1|p' "$results.txt")
        echo "$trial of $trials: ${interval:-no interval}, $verdict"
    else
        failed=$((failed + 1))
        echo "$trial of $trials: failed"
        tail -n 3 "$results.log" >&2
    fi
    trial=$((trial + 1))
done
echo "$contained of $trials intervals contain zero, $failed runs failed"
[ "$failed" -eq 0 ] && [ $((contained * 10)) -ge $((trials * 9)) ]
