"""Every fixture model and every method as portable folders, in onnxruntime-genai.

    fixtures.py PEFT-BENCH [FIXTURES] > table.md

For each model the base and its LoRA, merged; for each case of one model the adapter beside the graph. Logits are compared
with those of transformers + PEFT that the case holds, and without an adapter with the base's. What `prepare` refuses is
listed with its reason.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from genai import Folder, difference, prepare

ALLOWED = 1e-4
METHODS = "llama-gqa"


def expected(folder, variant):
    tensors = load_file(folder / "expected.safetensors")
    return tensors.get(variant)


def compare(folder, case, reference, adapter=None):
    """The difference of logits, and whether the tokens are the same; or an error message."""
    inputs = {}
    beside = json.loads((folder.path / "manifest.json").read_text())["portable"].get("adapters", [])
    invocation = next((a["adapter"].get("invocation") for a in beside if a["name"] == adapter), None)
    if invocation:
        prompt = case["prompt_ids"]
        starts = [i for i in range(len(prompt)) if prompt[i : i + len(invocation)] == invocation]
        inputs["active_from"] = np.array([[starts[-1] if starts else 2**63 - 1]], dtype=np.int64)
    elif any(a["adapter"].get("invocation") for a in beside):
        inputs["active_from"] = np.array([[2**63 - 1]], dtype=np.int64)
    logits = folder.logits(case["prompt_ids"], case["token_ids"], adapter, inputs)
    return difference(reference, logits)


class Table:
    def __init__(self):
        self.worst = 0.0
        self.count = 0
        self.failed = []
        self.refused = defaultdict(list)

    def add(self, name, found):
        self.count += 1
        self.worst = max(self.worst, found)
        if not found <= ALLOWED:
            self.failed.append(f"{name}: {found:.1e}")

    def line(self, name):
        print(f"| {name} | {self.count} | {self.worst:.1e} | {len(self.failed)} |", flush=True)


def main():
    program = Path(sys.argv[1]).resolve()
    default = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
    fixtures = Path(sys.argv[2]) if len(sys.argv) > 2 else default
    merged, kept, none = Table(), Table(), Table()
    per_model, per_case = [], []
    for model in sorted(path.name for path in (fixtures / "models").iterdir()):
        cases = fixtures / "cases" / model
        if not cases.is_dir():
            continue
        row = [model]
        for name, variant in [("base", "base"), ("lora", "merged")]:
            folder = cases / name
            with tempfile.TemporaryDirectory() as root:
                root = Path(root)
                arguments = ["--model", fixtures / "models" / model]
                if name != "base":
                    arguments = [folder, *arguments]
                if name == "lora" and not folder.is_dir():
                    row.append("no case")
                    continue
                error = prepare(program, arguments, root / "folder", root / "exported")
                if error:
                    row.append(f"refused: {error}")
                    merged.refused[error].append(f"{model} {variant}")
                    continue
                case = json.loads((folder / "case.json").read_text())
                reference = expected(folder, variant)
                try:
                    found = compare(Folder(root / "folder"), case, reference)
                except Exception as error:
                    found = float("inf")
                    print(f"{model} {variant}: {error}", file=sys.stderr)
                merged.add(f"{model} {variant}", found)
                row.append(f"{found:.1e}")
        per_model.append(row)
        print(*row, file=sys.stderr, flush=True)

    base_case = fixtures / "cases" / METHODS / "base"
    base_reference = expected(base_case, "base")
    base = json.loads((base_case / "case.json").read_text())
    for folder in sorted((fixtures / "cases" / METHODS).iterdir()):
        if folder.name == "base":
            continue
        case = json.loads((folder / "case.json").read_text())
        with tempfile.TemporaryDirectory() as root:
            root = Path(root)
            arguments = ["--model", fixtures / "models" / METHODS, "--adapters", folder]
            if case.get("task_id") is not None:
                arguments += ["--task-id", case["task_id"]]
            error = prepare(program, arguments, root / "folder", root / "exported")
            if error:
                kept.refused[error].append(folder.name)
                per_case.append([folder.name, f"refused: {error}", ""])
                print(*per_case[-1], file=sys.stderr, flush=True)
                continue
            reference = expected(folder, "unmerged")
            row = [folder.name]
            try:
                open_folder = Folder(root / "folder")
                found = compare(open_folder, case, reference, folder.name)
                kept.add(folder.name, found)
                row.append(f"{found:.1e}")
                checks = json.loads((root / "folder" / "manifest.json").read_text())["portable"]["checks"]
                if any("the graph isn't the base" in check for check in checks):
                    per_case.append(row + ["has other layers"])
                    continue
                try:
                    found = compare(open_folder, base, base_reference)
                    none.add(folder.name, found)
                    row.append(f"{found:.1e}")
                except Exception as error:
                    none.refused[str(error).split(":")[-1].strip()].append(folder.name)
                    row.append("an input is missing")
            except Exception as error:
                kept.add(folder.name, float("inf"))
                row += [f"failed: {error}", ""]
            per_case.append(row)
            print(*row, file=sys.stderr, flush=True)

    print("| | folders | largest difference | beyond 1e-4 |\n| --- | --- | --- | --- |")
    merged.line("base, and merged LoRA, of every fixture model")
    kept.line(f"adapter beside the graph, every case of {METHODS}")
    none.line("the same graphs with no adapter active, against the base")
    for title, table in [("Refused", merged), ("Refused beside a graph", kept), ("No base behaviour", none)]:
        for reason, names in table.refused.items():
            print(f"\n{title}: {', '.join(names)}\n: {reason}")
    print("\n| model | base | merged LoRA |\n| --- | --- | --- |")
    for row in per_model:
        print("| " + " | ".join(row + [""] * (3 - len(row))) + " |")
    print("\n| case | adapter active | none active |\n| --- | --- | --- |")
    for row in per_case:
        print("| " + " | ".join(row + [""] * (3 - len(row))) + " |")
    failed = merged.failed + kept.failed + none.failed
    for line in failed:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
