"""Makes a sweep of many jobs with a result for each, from one result as a template, and times what's done with them: planning,
`status`, `report`, and beginning a job.

    python3 scripts/fleet/many_results.py 10000
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from place import PROGRAM, ROOT, Place


def timed(what, command, folder):
    """Runs a command; says what time and processor time it took, and what memory it needed."""
    began = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - began
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{what}: {took:.2f} s, {cpu:.2f} s of processors, {usage.ru_maxrss / 1024:.0f} MiB, exit code {process.returncode}")
    return out


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="peft-bench-many-") as folder:
        folder = Path(folder)
        os.environ["PEFT_BENCH_LOCKS"] = str(folder / "locks")
        place = Place(folder / "template", count=1)
        place.call("run", place.sweep, "--index", "0")
        [template] = place.sweep.glob("results/*/*.json")
        text = template.read_text()
        print(f"template: {len(text) / 1024:.0f} KiB")

        # Experiments that differ in a number, times eight batch sizes, two dtypes and two precisions.
        adapters = folder / "adapters"
        config = json.loads((ROOT / "experiments/lora/lora_r8/adapter_config.json").read_text())
        per_adapter = 32
        for number in range(-(-count // per_adapter)):
            path = adapters / f"a{number:04}"
            path.mkdir(parents=True)
            (path / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": number + 1}))
        sweep = folder / "many"
        axes = ["--experiments", "adapters/*", "--models", "synthetic/llama-57m", "--dtypes", "float32,bfloat16",
                "--quantizations", "none,4bit", "--batch-sizes", "1,2,3,4,5,6,7,8", "--ep", "cpu"]
        planned = timed("plan", [PROGRAM, "sweep", "plan", *axes, "--to", sweep], folder)
        print(planned.splitlines()[0])

        hardware = sweep / "results" / template.parent.name
        hardware.mkdir(parents=True)
        jobs = [json.loads(line) for line in (sweep / "plan.jsonl").read_text().splitlines()[1:]][:count]
        for job in jobs:
            name = job["experiment"].split("/")[-1]
            label = f"lora--{name}--synthetic--llama-57m--{job['dtype']}--cpu--batch-{job['batch_size']}--{job['key']}.json"
            own = re.sub(r'"batch_size": \d+', f'"batch_size": {job["batch_size"]}', text)
            (hardware / label).write_text(own)
            work, program = job["key"].split("-")
            mark = sweep / "done" / work / program
            mark.parent.mkdir(parents=True)
            mark.write_text(f"results/{template.parent.name}/{label}")
        print(f"{len(jobs)} results")
        timed("status", [PROGRAM, "sweep", "status", sweep], folder)
        report = timed("report", [PROGRAM, "sweep", "report", sweep], folder)
        print(f"  {len(report.splitlines())} lines")
        timed("report --overview", [PROGRAM, "sweep", "report", sweep, "--overview", "--output", folder / "o.txt"], folder)
        timed("report as CSV", [PROGRAM, "sweep", "report", sweep, "--output", folder / "o.csv"], folder)
        timed("a task whose job is done", [PROGRAM, "sweep", "run", sweep, "--index", "7"], folder)


if __name__ == "__main__":
    main()
