"""Prints a table of what `compare.sh` measured: python table.py FOLDER/results

Ratios are medians over pairs of neighbouring runs: above 1, the export takes longer than this program's graph.
"""

import json
import sys
from pathlib import Path
from statistics import median


def runs(variant):
    for group, category in variant["by_category"].items():
        for sample in category["samples"]:
            for number, run in enumerate(sample["individual_runs"]):
                yield (group, sample["prompt"], number), run


def ratio(base, variant, figure):
    of_base = dict(runs(base))
    pairs = [(of_base[key], run) for key, run in runs(variant) if key in of_base]
    return median(figure(run) / figure(base) for base, run in pairs)


print("| | first token ÷ ours | a token ÷ ours | peak memory | logits differ by | same tokens | protocol |")
print("| --- | --- | --- | --- | --- | --- | --- |")
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    info = json.loads(path.read_text())["generation_info"]
    base, variants = info["variants"]["base"], info["variants"]
    variant = variants.get("exported", base)
    kind, name = path.name.split("--")[:2]
    if "exported" not in variants:
        name = "ours (the base)"
    elif kind == "prepared":
        name = "ours, 4 bits"
    else:
        name = name.rsplit("-", 1)[0]
    first = ratio(base, variant, lambda run: run["time_to_first_token"])
    step = ratio(base, variant, lambda run: median(run["decode_steps"]))
    parity = info["parity"]
    compared = parity.get("exported")
    difference = f"{compared['difference']:.1e}" if compared else "–"
    tokens = f"{parity['same_tokens']} of {parity['of']}" if compared else "–"
    graph = variant.get("graph")
    protocol = f"{graph['logits'].replace('_', ' ')}, {graph['cache']} cache" if graph else "last position, shared cache"
    memory = variant["memory"]["peak_ram_memory_mb"]
    print(f"| {name} | {first:.2f} | {step:.2f} | {memory:.0f} MiB | {difference} | {tokens} | {protocol} |")
