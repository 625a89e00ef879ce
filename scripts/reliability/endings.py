"""Signals to a measurement and to its workers, and memory that runs out: what's said, and what's left."""

import json
import os
import resource
import signal
import subprocess
import time
import uuid
from pathlib import Path

from deeds import EARLIER, all_deeds
from kills import Undisturbed, check_again, check_made
from place import MEASURE, Fault, one_error

# What the message about a worker says, by the signal that it got.
WORDS = {
    signal.SIGKILL: "was killed by somebody (signal 9)",
    signal.SIGSEGV: "crashed (signal 11, SIGSEGV)",
    signal.SIGBUS: "crashed (signal 7, SIGBUS",
    signal.SIGABRT: "gave up (signal 6, SIGABRT)",
}
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
# A measurement that goes on for minutes.
LONG = {"num_inference_runs": 1000, "max_new_tokens": 50}
# One of seconds: where a worker ends, the others measure to their end.
SECONDS = {"num_inference_runs": 60, "max_new_tokens": 50}
# One whose intervals take a second or more.
MANY_RUNS = {"num_inference_runs": 100}


def configure(place, more):
    """Parameters of the next measurement, with these changed."""
    from place import CONFIG

    (place.work / "config.json").write_text(json.dumps(CONFIG | more))


def workers(place):
    """The ids of the worker processes."""
    found = []
    for process in place.processes():
        try:
            if Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[1:2] == [b"worker"]:
                found.append(process)
        except OSError:
            continue
    return found


def wait_for(what, condition, child, patience=60):
    began = time.monotonic()
    while not condition():
        if child.poll() is not None:
            raise Fault(f"it ended before {what}: {child.communicate()}")
        if time.monotonic() - began > patience:
            child.kill()
            raise Fault(f"waited {patience} s for {what}")
        time.sleep(0.005)


def begin_long(place, deed):
    """Starts a long measurement, and waits until it generates."""
    configure(place, SECONDS)
    deed.make_ready(place, replace=False)
    child = place.start(deed.arguments)
    wait_for("its three workers", lambda: len(workers(place)) == 3, child)
    time.sleep(0.1)
    return child


def failed_results(place):
    return [json.loads(path.read_text()) for path in (place.work / "new/results/failed").glob("*.json")]


def ended_worker(place, deed, undisturbed, kept, draw, sent):
    """A worker gets a signal; the measurement fails and says which."""
    try:
        child = begin_long(place, deed)
        worker = draw.choice(workers(place))
        # The first of these restores what the signal does by default, in a Rust program.
        for _ in range(2 if sent in (signal.SIGSEGV, signal.SIGBUS) else 1):
            os.kill(worker, sent)
            time.sleep(0.05)
        code, said = place.end_of(child, deed.arguments)
    finally:
        configure(place, {})
    if code != 1 or WORDS[sent] not in said or not one_error(said):
        raise Fault(f"a worker got {sent.name}, and it ends with {code} and this: {said.strip()[-800:]}")
    results = failed_results(place)
    if [result["run_info"]["status"] for result in results] != ["failed"] or WORDS[sent] not in results[0]["run_info"]["error"]:
        raise Fault(f"the failed result doesn't say it: {results}")
    place.settle()
    # The base's measurement is that of other parameters.
    place.remove("new/results/failed", "new/results/base")
    check_again(place, deed, undisturbed, kept)


def cancelled(place, deed, undisturbed, kept, draw, whole_tree):
    """The measurement is asked to end at a random time: it alone, or all its processes at once, as `scancel` does."""
    sent = signal.SIGTERM if whole_tree else draw.choice(SIGNALS)
    configure(place, LONG)
    deed.make_ready(place, replace=False)
    try:
        child = place.start(deed.arguments)
        time.sleep(draw.uniform(0, 2 * undisturbed.seconds))
        processes = place.processes() if whole_tree else [child.pid]
        draw.shuffle(processes)
        before = time.monotonic()
        for process in processes:
            try:
                os.kill(process, sent)
            except ProcessLookupError:
                pass
        code, said = place.end_of(child, deed.arguments, patience=30)
    finally:
        configure(place, {})
    # Before it listens, a signal ends it as any program.
    early = code == -sent and not (place.work / "new/results").exists()
    if code != 130 and not early:
        raise Fault(f"{sent.name} ends it with {code}: {said.strip()[-800:]}")
    if time.monotonic() - before > 10:
        raise Fault(f"{sent.name} ends it after {time.monotonic() - before:.0f} s")
    statuses = [result["run_info"]["status"] for result in failed_results(place)]
    if statuses not in ([], ["cancelled"]):
        raise Fault(f"its result is {statuses}, and not cancelled")
    place.settle()
    # The base's measurement is that of other parameters.
    place.remove("new/results/failed", "new/results/base")
    check_again(place, deed, undisturbed, kept)


def ended_while_it_computes(place, deed, kept, draw):
    """What's measured completely is a result, although it's asked to end while intervals are computed."""
    configure(place, MANY_RUNS)
    deed.make_ready(place, replace=False)
    try:
        child = place.start(deed.arguments)
        wait_for("its three workers", lambda: len(workers(place)) == 3, child)
        wait_for("their end", lambda: not workers(place), child, patience=250)
        time.sleep(draw.uniform(0, 0.3))
        child.send_signal(draw.choice(SIGNALS))
        code, said = place.end_of(child, deed.arguments, patience=30)
    finally:
        configure(place, {})
    found = [json.loads(path.read_text())["run_info"]["status"] for path in (place.work / "new/results").glob("*.json")]
    if code not in (0, 130) or found != ["success"]:
        raise Fault(f"asked to end while it computes, it ends with {code} and results {found}: {said.strip()[-800:]}")
    place.settle()
    if place.bytes(EARLIER) != kept:
        raise Fault("earlier results have changed")


def cancelled_sweep(place, deed, undisturbed, kept, draw):
    """All processes of a sweep's run are asked to end."""
    deed.make_ready(place, replace=False)
    child = place.start(deed.arguments)
    time.sleep(draw.uniform(0.05, undisturbed.seconds))
    processes = place.processes()
    draw.shuffle(processes)
    for process in processes:
        try:
            os.kill(process, signal.SIGTERM)
        except ProcessLookupError:
            pass
    code, said = place.end_of(child, deed.arguments, patience=40)
    place.settle()
    states = [json.loads(path.read_text())["state"] for path in place.work.glob("sweeps/new/attempts/*/*/attempt.json")]
    if code not in (0, 130, -signal.SIGTERM) or set(states) - {"done", "cancelled"}:
        raise Fault(f"it ends with {code} and attempts {states}: {said.strip()[-800:]}")
    check_made({}, {name: what for name, what in deed.state(place).items() if "plan" not in name}, undisturbed.whole)
    check_again(place, deed, undisturbed, kept)


class Group:
    """A control group with a limit of memory."""

    def __init__(self, megabytes):
        own = Path("/proc/self/cgroup").read_text().splitlines()
        fields = [line.split(":", 2) for line in own]
        one = [path for _, controllers, path in fields if "memory" in controllers.split(",")]
        root = Path("/sys/fs/cgroup/memory" if one else "/sys/fs/cgroup")
        path = one[0] if one else next(path for _, controllers, path in fields if not controllers)
        limit, swap = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if one else ("memory.max", "memory.swap.max")
        self.folder = root / path.lstrip("/") / f"peft-bench-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir()
        (self.folder / limit).write_text(f"{megabytes << 20}")
        if (self.folder / swap).exists():
            (self.folder / swap).write_text(f"{megabytes << 20}" if one else "0")

    def join(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.05)


def can_limit():
    """Whether control groups can be made here."""
    try:
        Group(64).remove()
        return True
    except (OSError, StopIteration):
        return False


# Its workers take 120 MiB, and the process that starts them takes a quarter of that.
HUNGRY = ["measure", "own", "--output", "new/results", "--export-dir", "new/measured", *MEASURE, "--batch-size", "512"]


def out_of_memory(place, deed, undisturbed, kept, megabytes):
    """The kernel ends a worker for want of memory, and the message says so."""
    deed.make_ready(place, replace=False)
    deed.run(place)
    group = Group(megabytes)
    try:
        code, said = place.run(HUNGRY, code=None, limits=group.join)
    finally:
        place.settle()
        group.remove()
    if code != 1 or "was killed by the kernel, as memory ran out" not in said:
        raise Fault(f"with {megabytes} MiB it ends with {code} and this: {said.strip()[-800:]}")
    # The base's measurement is that of other parameters.
    place.remove("new/results/failed", "new/results/base")
    check_again(place, deed, undisturbed, kept)


def little_address_space(place, deed, undisturbed, kept, megabytes):
    """Memory that can't be had (`ulimit -v`) is an error that says so."""
    deed.make_ready(place, replace=False)
    limits = lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,) * 2)
    code, said = place.run(deed.arguments, code=None, limits=limits)
    words = ("memory", "alloc", "Resource temporarily unavailable", "failed to map", "map segment")
    if code == 0:
        return
    if code not in (1, -signal.SIGABRT) or not any(word in said for word in words):
        raise Fault(f"with {megabytes} MiB of addresses it ends with {code} and this: {said.strip()[-800:]}")
    place.settle()
    check_again(place, deed, undisturbed, kept)


def programme(place, tally, rounds):
    """So many rounds of each."""
    kept = place.bytes(EARLIER)
    deeds = all_deeds()
    measure, sweep = deeds["measure"], deeds["sweep run"]

    undisturbed = Undisturbed(place, measure)
    for number in range(rounds):
        for sent in WORDS:
            tally.one(f"a worker gets {sent.name}", f"worker/{sent.name}/{number}",
                      lambda draw: ended_worker(place, measure, undisturbed, kept, draw, sent))
        tally.one("TERM, INT or HUP to the measurement", f"cancel/one/{number}",
                  lambda draw: cancelled(place, measure, undisturbed, kept, draw, whole_tree=False))
        tally.one("TERM to all its processes", f"cancel/all/{number}",
                  lambda draw: cancelled(place, measure, undisturbed, kept, draw, whole_tree=True))
        tally.one("TERM, INT or HUP while intervals are computed", f"cancel/computing/{number}",
                  lambda draw: ended_while_it_computes(place, measure, kept, draw))
    if can_limit():
        for number in range(max(1, rounds // 2)):
            tally.one("memory runs out (control group)", f"memory/group/{number}",
                      lambda draw: out_of_memory(place, measure, undisturbed, kept, draw.randint(45, 90)))
    else:
        tally.skipped("memory runs out (control group)", "control groups can't be made here")
    for number in range(rounds):
        tally.one("little address space (ulimit -v)", f"memory/addresses/{number}",
                  lambda draw: little_address_space(place, measure, undisturbed, kept, draw.randint(20, 1500)))
    undisturbed = Undisturbed(place, sweep)
    for number in range(rounds):
        tally.one("TERM to all processes of a sweep", f"cancel/sweep/{number}",
                  lambda draw: cancelled_sweep(place, sweep, undisturbed, kept, draw))
