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
# What takes Slurm half a minute, on a busy machine.
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


class Sweeps:
    """A sweep of four tasks that take minutes: one runs over its time, one is requeued and cancelled, one is killed, and the last
    one is held until the others have ended. Meanwhile, another sweep is measured whole. The tests are in this order."""

    def __init__(self, folder):
        self.folder = folder
        self.place = Place(folder / "ended", count=1, runs=1000, new_tokens=100, more=("--restarts", "9"))
        self.array, self.report = submit(self.place, "--at-once", "2", "--", "--time=1")
        slurm("scontrol", "hold", self.task(3))
        self.key = {job["job"]: job["key"] for job in self.place.jobs()}
        for number in (0, 1):
            self.wait_for_attempt(number)

    def task(self, number):
        return f"{self.array}_{number}"

    def state(self, number):
        return state(self.task(number))["JobState"]

    def attempts(self, number):
        return self.place.attempts().get(self.key[number], [])

    def wait_for_attempt(self, number):
        """Waits until a task measures."""
        wait(f"task {number}", lambda: processes(self.place).get(str(number)) and self.attempts(number)[-1:] == ["running"])
        time.sleep(1)

    def the_first_task_is_over_its_time(self):
        # A limit is a minute at least, and Slurm looks every half minute. This moves the end, and Slurm does the rest.
        slurm("scontrol", "update", f"jobid={self.task(0)}", "endtime=now")

    def a_task_is_requeued_alone(self):
        slurm("scontrol", "requeue", self.task(1))
        wait("the requeued task", lambda: self.state(1) in ("PENDING", "RUNNING") and "1" not in processes(self.place))
        assert int(state(self.task(0))["Restarts"]) == 0

    def a_killed_task_leaves_no_half_a_result(self):
        self.wait_for_attempt(2)
        os.kill(processes(self.place)["2"], signal.SIGKILL)
        wait("the end of the killed task", lambda: self.state(2) not in ("RUNNING", "COMPLETING"))
        assert self.state(2) == "FAILED" and state(self.task(2))["ExitCode"] == "0:9", state(self.task(2))
        wait("its standing", lambda: {job["job"]: job["standing"] for job in self.place.jobs()}[2] == "interrupted")
        assert not list(self.place.sweep.glob("results/*/*.json")), "half a measurement is published"

    def the_requeued_task_begins_again_and_is_cancelled(self):
        self.wait_for_attempt(1)
        assert int(state(self.task(1))["Restarts"]) == 1 and len(self.attempts(1)) == 2
        slurm("scancel", self.task(1))
        wait("the cancelled task", lambda: "1" not in processes(self.place))
        assert self.attempts(1)[-1] == "cancelled", self.place.attempts()

    def a_drained_node_begins_nothing_and_then_every_job_is_measured_once(self):
        place = Place(self.folder / "array", count=1)
        is_running = self.state(0) == "RUNNING"
        slurm("scontrol", "update", "nodename=localhost", "state=drain", "reason=test")
        array, report = submit(place, "--at-once", "2")
        time.sleep(2)
        assert place.standing() == {"open": 4}, place.standing()
        assert "pending" in place.call("status", place.sweep, code=3)
        if is_running:
            assert self.state(0) in ("RUNNING", "COMPLETING", "TIMEOUT")
        slurm("scontrol", "update", "nodename=localhost", "state=resume")
        wait("the report", lambda: is_over(array) and is_over(report), PATIENCE)
        assert place.standing() == {"done": 4}, place.call("status", place.sweep, code=None)
        assert all(states == ["done"] for states in place.attempts().values()), place.attempts()
        text = (place.sweep / "report.md").read_text()
        assert text.count("merged") >= 4, text
        assert "all jobs are done" in place.call("submit", place.sweep, "--launcher", "slurm")
        assert state(f"{array}_0")["JobState"] == "COMPLETED"

    def the_task_over_its_time_was_told_to_end(self):
        wait("the end of the task over its time", lambda: self.state(0) == "TIMEOUT", PATIENCE)
        assert self.attempts(0) == ["cancelled"], self.place.attempts()

    def the_program_cancels_the_rest(self):
        slurm("scontrol", "release", self.task(3))
        self.wait_for_attempt(3)
        self.place.call("cancel", self.place.sweep)
        wait("the end of all", lambda: is_over(self.array) and is_over(self.report) and not processes(self.place))
        standing = self.place.standing()
        assert standing == {"interrupted": 4}, standing


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
            sweep = Sweeps(folder)
            for test in (sweep.the_first_task_is_over_its_time, sweep.a_task_is_requeued_alone,
                         sweep.a_killed_task_leaves_no_half_a_result, sweep.the_requeued_task_begins_again_and_is_cancelled,
                         sweep.a_drained_node_begins_nothing_and_then_every_job_is_measured_once,
                         sweep.the_task_over_its_time_was_told_to_end, sweep.the_program_cancels_the_rest):
                test()
                print(f"{time.monotonic() - began:4.0f} s  {test.__name__.replace('_', ' ')}")
        finally:
            subprocess.run([HERE / "slurm.sh", "down", folder / "slurm"], check=False)


if __name__ == "__main__":
    main()
