"""Results that were never measured: one real result, again and again, with other names and values.

The page is checked with many results, with failed and disturbed ones, and with names that would like to be markup. Nobody measures
all of that for a check of a page.
"""

import copy
import json
import random
import re
from pathlib import Path

METHODS = "LORA ADALORA BOFT C3A FOURIERFT HRA IA3 LOHA LOKR OFT PROMPT_TUNING ROAD SHIRA VERA".split()

# What a file's name can't hold stands in the result itself: errors, failures of the parity check, versions.
HOSTILE = "<script>window.hacked = 1</script></script><img src=x onerror=\"window.hacked = 2\">&amp;'\"]]>-->"
HOSTILE_NAME = "<img src=x onerror='window.hacked = 3'>&amp;"

TIMES = ("inference_time", "time_per_token", "time_to_first_token", "prefill_time", "decode_time_per_token",
         "decode_time_per_batch_token", "base_inference_time")


def stretch(node, factor, rng):
    """All times below `node` take `factor` times as long, each with some noise of its own."""
    if isinstance(node, list):
        for entry in node:
            stretch(entry, factor, rng)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "decode_steps":
                node[key] = [round(step * factor * rng.lognormvariate(0, 0.03), 9) for step in value]
            elif key in TIMES and isinstance(value, float):
                node[key] = value * factor
            else:
                stretch(value, factor, rng)


def move_overheads(variant, pct, rng):
    over = variant["overhead_pct"]
    for entry in [over["overall"], *over["by_category"].values()]:
        half = rng.lognormvariate(0.6, 0.6)
        middle = pct + rng.gauss(0, half / 3)
        low, high = middle - half, middle + half * rng.uniform(0.7, 1.3)
        entry.update(pct=middle, interval_pct=[low, high], detected=not low <= 0 <= high)


def variation(source, number, rng):
    """The name and the content of result `number`."""
    result = copy.deepcopy(source)
    run, info, meta = result["run_info"], result["generation_info"], result["meta_info"]
    method = METHODS[number % len(METHODS)]
    name = f"{method.lower()}_{number}"
    run["peft_config"]["peft_type"] = method
    meta["parameters"]["trainable_params"] = int(10 ** rng.uniform(3.5, 7.2))
    meta["adapter"]["weights"] = "fresh" if number % 3 == 0 else "trained"
    for variant, pct in (("merged", rng.gauss(0, 0.5)), ("unmerged", abs(rng.gauss(8, 8)))):
        found = info["variants"][variant]
        stretch(found, 1 + pct / 100, rng)
        move_overheads(found, pct, rng)
    for key in ("memory", "by_category", "overall"):
        info[key] = copy.deepcopy(info["variants"]["unmerged"][key])
    if number == 3:
        name = HOSTILE_NAME
        run["peft_config"]["peft_type"] = "LORA<b>"
    if number in (4, 5):
        info["parity"].update(passed=False, failures=[HOSTILE])
        info["timings_valid"] = False
    if number in (6, 7, 8):
        run["interference"].update(disturbed=True, other_processes_share=0.43)
    if number == 9:
        info["variants"]["merged"] = {"absent": f"nothing to merge {HOSTILE}"}
        info["break_even"] = None
    if number == 10:
        info["variants"]["merged"]["error"] = f"the worker ended {HOSTILE}"
    if number in (11, 12):
        run.update(status="failed", error=f"cannot read {HOSTILE}")
    if 20 <= number < 26:
        meta.update(dtype="float16", compute_dtype="float16")
        run["benchmark_config"]["dtype"] = "float16"
    if 30 <= number < 34:
        meta["system_info"]["processor"] = f"Another processor {HOSTILE}"
    return name, result


def make_results(template, folder, count=60):
    """Writes `count` results into `folder`, and those that failed into `failed` below it."""
    source = json.loads(Path(template).read_text())
    rng = random.Random(7)
    for number in range(count):
        name, result = variation(source, number, rng)
        failed = result["run_info"]["status"] != "success"
        place = Path(folder) / "failed" if failed else Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        method = result["run_info"]["peft_config"]["peft_type"].lower()
        method = re.sub(r"[^a-z0-9_]", "", method)
        model = result["meta_info"]["model_id"].replace("/", "--")
        file = f"{method}--{name}--{model}--{result['meta_info']['dtype']}--cpu.json"
        (place / file.replace("/", "-")).write_text(json.dumps(result))


def make_published(template, path):
    """Writes what PEFT might have published of all methods of `make_results`, of a model called `made/up`."""
    config = json.loads(Path(template).read_text())["run_info"]["peft_config"]
    rng = random.Random(7)
    results = [{
        "run_info": {
            "experiment_name": f"{method.lower()}/made-up",
            "created_at": "2026-07-14T00:00:00+00:00",
            "peft_config": {**config, "peft_type": method},
            "train_config": {"model_id": "made/up"},
        },
        "train_info": {"metrics": [{"test accuracy": rng.randint(300, 700) / 1319}]},
    } for method in METHODS]
    Path(path).write_text(json.dumps({"results": results}))
