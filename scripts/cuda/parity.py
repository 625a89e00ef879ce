#!/usr/bin/env python3
"""Compares a GPU's logits with the CPU's, for all fixture models and methods.

    scripts/cuda/parity.py                                   # everything, in float16, bfloat16 and float32
    scripts/cuda/parity.py gemma2 llama-gqa/dora             # only these
    scripts/cuda/parity.py --dtype float16 -- --quantize 4bit
    scripts/cuda/parity.py --dtype float16 -- --cuda-graph   # with decode steps as a CUDA graph

It needs an NVIDIA GPU, Python 3, and the built program (`cargo build --release`, or PEFT_BENCH), which finds ONNX Runtime as
usual (ORT_DYLIB_PATH). Options after `--` are passed to `generate` on both sides; `--cuda-graph` on the GPU only.

The difference is the largest difference of a logit, divided by the largest logit of its step. The CPU computes in float32
with weights rounded to the dtype, so in 16 bits the difference is the GPU's rounding. Steps are compared as long as both
sides generated the same tokens.

The exit code is 1 if a case's difference exceeds its dtype's tolerance, or it runs on one side only.
"""

import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cases import about, built_program, chosen, last_words, parse, parser, target
from trial import NO_GRAPH

PROMPT = [1, 2, 3, 4, 5]
NEW_TOKENS = 6
GRAPH = "--cuda-graph"
# Sums in another order; in 16 bits, rounding after every node.
TOLERANCES = {"float32": 1e-4, "float16": 0.015, "bfloat16": 0.12}


@dataclass
class Side:
    """One provider's output for a case."""

    tokens: list[int]
    logits: list[array]
    no_graph: bool


class Refused(Exception):
    """The program refused a case; the message is the reason."""


def main() -> int:
    options = arguments()
    program = built_program()
    cases = chosen(options.cases)
    failed = refused = 0
    print(f"{'dtype':<9} {'case':<36} {'difference':>10}  tokens")
    with ThreadPoolExecutor(options.jobs) as pool:
        work = [(dtype, case) for dtype in options.dtype for case in cases]
        outcomes = pool.map(lambda one: outcome(program, *one, options), work)
        for (dtype, case), (row, verdict) in zip(work, outcomes, strict=True):
            print(f"{dtype:<9} {'/'.join(case):<36} {row}", flush=True)
            failed += verdict == "failed"
            refused += verdict == "refused"
    good = len(work) - failed - refused
    print(f"{good} of {len(work)} agree with the CPU, {failed} don't, {refused} are refused on both")
    return int(failed > 0)


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1), help="cases run at once")
    options.add_argument("--tolerance", type=float, help=f"instead of {TOLERANCES}")
    return parse(options)


def outcome(program: Path, dtype: str, case: tuple[str, str], options: argparse.Namespace) -> tuple[str, str]:
    """The case's row of the table, and its verdict: `good`, `failed` or `refused`."""
    shared = ["--dtype", dtype, *(option for option in options.generate if option != GRAPH)]
    graph = [GRAPH] if GRAPH in options.generate else []
    sides = []
    for provider in [["--ep", "cpu"], ["--ep", "cuda", *graph]]:
        try:
            sides.append(run(program, case, [*shared, *provider]))
        except Refused as reason:
            sides.append(str(reason))
    cpu, gpu = sides
    if isinstance(cpu, str) and isinstance(gpu, str):
        return f"refused: {gpu[:90]}", "refused"
    for name, side in [("CPU", cpu), ("GPU", gpu)]:
        if isinstance(side, str):
            return f"only on the {name}: {side}", "failed"
    pairs = enumerate(zip(cpu.tokens, gpu.tokens, strict=True))
    agreed = next((place for place, (own, other) in pairs if own != other), len(cpu.tokens))
    # The step that picked the first different token is still comparable: both had the same tokens before it.
    rows = list(zip(cpu.logits, gpu.logits, strict=True))[: agreed + 1]
    off = max(difference(*pair) for pair in rows)
    good = off <= (options.tolerance or TOLERANCES[dtype])
    row = f"{off:>10.1e}  {agreed} of {len(cpu.tokens)}"
    row += "  no CUDA graph" if graph and gpu.no_graph else ""
    return row + ("" if good else "  TOO FAR OFF"), "good" if good else "failed"


def run(program: Path, case: tuple[str, str], options: list[str]) -> Side:
    prompt = about(case).get("prompt_ids", PROMPT)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "logits.safetensors"
        command = [program, "generate", *target(case), *options, "--offline", "--json", "--threads", "1"]
        command += ["--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", str(NEW_TOKENS)]
        command += ["--logits", file, "--export-dir", Path(folder) / "exports"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Refused(last_words(done.stderr))
        tokens = json.loads(done.stdout)["token_ids"]
        return Side(tokens, read_rows(file.read_bytes()), NO_GRAPH.search(done.stderr) is not None)


def read_rows(data: bytes) -> list[array]:
    """The rows of the tensor `logits` of a safetensors file."""
    (header_bytes,) = struct.unpack("<Q", data[:8])
    about_logits = json.loads(data[8 : 8 + header_bytes])["logits"]
    start, end = about_logits["data_offsets"]
    values = array("f", data[8 + header_bytes :][start:end])
    rows, columns = about_logits["shape"]
    return [values[row * columns : (row + 1) * columns] for row in range(rows)]


def difference(expected: array, found: array) -> float:
    largest = max(map(abs, expected))
    off = max(abs(a - b) for a, b in zip(expected, found, strict=True)) / largest
    # `max` ignores a NaN.
    return math.inf if any(map(math.isnan, found)) else off


if __name__ == "__main__":
    sys.exit(main())
