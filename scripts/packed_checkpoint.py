#!/usr/bin/env python3
"""Compares merged, quantized checkpoints (`prepare --format hf --quantize 4bit`) with what Transformers makes of them.

    scripts/packed_checkpoint.py --program target/release/peft-bench [--packing gptq] [CASE…]

Each case is a folder below `tests/fixtures/cases`; without any, the LoRA case of every model that can be packed. Transformers,
with compressed-tensors or GPTQModel, must compute the same from the packed checkpoint as from the full-precision one in which
every packed weight is replaced by its decoded values. Needs `torch`, `transformers`, `safetensors`, and `compressed-tensors` or
`gptqmodel` with `optimum`. The exit code is 1 if the logits of a case differ by more than 1e-4 of the largest one.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

FIXTURES = Path(__file__).resolve().parent.parent / "tests/fixtures"
PROMPT = [5, 9, 2, 17, 11, 3, 8]
ALLOWED = 1e-4


def checkpoint(program, case, quantize, packing, folder):
    """The folder that `prepare` writes; `None` if it refuses to pack the model."""
    model = FIXTURES / "models" / case.split("/")[0]
    command = [program, "prepare", FIXTURES / "cases" / case, "--model", model, "--format", "hf"]
    command += ["--quantize", quantize, "--export-dir", folder / quantize]
    # GPTQModel holds scales and decoded weights in float16.
    command += ["--dtype", "float16" if packing == "gptq" else "float32"]
    if quantize != "none":
        # More of the small models consist of whole groups of 16; GPTQModel's kernel for 4 bits has none.
        group = "16" if (packing, quantize) == ("gptq", "8bit") else "32"
        command += ["--packing", packing, "--quantize-block", group]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if "no quantized checkpoint can be written" in done.stderr:
        return None
    if done.returncode:
        sys.exit(done.stderr)
    return Path(re.search(r"checkpoint (.+) \(", done.stderr)[1])


def unpacked(words, bits):
    """The codes in the last axis of `words`, the first in the lowest bits."""
    codes = torch.stack([(words >> shift) & (2**bits - 1) for shift in range(0, 32, bits)], dim=-1)
    return codes.flatten(-2)


def decoded(tensors, weight):
    """The values of a packed weight, by its layout's formula."""
    if f"{weight}_packed" not in tensors:
        module = weight.removesuffix(".weight")
        codes, zeros, scales, group = (tensors[f"{module}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx"))
        bits = 32 * codes.shape[0] // group.shape[0]
        zeros = (unpacked(zeros, bits) + 1).T[:, group.long()]
        return ((unpacked(codes.T.contiguous(), bits) - zeros) * scales.T[:, group.long()]).half().float()
    rows, columns = tensors[f"{weight}_shape"].tolist()
    words, scales = tensors[f"{weight}_packed"], tensors[f"{weight}_scale"]
    bits = 32 * words.shape[1] // columns
    values = unpacked(words, bits) - 2 ** (bits - 1)
    return values * scales.repeat_interleave(columns // scales.shape[1], dim=1)


def full(tensors):
    """Floats in full precision, which `config.json` may say otherwise of."""
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def logits(folder):
    name = AutoConfig.from_pretrained(folder).architectures[0]
    model = getattr(transformers, name).from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([PROMPT])).logits[0]


def compare(program, case, quantize, packing, folder):
    """The largest difference of a logit, relative to the largest, and the number of packed weights; `None` if refused."""
    packed = checkpoint(program, case, quantize, packing, folder)
    if packed is None:
        return None
    plain = checkpoint(program, case, "none", packing, folder)
    found, tensors = (full(load_file(of / "model.safetensors")) for of in (packed, plain))
    weights = [name.removesuffix("_packed") for name in found if name.endswith("_packed")]
    weights += [name.removesuffix("qweight") + "weight" for name in found if name.endswith(".qweight")]
    tensors.update({weight: decoded(found, weight) for weight in weights})
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    expected = logits(plain)
    return ((logits(packed) - expected).abs().max() / expected.abs().max()).item(), len(weights)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--packing", choices=("compressed-tensors", "gptq"), default="compressed-tensors")
    parser.add_argument("cases", nargs="*", metavar="CASE")
    arguments = parser.parse_args()
    every = sorted(FIXTURES.glob("cases/*/lora"))
    cases = arguments.cases or [str(case.relative_to(FIXTURES / "cases")) for case in every]
    worst = 0.0
    for case in cases:
        for quantize in ("4bit", "8bit"):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = compare(arguments.program, case, quantize, arguments.packing, Path(folder))
                except Exception as error:
                    print(f"{case} {quantize}: {error}", flush=True)
                    worst = float("inf")
                    continue
            if found is None:
                print(f"{case} {quantize}: refused", flush=True)
                continue
            print(f"{case} {quantize}: {found[0]:.1e}, {found[1]} weights", flush=True)
            worst = max(worst, found[0])
    return 1 if worst > ALLOWED else 0


if __name__ == "__main__":
    sys.exit(main())
