#!/usr/bin/env python3
"""Measures every shipped experiment with `peft-bench measure`, and prints one table of all results with `peft-bench report`.

    scripts/measure_all.py                            # all of experiments/, into results/all/
    scripts/measure_all.py lora oft/block32           # those of a method, or whose `<method>/<name>` begins so
    scripts/measure_all.py --again vera               # measure anew what has a result already
    scripts/measure_all.py --table                    # only print the table of the results that are there
    scripts/measure_all.py --output results/3b -- --model synthetic/llama-3.2-3b --threads 8

What follows `--` goes to `measure`; a `--config` among it takes the place of the parameters below: all three prompt
lengths, five runs of each (the fewest of which an interval says whether a cost was detected), and eight new tokens. So a
run of all experiments on the default model takes about half an hour on two cores. The costs of single tokens are as
good as those of longer runs; overheads weigh prompts more than the default parameters do.

Experiments are measured one by one, each interleaved with a base of its own. `measure` would take several against one
base, and save the base's third of the time; but every variant of each is a process of its own with the model in its
memory, neighbouring runs of a pair would be further apart in time the more there are, and one that dies would take the
others' measurements along. Here one that fails costs its own row: the rest goes on, and the exit code is 1.

A result that's there is not measured again without --again; what failed is. So a run that was interrupted goes on where it
was. Results of other options want a folder of their own (--output).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PARAMETERS = {
    "model_id": "synthetic/llama-135m",
    "dtype": "float32",
    "seed": 42,
    "max_new_tokens": 8,
    "num_inference_runs": 5,
    "num_prompt_samples": 1,
}


def main() -> int:
    options = arguments()
    program = Path(os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench"))
    if not os.access(program, os.X_OK):
        print(f"there is no program `{program}`; run `cargo build --release`, or set PEFT_BENCH", file=sys.stderr)
        return 2
    for start in options.experiments:
        if not chosen([start]):
            print(f"no experiment is of the method, or begins with, `{start}`", file=sys.stderr)
            return 2
    experiments = chosen(options.experiments)

    errors: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        extra = list(options.measure)
        if not any(option.split("=")[0] == "--config" for option in extra):
            config = Path(folder) / "parameters.json"
            config.write_text(json.dumps(PARAMETERS))
            extra += ["--config", str(config)]
        for number, name in enumerate(experiments, 1):
            label = f"{number} of {len(experiments)}: {name}"
            if options.table or (not options.again and newest(options.output, name) is not None):
                continue
            print(f"{label} …", file=sys.stderr, flush=True)
            started = time.monotonic()
            error = measure([str(program), "measure", str(ROOT / "experiments" / name)], options.output, extra)
            took = f"{time.monotonic() - started:.0f} s"
            if error is not None:
                errors[name] = error
            print(f"{label}: {took}" + (f", {error}" if error else ""), file=sys.stderr, flush=True)

    results, failures = [], []
    for name in experiments:
        result = None if name in errors else newest(options.output, name)
        if result is not None:
            results.append(result)
        else:
            failures.append((name, errors.get(name, "not measured")))
    reported = 0
    if results:
        reported = subprocess.run([str(program), "report", "--overview", *map(str, results)], check=False).returncode
        print(flush=True)
    for name, error in failures:
        print(f"{name}: {error}")
    print(f"\n{len(results)} measured, {len(failures)} failed or missing")
    return 1 if failures or reported else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [experiment …] [-- options of `measure`]",
    )
    parser.add_argument("experiments", nargs="*", metavar="experiment", help="how `<method>/<name>` begins")
    parser.add_argument("--again", action="store_true", help="measure what has a result, too")
    parser.add_argument("--table", action="store_true", help="measure nothing; print the results that are there")
    parser.add_argument("--output", type=Path, default=ROOT / "results/all", metavar="DIR", help="[default: results/all]")
    own, measure = sys.argv[1:], []
    if "--" in own:
        own, measure = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    options.measure = measure
    return options


def chosen(starts: list[str]) -> list[str]:
    """`<method>/<name>` of each experiment whose method is one of `starts`, or which begins with one.

    Without `starts` all but those on experts, which the default model doesn't have.
    """
    paths = sorted((ROOT / "experiments").glob("*/*/adapter_config.json"))
    if not starts:
        paths = [path for path in paths if not json.loads(path.read_text()).get("target_parameters")]
    names = [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]
    return [name for name in names if not starts or any(f"{name}/".startswith(begins(start)) for start in starts)]


def begins(start: str) -> str:
    """A method's name alone means that method, and not another whose name begins with it."""
    return start if "/" in start else f"{start}/"


def measure(command: list[str], output: Path, extra: list[str]) -> str | None:
    """Runs one measurement; its error, if it fails."""
    outcome = subprocess.run([*command, "--output", str(output), *extra], capture_output=True, text=True, check=False)
    if outcome.returncode == 130:
        raise KeyboardInterrupt
    if outcome.returncode == 0:
        return None
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error")]
    return (errors or lines or [f"exit code {outcome.returncode}"])[-1].removeprefix("error: ")


def newest(output: Path, name: str) -> Path | None:
    """The newest result of an experiment."""
    # Behind its name, a hash where it's not measured in this folder, and what it was measured with.
    called = re.compile(re.escape(name.replace("/", "--")) + r"(-[0-9a-f]{8})?--.*\.json")
    found = [path for path in output.glob("*.json") if called.fullmatch(path.name)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        sys.exit(130)
