#!/usr/bin/env python3
"""Runs `--ep cuda` without a GPU: every fixture model and every fixture method, over CUDA libraries that compute nothing.

    scripts/cuda/dry_run.py                                  # everything, in float16, bfloat16 and float32
    scripts/cuda/dry_run.py gemma2 llama-gqa/dora            # these
    scripts/cuda/dry_run.py --dtype float16 -- --quantize 4bit
    scripts/cuda/dry_run.py --show llama-gqa/dora            # and the names of nodes on the CPU, and of kernels

It needs a C compiler, Python 3 with pip, and the built program (`cargo build --release`, or PEFT_BENCH). ONNX Runtime with
CUDA (255 MB) is fetched by the program itself, as for a real GPU, into `--folder`; or take the one that ORT_DYLIB_PATH names.
What follows `--` goes to `generate`; with `--cuda-graph` a decode step must be one graph, or the program says why not.

What it shows: sessions open with ONNX Runtime's real CUDA provider, every node has a kernel for its types, nothing of a
layer runs on the CPU without being seen, copies between host and device go the way that they say, and a decode step copies
nothing but the token's id and lengths or the mask there, and back the next token, the logits (since `generate`
asks for them) and, of each expert, how many tokens it gets. Beside these, the operator of NF4 copies the table of its values.
What it can't show: whether any result is right, how long anything takes, or whether a real device has the memory. Kernels
don't run.

The exit code is 1 where a case doesn't run, a copy is wrong, or a decode step copies more than that.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import libraries
from cases import ROOT, built_program, chosen, parse, parser
from trial import Trial


def main() -> int:
    options = arguments()
    program = built_program()
    cases = chosen(options.cases)
    options.folder.mkdir(parents=True, exist_ok=True)
    environment = surroundings(program, options.folder.absolute())

    print(f"{'dtype':<9} {'case':<36} {'nodes':>5} {'on CPU, in layers':>17} {'there':>12} {'back':>12} {'kernels':>7}")
    failed = refused = 0
    for dtype in options.dtype:
        for case in cases:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                trial = Trial(program, environment, case, ["--dtype", dtype, *options.generate])
                faults = trial.run(Path(folder))
            print(f"{dtype:<9} {'/'.join(case):<36} {trial.row()}", flush=True)
            for fault in faults:
                print(f"    {fault}", flush=True)
            if options.show:
                print("".join(f"    {line}\n" for line in trial.details()), end="", flush=True)
            failed += bool(faults)
            refused += trial.refusal is not None
    total = len(cases) * len(options.dtype)
    print(f"{total - failed - refused} of {total} run, place and copy as they should, {failed} don't, {refused} are refused")
    print("no kernel ran, so no result was computed")
    return int(failed > 0)


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=ROOT / "target/cuda-dry-run", help="for what is fetched and built")
    options.add_argument("--show", action="store_true", help="name nodes on the CPU, and count kernels by name")
    return parse(options)


def surroundings(program: Path, folder: Path) -> dict[str, str]:
    """The environment in which `program` finds ONNX Runtime and the libraries, once they are there."""
    environment = dict(os.environ)
    if not environment.get("ORT_DYLIB_PATH"):
        environment["PEFT_BENCH_CACHE"] = str(folder / "cache")
        done = subprocess.run([program, "runtime", "install", "--cuda"], env=environment)
        if done.returncode:
            sys.exit("ONNX Runtime with CUDA can't be had")
        (library,) = (folder / "cache").glob("onnxruntime-*-cuda/libonnxruntime.so.*")
        environment["ORT_DYLIB_PATH"] = str(library)
    made = libraries.build(Path(environment["ORT_DYLIB_PATH"]), folder)
    environment["LD_LIBRARY_PATH"] = str(made)
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    return environment


if __name__ == "__main__":
    sys.exit(main())
