"""Tests `peft-bench sweep submit --launcher slurm` on a real Slurm on loopback: an array, a killed task, one over its time, a
requeue, a drained node, `scancel`. Installs Debian's packages where they aren't there; skipped with a message where that's
impossible.

    python3 scripts/fleet/test_slurm.py

`PEFT_BENCH` names another program than target/release/peft-bench.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from place import PROGRAM, Place

HERE = Path(__file__).resolve().parent
# A task over its time is ended by Slurm at least a minute after it began.
PATIENCE = 150


def install():
    """Whether there's a Slurm, which is installed if it can be."""
    if shutil.which("slurmctld") and shutil.which("slurmd") and shutil.which("munged"):
        return True
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(["apt-get", "-qq", *command], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr.strip(), file=sys.stderr)
            return False
    return True


def slurm(*command):
    """What a client of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def state(task):
    """The state of a task, such as `17_0`."""
    fields = dict(field.split("=", 1) for field in slurm("scontrol", "show", "job", task).split() if "=" in field)
    return fields


def wait(what, condition, patience=60):
    """Waits until `condition()` is true, and returns what it is."""
    began = time.monotonic()
    while not (found := condition()):
        assert time.monotonic() - began < patience, f"waited {patience} s for {what}"
        time.sleep(0.2)
    return found


def submit(place, *options):
    """Submits the sweep's open jobs; returns the array's number and the report's."""
    said = place.call("submit", place.sweep, "--launcher", "slurm", "--cpus", "1", *options)
    line = next(line for line in said.splitlines() if line.startswith("submitted"))
    array, report = line.split(" as ")[1].split(";")[0].split(", ")
    return array, report


def is_over(number):
    """Whether a job, or all tasks of an array, have ended."""
    done = subprocess.run(["squeue", "--noheader", "--jobs", number], capture_output=True, text=True, check=False, timeout=30)
    return not done.stdout.strip()


def processes(place):
    """The processes of tasks that measure in `place`, each with its job's number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = path.joinpath("cmdline").read_bytes().decode().split("\0")
            environment = path.joinpath("environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if words[:3] == [str(PROGRAM), "sweep", "run"] and str(place.sweep) in words:
            task = next((of.split("=")[1] for of in environment if of.startswith("SLURM_ARRAY_TASK_ID=")), None)
            found[task] = int(path.name)
    return found


def an_array_measures_every_job_once_and_reports(folder):
    place = Place(folder / "array", count=2)
    array, report = submit(place, "--at-once", "2")
    wait("the report", lambda: is_over(report), PATIENCE)
    assert place.standing() == {"done": 8}, place.call("status", place.sweep, code=None)
    assert all(states == ["done"] for states in place.attempts().values()), place.attempts()
    text = (place.sweep / "report.md").read_text()
    assert text.count("merged") >= 8, text
    assert "all jobs are done" in place.call("submit", place.sweep, "--launcher", "slurm")
    assert state(f"{array}_0")["JobState"] == "COMPLETED"


def a_drained_node_ends_what_runs_and_begins_nothing(folder):
    place = Place(folder / "drained", count=1)
    slurm("scontrol", "update", "nodename=localhost", "state=drain", "reason=test")
    array, report = submit(place, "--at-once", "1")
    time.sleep(2)
    assert place.standing() == {"open": 4}, place.standing()
    assert "pending" in place.call("status", place.sweep, code=3)
    slurm("scontrol", "update", "nodename=localhost", "state=resume")
    wait("the array", lambda: is_over(array) and is_over(report), PATIENCE)
    assert place.standing() == {"done": 4}, place.standing()


def tasks_that_are_killed_requeued_cancelled_and_over_time(folder):
    place = Place(folder / "ended", count=1, runs=1000, new_tokens=100, more=("--restarts", "9"))
    # The last two wait until the first two have ended.
    array, report = submit(place, "--at-once", "2", "--", "--time=1")
    began = lambda task: lambda: processes(place).get(task) and len(place.attempts()) > int(task)
    wait("the first tasks", lambda: began("0")() and began("1")())
    # One is over its time, meanwhile. The other one is requeued: it, and not the whole array.
    time.sleep(1)
    slurm("scontrol", "requeue", f"{array}_1")
    wait("the requeued task", lambda: state(f"{array}_1")["JobState"] in ("PENDING", "RUNNING") and "1" not in processes(place))
    wait("the third task", lambda: processes(place).get("2") and len(place.attempts()) == 3)
    time.sleep(1)
    key = {job["job"]: job["key"] for job in place.jobs()}
    os.kill(processes(place)["2"], signal.SIGKILL)
    wait("the end of the killed task", lambda: state(f"{array}_2")["JobState"] not in ("RUNNING", "COMPLETING"))
    assert state(f"{array}_2")["JobState"] == "FAILED" and state(f"{array}_2")["ExitCode"] == "0:9", state(f"{array}_2")
    wait("its standing", lambda: {job["job"]: job["standing"] for job in place.jobs()}[2] == "interrupted")
    assert not list(place.sweep.glob("results/*/*.json")), "half a measurement is published"
    wait("the fourth or the requeued task", lambda: set(processes(place)) & {"1", "3"})
    time.sleep(2)
    # What's over its time is told to end, and then killed.
    wait("the end of the task over its time", lambda: state(f"{array}_0")["JobState"] == "TIMEOUT", PATIENCE)
    assert place.attempts()[key[0]] == ["cancelled"], place.attempts()
    assert int(state(f"{array}_1")["Restarts"]) == 1 and int(state(f"{array}_0")["Restarts"]) == 0
    running = wait("another task", lambda: set(processes(place)) & {"1", "3"})
    task = sorted(running)[0]
    wait("its attempt", lambda: "running" in place.attempts().get(key[int(task)], []))
    time.sleep(1)
    slurm("scancel", f"{array}_{task}")
    wait("the cancelled task", lambda: task not in processes(place))
    assert place.attempts()[key[int(task)]][-1] == "cancelled", place.attempts()
    # The rest is cancelled by the program, and nothing is left.
    place.call("cancel", place.sweep)
    wait("the end of all", lambda: is_over(array) and is_over(report) and not processes(place))
    standing = place.standing()
    assert standing.get("failed", 0) == 0 and standing.get("running", 0) == 0, standing


def main():
    if not install():
        print("skipped: there's no Slurm, and no apt-get (as root) that installs Debian's slurm-wlm and munge", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="peft-bench-slurm-") as folder:
        folder = Path(folder)
        os.environ["SLURM_CONF"] = str(folder / "slurm/slurm.conf")
        os.environ["PEFT_BENCH_LOCKS"] = str(folder / "locks")
        began = time.monotonic()
        try:
            subprocess.run([HERE / "slurm.sh", "up", folder / "slurm"], check=True)
            for test in (an_array_measures_every_job_once_and_reports, a_drained_node_ends_what_runs_and_begins_nothing,
                         tasks_that_are_killed_requeued_cancelled_and_over_time):
                test(folder)
                print(f"{time.monotonic() - began:4.0f} s  {test.__name__.replace('_', ' ')}")
        finally:
            subprocess.run([HERE / "slurm.sh", "down", folder / "slurm"], check=False)


if __name__ == "__main__":
    main()
