"""Portable folders in every precision, in onnxruntime-genai.

    precisions.py PEFT-BENCH [MODEL …] > table.md

`MODEL` is the name of a fixture model that has the cases `lora` and `dora`. For each precision: the base, the LoRA merged, and
both adapters on one graph, with each of them active and with none. Logits are compared with those that `peft-bench generate` gives
in the same precision: relative to the largest, and relative to the root mean square for quantized weights, where one input that is rounded to
another of 256 steps moves single logits.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from genai import Folder, difference, prepare

PRECISIONS = {
    "float16": ["--dtype", "float16"],
    "bfloat16": ["--dtype", "bfloat16"],
    "4 bits": ["--quantize", "4bit"],
    "4 bits, `k_quant`": ["--quantize", "4bit", "--quantize-algorithm", "k_quant"],
    "4 bits, embedding too": ["--quantize", "4bit", "--quantize-embedding", "4bit"],
    "4 bits, weights in bfloat16": ["--quantize", "4bit", "--dtype", "bfloat16"],
    "8 bits": ["--quantize", "8bit"],
    "nf4": ["--quantize", "nf4"],
}
ADAPTERS = ["lora", "dora"]
NEW = 8
ALLOWED, ALLOWED_QUANTIZED = 1e-4, 2e-2


def own(program, target, variant, options, prompt, exported):
    """The tokens and the logits that `peft-bench generate` gives."""
    logits = exported / "logits.safetensors"
    command = [program, "generate", target, "--variant", variant, *options, "--ep", "cpu", "--export-dir", exported, "--json"]
    command += ["--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", NEW, "--logits", logits]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)["token_ids"], load_file(logits)["logits"]


def mean_difference(a, b):
    """The root mean square of the difference, relative to that of the logits."""
    a, b = a[:, : b.shape[1]], b[:, : a.shape[1]]
    return float(np.sqrt(((a - b) ** 2).mean() / (a**2).mean()))


def main():
    program = Path(sys.argv[1]).resolve()
    fixtures = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
    failed = 0
    print("| model | precision | base | merged | beside: none active | lora | dora |\n| --- | --- | --- | --- | --- | --- | --- |")
    for model in sys.argv[2:] or ["llama-gqa", "opt-nobias", "gpt2"]:
        base, cases = fixtures / "models" / model, fixtures / "cases" / model
        prompt = json.loads((cases / "base" / "case.json").read_text())["prompt_ids"]
        for precision, options in PRECISIONS.items():
            quantized = "--quantize" in options
            measure, allowed = (mean_difference, ALLOWED_QUANTIZED) if quantized else (difference, ALLOWED)
            row = [model, precision]
            with tempfile.TemporaryDirectory() as root:
                root = Path(root)
                exported = root / "exported"
                with_base = ["--model", base, *options]
                refused = {
                    "base": prepare(program, with_base, root / "base", exported),
                    "merged": prepare(program, [cases / "lora", *with_base], root / "merged", exported),
                    "beside": prepare(
                        program, [*with_base, "--adapters", *(cases / name for name in ADAPTERS)], root / "beside", exported
                    ),
                }
                runs = [("base", cases / "lora", "base", None), ("merged", cases / "lora", "merged", None)]
                runs += [("beside", cases / "lora", "base", None)]
                runs += [("beside", cases / name, "unmerged", name) for name in ADAPTERS]
                for folder, target, variant, active in runs:
                    if refused[folder]:
                        row.append(f"refused: {refused[folder]}")
                        continue
                    tokens, expected = own(program, target, variant, with_base, prompt, exported)
                    found = measure(expected, Folder(root / folder).logits(prompt, tokens, active))
                    failed += not found <= allowed
                    row.append(f"{found:.1e}")
            print("| " + " | ".join(row) + " |", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
