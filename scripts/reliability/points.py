"""Kills a command right before its first, second, … system call that changes files, and lets such calls fail as on a full disk.
strace does both, so that every point between two changes is hit, and not only those where much time passes.
"""

import re
import shutil
import subprocess
from collections import Counter

from deeds import EARLIER, all_deeds
from disks import after_failure, says_full, spaces
from kills import Undisturbed, check_again, check_made
from place import PROGRAM, Fault

# Everything that changes a folder, or a file's content.
CHANGES = "write,pwrite64,ftruncate,rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,rmdir,linkat,symlinkat,fchmod"
# Those of them that fail on a full disk, and aren't used for pipes.
FILLING = "pwrite64,ftruncate,mkdir,mkdirat,rename,renameat,renameat2,linkat"
NAMES = ["prepare", "quantize", "checkpoint", "portable", "convert", "init", "report", "sweep plan"]


def traced(place, deed, *options):
    """Runs a command under strace."""
    log = place.root.parent / "strace.log"
    command = ["strace", "--follow-forks", "--quiet=all", "--output", str(log), *options, PROGRAM, *deed.arguments]
    child = subprocess.Popen(command, cwd=place.work, env=place.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    ended = place.end_of(child, deed.arguments)
    return *ended, log.read_text(errors="replace")


def can_trace():
    """Whether strace is there, and may trace."""
    return shutil.which("strace") and subprocess.run(["strace", "--output", "/dev/null", "true"], check=False,
                                                     capture_output=True).returncode == 0


def most(log, calls):
    """How many of these calls the thread with most of them makes."""
    pattern = re.compile(rf"^(\d+) +({calls.replace(',', '|')})\(", re.MULTILINE)
    counts = Counter(thread for thread, _ in pattern.findall(log))
    return max(counts.values(), default=0)


def killed_at(place, deed, undisturbed, kept, number, replace):
    """A kill before the call with this number, of any thread."""
    deed.make_ready(place, replace)
    old = deed.state(place)
    traced(place, deed, f"--trace={CHANGES}", f"--inject={CHANGES}:signal=SIGKILL:when={number}")
    place.settle()
    check_made(old, deed.state(place), undisturbed.whole)
    check_again(place, deed, undisturbed, kept)


def full_at(place, deed, undisturbed, kept, number):
    """No space is left from the call with this number on."""
    deed.make_ready(place, replace=False)
    old = deed.state(place)
    code, said, _ = traced(place, deed, f"--trace={FILLING}", f"--inject={FILLING}:error=ENOSPC:when={number}+")
    if code == 1 and not says_full(said):
        raise Fault(f"it doesn't say that the disk is full: {said.strip()[-800:]}")
    after_failure(place, deed, old, undisturbed, code, said, f"without space from call {number} on")
    check_again(place, deed, undisturbed, kept)


def programme(place, tally, count):
    """Up to `count` calls of each command and kind."""
    if not can_trace():
        tally.skipped("kills before each change of a file", "strace isn't there, or may not trace")
        return
    kept = place.bytes(EARLIER)

    for name, deed in all_deeds().items():
        if name not in NAMES or not tally.wants_of(name):
            continue
        undisturbed = Undisturbed(place, deed)
        deed.make_ready(place, replace=False)
        _, _, log = traced(place, deed, f"--trace={CHANGES}")
        for number in spaces(count, most(log, CHANGES)):
            tally.one("kill before a change: " + name, f"call/{name}/{number}",
                      lambda draw, number=number: killed_at(place, deed, undisturbed, kept, number + 1,
                                                                replace=deed.stale is not None and number % 2 == 1))
        for number in spaces(count, most(log, FILLING)):
            tally.one("no space for a change: " + name, f"space/{name}/{number}",
                      lambda draw, number=number: full_at(place, deed, undisturbed, kept, number + 1))
