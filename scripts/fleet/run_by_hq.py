"""Runs a sweep's open jobs through HyperQueue's Python wheel, which has server and worker, and no `hq`. With `hq` itself,
`peft-bench sweep submit --launcher hq` does the same.

    pip install hyperqueue==0.27.0
    python3 scripts/fleet/run_by_hq.py sweeps/first --cpus 2
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
from hyperqueue.ffi.protocol import ResourceRequest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--cpus", type=int, default=1, help="cores of a task")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cores of the worker")
    parser.add_argument("--program", default=shutil.which("peft-bench") or "target/release/peft-bench")
    arguments = parser.parse_args()
    program, sweep = Path(arguments.program).resolve(), arguments.sweep.resolve()

    status = subprocess.run([program, "sweep", "status", "--json", sweep], capture_output=True, text=True, check=False)
    status = json.loads(status.stdout)
    numbers = [job["job"] for job in status["jobs"] if not job["standing"].startswith("done")]
    logs = sweep / "logs"
    logs.mkdir(exist_ok=True)
    with LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores=arguments.cores))
        client = cluster.client()
        job = Job()
        for number in numbers:
            # The wheel has no arrays, so the number is given, and not HQ_TASK_ID.
            job.program(
                [str(program), "sweep", "run", str(sweep), "--index", str(number), "--plan", status["plan"], "--keep-going"],
                env={name: os.environ[name] for name in ("PEFT_BENCH_LOCKS", "PEFT_BENCH_CACHE") if name in os.environ},
                stdout=str(logs / f"hq-{number}.txt"),
                stderr=str(logs / f"hq-{number}.txt"),
                resources=ResourceRequest(cpus=arguments.cpus),
            )
        submitted = client.submit(job)
        client.wait_for_jobs([submitted], raise_on_error=False)
    sys.exit(subprocess.run([program, "sweep", "status", sweep], check=False).returncode)


if __name__ == "__main__":
    main()
