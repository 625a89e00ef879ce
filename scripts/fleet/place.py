"""A folder with a sweep of tiny models for the tests of this folder: plans it, and says how it stands."""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench"))
CASES = ["lora", "dora", "ia3-regex", "loha", "vera", "lokr"]


class Place:
    """A sweep of `count` experiments x two dtypes x two batch sizes in `folder`."""

    def __init__(self, folder, runs=3, count=6, seed=1, new_tokens=4, more=()):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        prompts = {"short": ["a b"], "medium": ["the cat sat"], "long": ["one two three four five"]}
        config = {"model_id": "models/llama-gqa", "dtype": "float32", "seed": seed, "max_new_tokens": new_tokens,
                  "num_inference_runs": runs, "num_prompt_samples": 1}
        (self.folder / "prompts.json").write_text(json.dumps(prompts))
        (self.folder / "config.json").write_text(json.dumps(config))
        (self.folder / "models").symlink_to(ROOT / "tests/fixtures/models")
        (self.folder / "cases").symlink_to(ROOT / "tests/fixtures/cases/llama-gqa")
        self.sweep = self.folder / "sweep"
        names = ",".join(f"cases/{name}" for name in CASES[:count])
        self.call("plan", "--experiments", names, "--dtypes", "float32,bfloat16", "--batch-sizes", "1,2", "--to", self.sweep,
                  "--config", "config.json", "--ep", "cpu", "--threads", "1", "--", "--prompts", "prompts.json", *more)

    def call(self, *arguments, code=0, env=None):
        """Runs `peft-bench sweep`, which has to end with `code`, unless that's None; returns what it prints."""
        command = [PROGRAM, "sweep", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=600,
                              env={**os.environ, **(env or {})})
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def popen(self, *arguments, env=None):
        """Starts `peft-bench sweep`."""
        return subprocess.Popen([PROGRAM, "sweep", *map(str, arguments)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})})

    def jobs(self):
        """How each job stands, by number."""
        done = subprocess.run([PROGRAM, "sweep", "status", "--json", self.sweep], cwd=self.folder, capture_output=True, text=True,
                              check=False)
        return json.loads(done.stdout)["jobs"]

    def standing(self):
        """How many jobs stand how."""
        counts = {}
        for job in self.jobs():
            counts[job["standing"]] = counts.get(job["standing"], 0) + 1
        return counts

    def attempts(self):
        """The states of all attempts, by key."""
        found = {}
        for path in sorted(self.sweep.glob("attempts/*/*/attempt.json")):
            found.setdefault(path.parts[-3], []).append(json.loads(path.read_text())["state"])
        return found

    def rows(self):
        """What the report's rows are of, without figures."""
        table = self.call("report", self.sweep, "--format", "csv", "--columns", "experiment,variant,model,dtype,batch_size")
        # Two more columns say which group of comparable results a row is in, numbered in their order.
        return sorted(",".join(line.split(",")[:5]) for line in table.splitlines() if line)
