#!/usr/bin/env python3
"""Compares how long merging takes: `peft-bench prepare` and PEFT's `merge_and_unload` + `save_pretrained`, in turn.

LoRA on all linear layers, float32. Of this program the whole process is timed; of PEFT only the two calls, without imports
and loading the model. Before each turn, the last output is removed and the disk is synchronised.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import adapter
import environment
import rounds
from contestants import size
from report import MIB
from run import ROOT, log, physical_cores, positive

FULL = "peft-bench prepare --format hf"
OVERLAY = "peft-bench prepare --variant merged"
PEFT = "merge_and_unload + save_pretrained"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def main() -> None:
    arguments = parse()
    binary = arguments.binary.resolve()
    if not binary.is_file():
        sys.exit(f"error: {binary} is absent; build it with `cargo build --release`")
    python = arguments.python or environment.make()
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(arguments.threads)}
    env["RAYON_NUM_THREADS"] = str(arguments.threads)

    if arguments.work_dir is not None:
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="merge-", dir=arguments.work_dir) as folder:
        work = Path(folder)
        lora = work / "lora" / f"all_r{arguments.r}"
        adapter.write_lora(lora, adapter.NO_LAYERS)
        base = [binary, "prepare", lora, "--model", arguments.model, "--dtype", "float32", "--ep", "cpu"]
        run([*base, "--export-dir", work / "base", "--variant", "base"], env)
        (manifest,) = (work / "base").glob("*/base/manifest.json")
        model = Path(json.loads(manifest.read_text())["model_folder"])
        log("drawing the adapter")
        adapter.write_lora(lora, json.loads((model / "config.json").read_text()), arguments.r, MODULES)

        output = work / "output"
        worker = Path(__file__).resolve().parent / "workers" / "merge_worker.py"
        commands = {
            FULL: [*base, "--export-dir", output, "--format", "hf"],
            OVERLAY: [*base, "--export-dir", output, "--variant", "merged"],
            PEFT: [python, worker, model, lora, output, str(arguments.threads)],
        }
        runs = {name: [] for name in commands}
        names = list(commands)
        # The first round reads the files into the page cache and doesn't count.
        for number, order in enumerate(rounds.orders(len(names), arguments.rounds + 1)):
            for name in [names[index] for index in order]:
                log(f"round {number} of {arguments.rounds}: {name}")
                found = run(commands[name], env)
                found["written"] = size(output)
                if name == PEFT:
                    found |= json.loads(found["stdout"].splitlines()[-1])
                    found["seconds"] = found["merge"] + found["save"]
                shutil.rmtree(output)
                os.sync()
                if number:
                    runs[name].append(found)
    print(report(runs), end="")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="synthetic/llama-3.2-1b", help="as in `peft-bench --model`; a Llama")
    parser.add_argument("--r", type=positive, default=16, metavar="N")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N")
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "peft-bench")
    parser.add_argument("--python", type=Path, help="an environment's Python in place of compare/.venv")
    parser.add_argument("--work-dir", type=Path, help="folder for what is written (twice the model, removed)")
    return parser.parse_args()


def run(command: list, env: dict[str, str]) -> dict:
    """Runs the command. Returns its seconds, and its largest anonymous memory, sampled every 5 ms."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True, env=env)
    anonymous = 0
    while process.poll() is None:
        anonymous = max(anonymous, anonymous_bytes(process.pid))
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    stdout = process.stdout.read()
    if process.returncode != 0:
        sys.exit(f"error: {command[0]} ended with status {process.returncode}")
    return {"seconds": seconds, "anonymous": anonymous, "stdout": stdout}


def anonymous_bytes(pid: int) -> int:
    """0 if the process has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def report(runs: dict[str, list[dict]]) -> str:
    lines = ["| | median | range | ÷ first | written | peak anonymous |", "| --- | --: | --: | --: | --: | --: |"]
    first = [found["seconds"] for found in runs[FULL]]
    for name, found in runs.items():
        seconds = [one["seconds"] for one in found]
        ratio = median(own / other for own, other in zip(seconds, first, strict=True))
        lines.append(
            f"| {name} | {median(seconds):.1f} s | {min(seconds):.1f} … {max(seconds):.1f} s | {ratio:.2f} "
            f"| {found[0]['written'] / MIB:.0f} MiB | {max(one['anonymous'] for one in found) / MIB:.0f} MiB |"
        )
    merge, save = (median(one[step] for one in runs[PEFT]) for step in ("merge", "save"))
    return "\n".join([*lines, "", f"Of PEFT's time {merge:.1f} s are `merge_and_unload`, {save:.1f} s `save_pretrained`."]) + "\n"


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("error: memory is read from /proc, so this runs on Linux only")
    main()
