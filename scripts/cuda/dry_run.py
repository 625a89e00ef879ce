#!/usr/bin/env python3
"""Runs `--ep cuda` without a GPU: all fixture models and methods, over stand-ins for the CUDA libraries that compute nothing.

    scripts/cuda/dry_run.py                                  # everything, in float16, bfloat16 and float32
    scripts/cuda/dry_run.py gemma2 llama-gqa/dora            # only these
    scripts/cuda/dry_run.py --dtype float16 -- --quantize 4bit
    scripts/cuda/dry_run.py --show llama-gqa/dora            # also list nodes on the CPU, and kernels

It needs a C compiler, Python 3 with pip, and the built program (`cargo build --release`, or PEFT_BENCH). The program fetches ONNX
Runtime with CUDA (255 MB) into `--folder`, as it would for a real GPU; ORT_DYLIB_PATH overrides it. Options after `--` are
passed to `generate`. With `--cuda-graph`, a decode step must be one graph, or the program says why it isn't.

With `-- --gpu-layers N`, products and attention of the first N layers must run on the GPU, and of the others on the CPU.

At the end it measures a base once, for the state of the GPU that the result has from NVML (`nvml.c`).

It checks that sessions open with ONNX Runtime's real CUDA provider, that every node has a kernel for its types, which nodes
of layers run on the CPU, and that copies between host and device have the right direction. A decode step may copy to the
device only the token's id and the lengths or the mask, and back only the next token, the logits (which `generate` asks for)
and the number of tokens of each expert; NF4's operator also copies the table of its values. It can't check results, times,
or whether a real device has enough memory, since kernels don't run.

The exit code is 1 if a case doesn't run, a copy is wrong, a decode step copies more than that, or a figure of NVML isn't the
stand-in's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import libraries
from cases import FIXTURES, ROOT, built_program, chosen, last_words, parse, parser
from state import EXPECTED, differences
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
    print(f"{total - failed - refused} of {total} are correct, {failed} fail, {refused} are refused")
    faults = state_faults(program, environment, options.dtype[0], options.folder)
    print("the GPU's state in a result is NVML's" if not faults else "the GPU's state in a result:")
    for fault in faults:
        print(f"    {fault}")
    print("no kernel ran, so no result was computed")
    return int(failed > 0 or bool(faults))


def state_faults(program: Path, environment: dict, dtype: str, folder: Path) -> list[str]:
    """Measures a base, and returns what differs from the figures of `nvml.c` in its result."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        made = Path(made)
        (made / "config.json").write_text('{"num_inference_runs": 2, "max_new_tokens": 4}')
        (made / "prompts.json").write_text('{"short": ["a b"], "medium": ["the cat sat"], "long": ["one two three four"]}')
        command = [program, "base", "--model", FIXTURES / "models/llama-gqa", "--dtype", dtype, "--ep", "cuda", "--offline"]
        command += ["--prompts", made / "prompts.json", "--config", made / "config.json"]
        command += ["--output", made / "results", "--export-dir", made / "exports"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        # What is generated isn't right without kernels, so the result may be among those that failed.
        results = [*made.glob("results/*.json"), *made.glob("results/failed/*.json")]
        if len(results) != 1:
            return [f"there is no result ({done.returncode}): {last_words(done.stderr)}"]
        run = json.loads(results[0].read_text())["run_info"]
        if not run["environment"]:
            return [f"nothing was measured: {run['error']}"]
    return differences(EXPECTED, run["environment"]["gpu"])


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--folder", type=Path, default=ROOT / "target/cuda-dry-run", help="for fetched and built files")
    options.add_argument("--show", action="store_true", help="name nodes on the CPU, and count kernels by name")
    return parse(options)


def surroundings(program: Path, folder: Path) -> dict[str, str]:
    """Fetches and builds the libraries. Returns the environment in which `program` finds them and ONNX Runtime."""
    environment = dict(os.environ)
    if not environment.get("ORT_DYLIB_PATH"):
        environment["PEFT_BENCH_CACHE"] = str(folder / "cache")
        done = subprocess.run([program, "runtime", "install", "--cuda"], env=environment)
        if done.returncode:
            sys.exit("ONNX Runtime with CUDA can't be fetched")
        (library,) = (folder / "cache").glob("onnxruntime-*-cuda/libonnxruntime.so.*")
        environment["ORT_DYLIB_PATH"] = str(library)
    made = libraries.build(Path(environment["ORT_DYLIB_PATH"]), folder)
    environment["LD_LIBRARY_PATH"] = str(made)
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    return environment


if __name__ == "__main__":
    sys.exit(main())
