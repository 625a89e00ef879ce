#!/usr/bin/env python3
"""Measures every shipped experiment with `peft-bench measure`, and prints one table of all results with `peft-bench report`.

    scripts/measure_all.py                            # those of experiments/<method>/, into results/all/
    scripts/measure_all.py lora oft/block32           # those of a method, or whose `<method>/<name>` begins with it
    scripts/measure_all.py --again vera               # measure again, even if there is a result
    scripts/measure_all.py --table                    # only print the table of existing results
    scripts/measure_all.py --output results/3b -- --model synthetic/llama-3.2-3b --threads 8

Options after `--` are passed to `measure`. A `--config` among them replaces the parameters below: all three prompt
lengths, five runs of each (the minimum to detect an overhead), and eight new tokens. With these, all experiments on the
default model take about half an hour on two cores. Times per token are as precise as in longer runs; in overheads, the
prompt has more weight than with the default parameters.

Experiments are measured one by one, each with its own interleaved base. `measure` can measure several against one base,
which saves a third of the time. But then every variant of every experiment is a process with the model in memory, paired
runs are further apart in time, and a failure may end all measurements. Here, a failed experiment only loses its own row:
the others are measured, and the exit code is 1.

An experiment with a result isn't measured again without --again; a failed one is. So an interrupted run can be resumed.
Use another folder (--output) for results with other options.
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
            print(f"no experiment has the method, or begins with, `{start}`", file=sys.stderr)
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
    parser.add_argument("--again", action="store_true", help="also measure experiments that have a result")
    parser.add_argument("--table", action="store_true", help="measure nothing; print existing results")
    parser.add_argument("--output", type=Path, default=ROOT / "results/all", metavar="DIR", help="[default: results/all]")
    own, measure = sys.argv[1:], []
    if "--" in own:
        own, measure = own[: own.index("--")], own[own.index("--") + 1 :]
    options = parser.parse_args(own)
    options.measure = measure
    return options


def chosen(starts: list[str]) -> list[str]:
    """`<method>/<name>` of each experiment whose method is in `starts`, or whose name begins with an entry.

    Without `starts`: all except those that adapt experts, which the default model doesn't have, and those of PEFT's
    MetaMathQA results, which are for a larger one.
    """
    paths = sorted((ROOT / "experiments").glob("*/*/adapter_config.json"))
    if not starts:
        paths = [path for path in paths if path.parent.parent.name != "metamathqa"]
        paths = [path for path in paths if not json.loads(path.read_text()).get("target_parameters")]
    names = [f"{path.parent.parent.name}/{path.parent.name}" for path in paths]
    return [name for name in names if not starts or any(f"{name}/".startswith(begins(start)) for start in starts)]


def begins(start: str) -> str:
    """A method's name alone means only that method, and not others whose names begin with it."""
    return start if "/" in start else f"{start}/"


def measure(command: list[str], output: Path, extra: list[str]) -> str | None:
    """Runs one measurement. Returns its error, if it fails."""
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
    # After the name: a hash for adapters outside the working folder, then model, dtype and so on.
    called = re.compile(re.escape(name.replace("/", "--")) + r"(-[0-9a-f]{8})?--.*\.json")
    found = [path for path in output.glob("*.json") if called.fullmatch(path.name)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; what was measured is kept", file=sys.stderr)
        sys.exit(130)
