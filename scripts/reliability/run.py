"""Disturbs peft-bench in every way that a machine can, and checks that nothing is lost: kills, full disks, races, wrong clocks,
signals, memory that runs out. After each event the command works when it's run again, earlier results are the same byte by
byte, and no temporary file, lock or process is left.

    python3 scripts/reliability/run.py                    # everything: 300 kills and the rest, most of an hour
    python3 scripts/reliability/run.py --short            # a part of it, within a minute
    python3 scripts/reliability/run.py kills races        # some of its parts
    python3 scripts/reliability/run.py --seed 7 --only kill/measure/3      # one event again

It ends with a table, and with an exit code that isn't 0 if something was found. Events are drawn from the seed, which is
printed; where in a run a kill arrives also depends on the machine's speed. `PEFT_BENCH` names another program than
target/release/peft-bench. Full disks need the right to mount (`unshare --mount`), limits of memory that to make control
groups; what can't be done is skipped with a message.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

import clocks
import disks
import endings
import kills
import points
import races
from deeds import furnished
from place import PROGRAM, Fault

# How much of each part is done: in full, and in short.
PARTS = {
    "kills": (kills.programme, [300], [22]),
    "points": (points.programme, [60], [1]),
    "disks": (disks.programme, [40, 4], [1, 0]),
    "races": (races.programme, [60], [4]),
    "clocks": (clocks.programme, [2], [0]),
    "endings": (endings.programme, [10], [1]),
}


class Tally:
    """What was run, and what was found."""

    def __init__(self, seed, only):
        self.seed = seed
        # The name of the only event that's wanted; None for all.
        self.only = only
        # Where events happen now.
        self.place = None
        self.rows = defaultdict(lambda: [0, 0, 0.0])
        self.notes = []

    @contextlib.contextmanager
    def event(self, kind, name):
        """One event, whose fault is printed and counted."""
        row = self.rows[kind]
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            row[1] += 1
            what = error if isinstance(error, Fault) else f"the programme itself\n{traceback.format_exc()}"
            print(f"FAULT {name}: {what}\n  again: --seed {self.seed} --only '{name}'", flush=True)
            self.place.tidy()
        row[0] += 1
        row[2] += time.monotonic() - began

    def wants(self, name):
        return self.only in (None, name)

    def wants_of(self, deed):
        """Whether events of this command are wanted."""
        return self.only is None or f"/{deed}/" in self.only

    def one(self, kind, name, act):
        """The event `act`, if it's wanted, with what draws its numbers."""
        if self.wants(name):
            with self.event(kind, name):
                act(random.Random(f"{self.seed}/{name}"))

    def skipped(self, kind, why):
        self.notes.append(f"skipped: {kind}: {why}")

    def print(self):
        """The table."""
        rows = dict(self.rows)
        rows["all"] = [sum(row[column] for row in self.rows.values()) for column in range(3)]
        width = max(len(kind) for kind in rows)
        print(f"\n{'':{width}}  {'runs':>5}  {'faults':>6}  {'seconds':>7}")
        for kind, (runs, faults, seconds) in rows.items():
            print(f"{kind:{width}}  {runs:5}  {faults:6}  {seconds:7.0f}")
        for note in self.notes:
            print(note)

    def faults(self):
        return sum(row[1] for row in self.rows.values())


def with_own_mounts():
    """Starts this programme again in a namespace where it may mount, if that's possible."""
    if os.environ.get("PEFT_BENCH_OWN_MOUNTS") is not None:
        return
    found = "0"
    ways = [["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"]]
    for way in ways if shutil.which("unshare") else []:
        with tempfile.TemporaryDirectory() as folder:
            tried = subprocess.run([*way, "mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        if tried.returncode == 0:
            os.environ["PEFT_BENCH_OWN_MOUNTS"] = "1"
            os.execvp(way[0], [*way, sys.executable, *sys.argv])
    os.environ["PEFT_BENCH_OWN_MOUNTS"] = found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} [default: all]")
    parser.add_argument("--short", action="store_true", help="a part of the events, within a minute")
    parser.add_argument("--seed", type=int, default=1, help="what events are drawn from [default: 1]")
    parser.add_argument("--only", help="one event, as a fault names it")
    parser.add_argument("--scale", type=float, default=1, help="so many times as many events")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}")
    if not PROGRAM.is_file():
        sys.exit(f"error: {PROGRAM} isn't there; `cargo build --release` makes it")
    with_own_mounts()
    tally = Tally(options.seed, options.only)
    print(f"{PROGRAM}, seed {options.seed}", flush=True)
    for part in options.parts or PARTS:
        programme, full, short = PARTS[part]
        amounts = [round(amount * options.scale) for amount in (short if options.short else full)]
        with tempfile.TemporaryDirectory(prefix="reliability-") as folder:
            folder = Path(folder) / "place"
            in_memory = part == "disks" and disks.can_mount()
            if in_memory:
                disks.mount(folder)
            elif part == "disks":
                tally.skipped("full and read-only disks", "nothing may be mounted here")
            tally.place = furnished(folder)
            try:
                programme(tally.place, tally, *amounts)
            except Fault as fault:
                tally.rows[part][1] += 1
                print(f"FAULT {part}, undisturbed: {fault}", flush=True)
            if in_memory:
                disks.unmount(folder)
    tally.print()
    sys.exit(1 if tally.faults() else 0)


if __name__ == "__main__":
    main()
