"""Disks that are full, files that may not grow, folders that can't be written, and folders that vanish."""

import os
import resource
import shutil
import subprocess
import time

import endings
from deeds import EARLIER, all_deeds
from kills import Undisturbed, check_again, check_made
from place import Fault, meaning, one_error

PAGE = 4096
NAMES = ["prepare", "quantize", "checkpoint", "portable", "convert", "init", "measure", "base", "report", "sweep plan", "sweep run"]
# Those of the short form.
FEW = ["prepare", "convert", "measure", "sweep plan"]
PLENTY = "512m"


def can_mount():
    """Whether this process may mount: as root in a namespace of its own (`unshare --mount`)."""
    return os.environ.get("PEFT_BENCH_OWN_MOUNTS") == "1"


def mount(folder):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={PLENTY}", "tmpfs", folder], check=True)


def unmount(folder):
    subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder, option):
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True, capture_output=True)


def used_pages(folder):
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_bsize // PAGE


def used_inodes(folder):
    found = os.statvfs(folder)
    return found.f_files - found.f_ffree


def after_failure(place, deed, old, undisturbed, code, said, what):
    """A command that couldn't write has said so, and left nothing."""
    if code == 0:
        if deed.state(place) != undisturbed.whole:
            raise Fault(f"{what}: it says that all is well, and made something else: {said.strip()[-800:]}")
        return
    if code != 1 or not one_error(said):
        raise Fault(f"{what}: it ends with {code} and this: {said.strip()[-800:]}")
    check_made(old, deed.state(place), undisturbed.whole)
    place.settle()
    if place.remains():
        raise Fault(f"{what}: left over: {place.remains()}")


def says_full(said):
    return any(words in said for words in ("No space left", "File too large", "no room", "free"))


def full_disk(place, deed, undisturbed, kept, draw, spare, inodes):
    """The disk has room for so many further pages, or files."""
    deed.make_ready(place, replace=deed.stale is not None and draw.random() < 0.3)
    old = deed.state(place)
    option = f"nr_inodes={used_inodes(place.root) + spare}" if inodes else f"size={(used_pages(place.root) + spare) * PAGE}"
    remount(place.root, option)
    try:
        code, said = place.run(deed.arguments, code=None)
    finally:
        remount(place.root, f"size={PLENTY},nr_inodes=1000000")
    if code == 1 and not says_full(said):
        raise Fault(f"it doesn't say that the disk is full: {said.strip()[-800:]}")
    after_failure(place, deed, old, undisturbed, code, said, f"with room for {spare} {'files' if inodes else 'pages'}")
    check_again(place, deed, undisturbed, kept)


def short_files(place, deed, undisturbed, kept, limit):
    """No file may be longer than `limit` bytes (`ulimit -f`)."""
    deed.make_ready(place, replace=False)
    old = deed.state(place)
    limits = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code, said = place.run(deed.arguments, code=None, limits=limits)
    if code == 1 and not says_full(said):
        raise Fault(f"it doesn't say that files may not grow: {said.strip()[-800:]}")
    after_failure(place, deed, old, undisturbed, code, said, f"with files of at most {limit} bytes")
    check_again(place, deed, undisturbed, kept)


def read_only(place, deed, undisturbed, kept):
    """Nothing can be written."""
    deed.make_ready(place, replace=False)
    old = deed.state(place)
    remount(place.root, "ro")
    try:
        code, said = place.run(deed.arguments, code=None)
        for reading in (["report", "results"], ["sweep", "status", "sweeps/earlier"], ["sweep", "report", "sweeps/earlier"],
                        ["compare", "results", "results"], ["check", "own"]):
            place.run(reading, code=None if reading[0] == "compare" else 0)
    finally:
        remount(place.root, "rw")
    if code != 1 or "Read-only file system" not in said:
        raise Fault(f"on a read-only disk it ends with {code} and this: {said.strip()[-800:]}")
    after_failure(place, deed, old, undisturbed, code, said, "on a read-only disk")
    check_again(place, deed, undisturbed, kept)


def vanished(place, deed, undisturbed, kept, draw):
    """A folder that the command uses is removed, or renamed, while it runs."""
    deed.make_ready(place, replace=False)
    choices = [*deed.makes, *(name.split("/")[0] for name in deed.makes), "../tmp", "../cache"]
    name = draw.choice(sorted(set(choices) - {"experiments"}))
    folder = place.work / name
    child = place.start(deed.arguments)
    time.sleep(draw.uniform(0, 1.05 * undisturbed.seconds))
    if draw.random() < 0.5:
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        aside = place.root / "aside"
        folder.rename(aside)
        shutil.rmtree(aside)
    code, said = place.end_of(child, deed.arguments)
    if code not in (0, 1) or (code == 1 and not one_error(said)):
        raise Fault(f"without `{name}`, which vanished, it ends with {code} and this: {said.strip()[-800:]}")
    place.settle()
    place.furnish()
    deed.make_ready(place, replace=False)
    check_again(place, deed, undisturbed, kept)


def filled_meanwhile(place, deed, undisturbed, kept, draw):
    """The results' disk fills up while it's measured: the result is in the temporary folder, and the message says where."""
    deed.make_ready(place, replace=False)
    results = place.work / "new/results"
    mount(results)
    try:
        child = place.start(deed.arguments)
        endings.wait_for("its three workers", lambda: len(endings.workers(place)) == 3, child)
        remount(results, f"size={(used_pages(results) + 1) * PAGE}")
        code, said = place.end_of(child, deed.arguments)
    finally:
        unmount(results)
    found = list((place.root / "tmp").glob("result-of-peft-bench-*/*.json"))
    if code != 1 or len(found) != 1 or str(found[0]) not in said or not one_error(said):
        raise Fault(f"it ends with {code}, {found} and this: {said.strip()[-800:]}")
    if meaning(found[0]) != "a result: success":
        raise Fault(f"the result that was saved is {meaning(found[0])}")
    shutil.rmtree(found[0].parent)
    place.settle()
    check_again(place, deed, undisturbed, kept)


def full_output(place):
    """Standard output can't be written, or nobody reads it."""
    for arguments in (["report", "results"], ["methods"], ["sweep", "report", "sweeps/earlier"], ["runtime", "--json"]):
        with open("/dev/full", "w") as full:
            code, said = place.run(arguments, code=None, stdout=full)
        if code != 1 or not one_error(said):
            raise Fault(f"`{' '.join(arguments)}` into a full disk ends with {code} and this: {said}")


def spaces(count, needed):
    """Up to `count` numbers from 0 to `needed`, evenly."""
    steps = min(count, needed + 1)
    return sorted({round(step * needed / max(1, steps - 1)) for step in range(steps)})


def programme(place, tally, sizes, vanishing):
    """Up to `sizes` sizes of a disk for each command, and so many folders that vanish."""
    kept = place.bytes(EARLIER)
    deeds = all_deeds()

    tally.one("full output", "full/output", lambda draw: full_output(place))
    for name in NAMES if sizes > 1 or tally.only else FEW:
        deed = deeds[name]
        if not tally.wants_of(name):
            continue
        deed.make_ready(place, replace=False)
        before = used_pages(place.root), used_inodes(place.root)
        undisturbed = Undisturbed(place, deed)
        pages, inodes = used_pages(place.root) - before[0] + 2, used_inodes(place.root) - before[1] + 2
        if can_mount():
            for spare in spaces(sizes, pages):
                tally.one("full disk: " + name, f"full/{name}/{spare}",
                          lambda draw, spare=spare: full_disk(place, deed, undisturbed, kept, draw, spare, inodes=False))
            for spare in spaces(max(1, sizes // 4), inodes):
                tally.one("no more files: " + name, f"inodes/{name}/{spare}",
                          lambda draw, spare=spare: full_disk(place, deed, undisturbed, kept, draw, spare, inodes=True))
            tally.one("read-only: " + name, f"read-only/{name}/0", lambda draw: read_only(place, deed, undisturbed, kept))
            if name == "measure":
                tally.one("a disk that fills up meanwhile", f"filled/{name}/0",
                          lambda draw: filled_meanwhile(place, deed, undisturbed, kept, draw))
        longest = max((path.stat().st_size for path in place.paths().values()), default=0)
        for number in range(max(1, sizes // 4)):
            tally.one("limit of files: " + name, f"limit/{name}/{number}",
                      lambda draw, number=number: short_files(place, deed, undisturbed, kept,
                                                              0 if number == 0 else int(longest ** draw.random())))
        for number in range(vanishing):
            tally.one("vanished folder: " + name, f"vanished/{name}/{number}",
                      lambda draw: vanished(place, deed, undisturbed, kept, draw))
