#!/usr/bin/env python3
"""Measures the same program many times, and counts what `peft-bench compare` says of two such results: how often it finds
one worse although both are of the same program (at most 5 % is wanted), and how often it finds a slowdown that was put
into one of the files.

    scripts/compare_trials.py                          # measures for 8 minutes, then compares
    scripts/compare_trials.py --minutes 30 --keep trials/    # keeps the results, and goes on from those that are there
    scripts/compare_trials.py --minutes 0 --keep trials/     # only compares
    scripts/compare_trials.py -- --model synthetic/llama-336m --threads 2

What follows `--` goes to `measure`. PEFT_BENCH names another program than target/release/peft-bench. A slowdown is put in
by multiplying every time of the unmerged variant in the newer file. It exits with 1 if more than 5 % of the comparisons
without a slowdown were found worse.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PARAMETERS = {
    "model_id": "synthetic/llama-135m",
    "dtype": "float32",
    "seed": 42,
    "max_new_tokens": 4,
    "num_inference_runs": 5,
    "num_prompt_samples": 1,
}
PROMPTS = {
    "short": ["Write a line about the sea."],
    "medium": ["Explain in a few words why the sky is blue at noon and red in the evening."],
    "long": ["Compare the train, the bus and the bicycle for a way of ten kilometres to work, with hills and rain."],
}
SLOWDOWNS = [0, 5, 10, 20]
# Exit codes of `compare`.
WORDS = {0: "no worse", 1: "worse", 3: "can't be told"}


def main() -> int:
    options = arguments()
    program = Path(os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench"))
    if not os.access(program, os.X_OK):
        print(f"there is no program `{program}`; run `cargo build --release`, or set PEFT_BENCH", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results = measure(program, folder, options)
        if len(results) < 2:
            print("there's nothing to compare: measure for longer", file=sys.stderr)
            return 2
        print(f"{len(results)} results of the same program; a pair is two of them at random")
        rate = 0.0
        for starts, pairs in ((1, options.pairs), (options.starts, options.groups)):
            if 2 * starts > len(results):
                print(f"too few results for {starts} starts a side")
                continue
            if pairs == 0:
                continue
            counts = compare(program, results, starts, pairs, options)
            print(table(starts, pairs, counts))
            rate = max(rate, counts[0]["exit"][1] / pairs)
    return int(rate > 0.05)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default=str(ROOT / "experiments/lora/lora_r8"))
    parser.add_argument("--minutes", type=float, default=8, help="how long to measure")
    parser.add_argument("--keep", help="a folder for the results; those that are there are used as well")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of one result a side")
    parser.add_argument("--starts", type=int, default=5, help="results a side where there are several")
    parser.add_argument("--groups", type=int, default=40, help="pairs of several results a side")
    parser.add_argument("--margin", default="3%")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of pairs")
    parser.add_argument("measure", nargs="*", help="options of `measure`, after `--`")
    return parser.parse_args()


def measure(program: Path, folder: Path, options: argparse.Namespace) -> list[Path]:
    """Measures until the time is over; returns all results in `folder`, in the order of their measurement."""
    (folder / "parameters.json").write_text(json.dumps(PARAMETERS))
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    extra = list(options.measure)
    if "--config" not in extra:
        extra += ["--config", str(folder / "parameters.json")]
    if "--prompts" not in extra:
        extra += ["--prompts", str(folder / "prompts.json")]
    end = time.monotonic() + 60 * options.minutes
    number = len(results_in(folder))
    while time.monotonic() < end:
        number += 1
        place = ["--output", str(folder / "results" / f"{number:04}"), "--export-dir", str(folder / "exported")]
        run = subprocess.run(
            [program, "measure", options.experiment, *place, *extra], capture_output=True, text=True, check=False
        )
        if run.returncode:
            sys.exit(f"measuring failed: {run.stderr.splitlines()[-1]}")
    return results_in(folder)


def results_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("results/*/*.json"))


def compare(program: Path, results: list[Path], starts: int, pairs: int, options: argparse.Namespace) -> dict:
    """For each slowdown: how many comparisons had which exit code, and how many figures which outcome."""
    chance = random.Random(options.seed)
    counts = {slowdown: {"exit": Counter(), "figures": Counter(), "widths": []} for slowdown in SLOWDOWNS}
    for _ in range(pairs):
        chosen = chance.sample(results, 2 * starts)
        for slowdown in SLOWDOWNS:
            with tempfile.TemporaryDirectory() as temporary:
                old, new = Path(temporary) / "old", Path(temporary) / "new"
                for index, path in enumerate(chosen):
                    side, factor = (old, 1) if index < starts else (new, 1 + slowdown / 100)
                    put(path, side / str(index), factor)
                outcome = subprocess.run(
                    [program, "compare", old, new, "--margin", options.margin, "--format", "json"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
            if outcome.returncode not in WORDS:
                sys.exit(f"comparing failed: {outcome.stderr}")
            count = counts[slowdown]
            count["exit"][outcome.returncode] += 1
            for figure in json.loads(outcome.stdout)["comparisons"][0]["figures"]:
                if not figure["decides"]:
                    continue
                kind = figure["kind"] if figure["kind"] == "exact" else f"{figure['figure']}, {figure['variant']}"
                count["figures"][kind, figure["outcome"]] += 1
                if figure["kind"] == "overhead" and figure["interval_pct"]:
                    low, high = figure["interval_pct"]
                    count["widths"].append((high - low) / 2)
    return counts


def put(path: Path, folder: Path, factor: float) -> None:
    """Copies a result into `folder`, with every time of the unmerged variant multiplied."""
    folder.mkdir(parents=True)
    result = json.loads(path.read_text())
    for category in result["generation_info"]["variants"]["unmerged"]["by_category"].values():
        for sample in category["samples"]:
            for run in sample["individual_runs"]:
                for key in ("inference_time", "time_per_token", "time_to_first_token"):
                    run[key] *= factor
                run["decode_steps"] = [step * factor for step in run["decode_steps"]]
    (folder / path.name).write_text(json.dumps(result))


def table(starts: int, pairs: int, counts: dict) -> str:
    title = "one result a side" if starts == 1 else f"{starts} results a side"
    lines = [f"\n{title}, {pairs} pairs; percent of the comparisons by exit code"]
    lines.append("| slower by | " + " | ".join(f"{code} {word}" for code, word in WORDS.items()) + " | half-width |")
    lines.append("| --- | --- | --- | --- | --- |")
    for slowdown, count in counts.items():
        shares = " | ".join(f"{100 * count['exit'][code] / pairs:.0f}" for code in WORDS)
        widths = sorted(count["widths"])
        width = f"{widths[len(widths) // 2]:.1f} points" if widths else "–"
        lines.append(f"| {slowdown} % | {shares} | {width} |")
    for slowdown in (SLOWDOWNS[0], SLOWDOWNS[-1]):
        lines.append(f"figures, slower by {slowdown} %:")
        figures = counts[slowdown]["figures"]
        for kind in sorted({kind for kind, _ in figures}):
            outcomes = ", ".join(
                f"{outcome} {count}" for (of, outcome), count in sorted(figures.items()) if of == kind
            )
            lines.append(f"  {kind}: {outcomes}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
