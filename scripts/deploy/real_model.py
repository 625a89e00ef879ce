"""Portable folders of a real model, in onnxruntime-genai, against transformers + PEFT.

    real_model.py PEFT-BENCH BASE LORA DORA

`BASE` is a checkpoint's folder, `LORA` and `DORA` are adapters trained on it. Each folder is made of copies, moved, and
run after the copies are gone. Greedy tokens have to be those of transformers + PEFT in
float32 (of `peft-bench generate`, for 4 bits) on ten prompts, one of which ends in the end-of-text token, and in a batch
of three prompts of unequal lengths.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from genai import Folder, prepare

NEW = 24
FOUR_BITS = ["--quantize", "4bit"]
EXACT = ["--quantize-accuracy", "1"]
TEXTS = [
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):",
    "The three most important things about sailing are",
    "Water boils at",
]
QUESTIONS = [
    "What is the capital of Italy?",
    "How do I boil an egg?",
    "Name three colours.",
    "Who wrote Hamlet?",
]


def prompts(tokenizer):
    """Ten prompts as ids; the last one ends in the end-of-text token."""
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False)
        for text in QUESTIONS
    ]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS + chats]
    return ids + [tokenizer.encode("Tell me a story.", add_special_tokens=False) + [tokenizer.eos_token_id]]


def reference(base, adapter, all_ids):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        # Merged by PEFT, since it computes DoRA's norms of all weights in every step otherwise.
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model.eval()
    ends = model.generation_config.eos_token_id
    found = []
    for ids in all_ids:
        given = torch.tensor([ids])
        out = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=NEW, do_sample=False, pad_token_id=ends
        )
        tokens = out[0, len(ids):].tolist()
        found.append([token for token in tokens if token != ends])
    return found


def own(program, target, arguments, exported, all_ids, end):
    """Tokens that `peft-bench generate` gives, up to the end of text."""
    found = []
    for ids in all_ids:
        command = [program, "generate", target, *arguments, "--ep", "cpu", "--export-dir", exported, "--json"]
        command += ["--prompt-ids", ",".join(map(str, ids)), "--max-new-tokens", str(NEW)]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        tokens = json.loads(done.stdout)["token_ids"]
        found.append(tokens[: tokens.index(end)] if end in tokens else tokens)
    return found


class Report:
    def __init__(self):
        self.failed = 0

    def compare(self, name, found, expected):
        same = sum(a == b for a, b in zip(found, expected))
        self.failed += same != len(expected)
        print(f"| {name} | {same} of {len(expected)} |", flush=True)
        for index, (a, b) in enumerate(zip(found, expected)):
            if a != b:
                print(f"  prompt {index}: {a}\n  expected: {b}", file=sys.stderr)


def main():
    program, base, lora, dora = (Path(part).resolve() for part in sys.argv[1:5])
    tokenizer = AutoTokenizer.from_pretrained(base)
    all_ids = prompts(tokenizer)
    batch = [all_ids[1], all_ids[5], all_ids[9]]
    report = Report()
    print("| folder | prompts whose tokens are the same |\n| --- | --- |")
    expected = {name: reference(base, path, all_ids) for name, path in [("base", None), ("lora", lora), ("dora", dora)]}
    expected_batch = {name: [tokens[1], tokens[5], tokens[9]] for name, tokens in expected.items()}

    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        exported = root / "exported"
        for name, path in [("base", base), ("lora", lora), ("dora", dora)]:
            shutil.copytree(path, root / name)
        base, lora, dora = root / "base", root / "lora", root / "dora"

        def moved(name, arguments):
            """A portable folder, moved."""
            error = prepare(program, arguments, root / f"made-{name}", exported)
            if error:
                sys.exit(f"{name}: {error}")
            elsewhere = root / "elsewhere" / name
            elsewhere.parent.mkdir(exist_ok=True)
            (root / f"made-{name}").rename(elsewhere)
            return elsewhere

        with_base = ["--model", base]
        folders = {
            "base": moved("base", with_base),
            "lora merged": moved("lora", [lora, *with_base]),
            "dora merged": moved("dora", [dora, *with_base]),
            "lora merged 4bit": moved("lora-4bit", [lora, *with_base, *FOUR_BITS]),
            "lora merged 4bit, exact": moved("lora-4bit-exact", [lora, *with_base, *FOUR_BITS, *EXACT]),
            "both": moved("both", [*with_base, "--adapters", lora, dora]),
        }
        merged = [*with_base, "--variant", "merged", *FOUR_BITS]
        four, exact = (
            own(program, lora, [*merged, *more], exported, all_ids, tokenizer.eos_token_id) for more in ([], EXACT)
        )
        for gone in [base, lora, dora, exported]:
            shutil.rmtree(gone)
        for name, key in [("base", "base"), ("lora merged", "lora"), ("dora merged", "dora")]:
            folder = Folder(folders[name])
            report.compare(name, [folder.generate([ids], NEW)[0] for ids in all_ids], expected[key])
            report.compare(f"{name}, three at once", folder.generate(batch, NEW), expected_batch[key])
        for name, own_tokens in [("lora merged 4bit", four), ("lora merged 4bit, exact", exact)]:
            folder = Folder(folders[name])
            report.compare(name, [folder.generate([ids], NEW)[0] for ids in all_ids], own_tokens)
        # The last one: by default, inputs are rounded to 8 bits, and another order of a sum rounds one to its neighbour.
        report.compare("lora merged 4bit, exact, three at once", folder.generate(batch, NEW), [exact[1], exact[5], exact[9]])

        folder = Folder(folders["both"])
        for name in [None, "lora", "dora", None, "dora", "lora"]:
            key = name or "base"
            label = f"unmerged, {name or 'no adapter'}"
            report.compare(label, [folder.generate([ids], NEW, name)[0] for ids in all_ids], expected[key])
        for name in ["lora", "dora"]:
            found = folder.generate(batch, NEW, name)
            report.compare(f"unmerged, {name}, three at once", found, expected_batch[name])
        interleaved(folder, report, all_ids[5], expected)
    sys.exit(1 if report.failed else 0)


def interleaved(folder, report, ids, expected):
    """Two generators with different adapters, a token from each in turn."""
    generators = {name: folder.generator(1, len(ids) + NEW, name) for name in ["lora", "dora"]}
    for generator in generators.values():
        generator.append_tokens(np.array(ids, dtype=np.int32))
    while not all(generator.is_done() for generator in generators.values()):
        for generator in generators.values():
            if not generator.is_done():
                generator.generate_next_token()
    new = [[int(t) for t in generators[name].get_sequence(0)[len(ids):]] for name in generators]
    found = [[token for token in tokens if token not in folder.ends] for tokens in new]
    report.compare("unmerged, both in turn", found, [expected[name][5] for name in generators])


if __name__ == "__main__":
    main()
