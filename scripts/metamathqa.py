#!/usr/bin/env python3
"""Measures the adapters of PEFT's MetaMathQA results, and makes a page with their accuracy beside their cost.

    scripts/metamathqa.py                                        # on synthetic/llama-3.2-3b, into metamathqa.html
    scripts/metamathqa.py --page page.html -- --ep cuda --dtype float16
    scripts/metamathqa.py --model synthetic/llama-57m            # the same layers, a twelfth as wide: ten minutes on two cores
    scripts/metamathqa.py --quality peft/method_comparison/MetaMathQA/results

The experiments are those in `experiments/metamathqa/`; options after `--` are passed to `measure`. An interrupted run can be
resumed: what has a result isn't measured again. Results of other options have a folder of their own, unless --output names one.

PEFT's results are of Llama-3.2-3B. On another model (--model), they stand beside the costs on that model, and the page says so.
Some adapters name layers or tokens of Llama-3.2-3B, so the model should have 28 layers and its vocabulary, as `synthetic/llama-57m` has.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "experiments/metamathqa/published.json"
PUBLISHED_OF = "meta-llama/Llama-3.2-3B"


def main() -> int:
    options = arguments()
    program = os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench")
    output = options.output or ROOT / "results" / folder_of(options.model, options.measure)
    measure = [sys.executable, ROOT / "scripts/measure_all.py", "metamathqa", "--output", output]
    again = ["--again"] if options.again else []
    measured = subprocess.run([*measure, *again, "--", "--model", options.model, *options.measure], check=False).returncode
    if measured not in (0, 1):
        return measured
    if not any(output.glob("metamathqa--*.json")):
        return 1
    # On other models, quality is asked for by name: it isn't theirs.
    is_its_own = last(options.model) == last(PUBLISHED_OF)
    of_model = [] if is_its_own else ["--quality-model", PUBLISHED_OF]
    report = [program, "report", output, "--quality", options.quality, *of_model]
    written = subprocess.run([*report, "--output", options.page], check=False).returncode
    return measured or written


def last(name: str) -> str:
    return name.rstrip("/").rsplit("/")[-1].lower()


def folder_of(model: str, measure: list[str]) -> str:
    """A folder for results with these options."""
    words = [last(model), *(option.lstrip("-") for option in measure)]
    return "metamathqa-" + "-".join(re.sub(r"[^\w.]+", "_", word) for word in words)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [-- options of `measure`]",
    )
    parser.add_argument("--model", default="synthetic/llama-3.2-3b", help="the base [default: synthetic/llama-3.2-3b]")
    parser.add_argument("--quality", type=Path, default=PUBLISHED, metavar="FILE|FOLDER", help="PEFT's results [default: those shipped]")
    parser.add_argument("--page", type=Path, default=Path("metamathqa.html"), metavar="FILE", help="[default: metamathqa.html]")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of results [default: one below results/ for these options]")
    parser.add_argument("--again", action="store_true", help="also measure experiments that have a result")
    own, measure = sys.argv[1:], []
    if "--" in own:
        own, measure = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    options.measure = measure
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
