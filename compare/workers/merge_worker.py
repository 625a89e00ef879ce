"""Merging with PEFT: `merge_and_unload`, then `save_pretrained`. Prints the seconds of each step as JSON."""

import json
import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM


def main(model: str, adapter: str, output: str, threads: int) -> None:
    torch.set_num_threads(threads)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter)
    start = time.perf_counter()
    merged = loaded.merge_and_unload()
    middle = time.perf_counter()
    merged.save_pretrained(output)
    end = time.perf_counter()
    print(json.dumps({"merge": middle - start, "save": end - middle}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
