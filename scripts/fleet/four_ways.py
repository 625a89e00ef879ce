"""Runs one sweep of 24 jobs of tiny models in four ways, and compares the reports: on this machine, killed in the middle and
resumed; through Slurm on loopback; as four shards at once; through HyperQueue's wheel. Each way that can't be gone is said.

    python3 scripts/fleet/four_ways.py
"""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import test_slurm
from place import PROGRAM, Place

HERE = Path(__file__).resolve().parent
JOBS = 24


def killed_and_resumed(place):
    child = place.popen("run", place.sweep)
    began = time.monotonic()
    while len(list(place.sweep.glob("results/*/*.json"))) < JOBS // 2:
        assert time.monotonic() - began < 300 and child.poll() is None, child.stdout.read()
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(2)
    before = place.standing()
    print("  after the kill:", before)
    place.call("run", place.sweep)


def shards(place):
    children = [place.popen("run", place.sweep, "--shard", f"{index}/4") for index in range(4)]
    for child in children:
        out, _ = child.communicate(timeout=600)
        assert child.returncode == 0, out


def slurm(place):
    _, report = test_slurm.submit(place, "--at-once", "2")
    test_slurm.wait("the report", lambda: test_slurm.is_over(report), 300)


def hyperqueue(place):
    command = [sys.executable, HERE / "run_by_hq.py", place.sweep, "--program", PROGRAM]
    subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    with tempfile.TemporaryDirectory(prefix="peft-bench-fleet-") as folder:
        folder = Path(folder)
        os.environ["PEFT_BENCH_LOCKS"] = str(folder / "locks")
        ways = [killed_and_resumed, shards]
        if test_slurm.install():
            os.environ["SLURM_CONF"] = str(folder / "slurm/slurm.conf")
            subprocess.run([HERE / "slurm.sh", "up", folder / "slurm"], check=True)
            ways.append(slurm)
        else:
            print("not through Slurm: it isn't here, and can't be installed")
        if importlib.util.find_spec("hyperqueue"):
            ways.append(hyperqueue)
        else:
            print("not through HyperQueue: `pip install hyperqueue==0.27.0` first")
        reports = {}
        try:
            for way in ways:
                place = Place(folder / way.__name__)
                began = time.monotonic()
                way(place)
                took = time.monotonic() - began
                assert place.standing() == {"done": JOBS}, place.call("status", place.sweep, code=None)
                attempts = sorted(len(states) for states in place.attempts().values())
                reports[way.__name__] = place.rows()
                print(f"{way.__name__}: {took:.0f} s, {len(reports[way.__name__]) - 1} rows, attempts {attempts}")
                interrupted = 1 if way is killed_and_resumed else 0
                assert sum(attempts) <= JOBS + interrupted, "something was measured twice"
        finally:
            if slurm in ways:
                subprocess.run([HERE / "slurm.sh", "down", folder / "slurm"], check=False)
        first = next(iter(reports.values()))
        for name, rows in reports.items():
            assert rows == first, f"{name} has other rows: {sorted(set(rows) ^ set(first))}"
        print(f"all {len(reports)} reports have the same rows")


if __name__ == "__main__":
    main()
