"""Kills commands with SIGKILL at random points, or a process that they started."""

import os
import signal
import time

from deeds import EARLIER, all_deeds, units
from place import Fault, one_error

# How many of 300 kills each command gets: by what it writes, and how long it takes.
SHARES = {"prepare": 40, "quantize": 25, "checkpoint": 20, "portable": 30, "convert": 25, "init": 10, "measure": 60, "base": 15,
          "report": 15, "sweep plan": 10, "sweep run": 50}


class Undisturbed:
    """What a command makes undisturbed, and how long it takes."""

    def __init__(self, place, deed):
        deed.make_ready(place, replace=False)
        began = time.monotonic()
        deed.run(place)
        self.seconds = time.monotonic() - began
        self.whole = deed.state(place)
        if place.remains():
            raise Fault(f"undisturbed, `{deed.name}` leaves {place.remains()}")


def check_made(old, now, whole):
    """Nothing is half made: each unit is as it was, or as it's to be, or absent where it was."""
    old, now, whole = units(old), units(now), units(whole)
    for name, files in now.items():
        if files not in (old.get(name), whole.get(name)):
            differ = sorted(file for file, what in files.items() if what != whole.get(name, {}).get(file))
            lacks = sorted(set(whole.get(name, {})) - set(files))
            raise Fault(f"half made: {name}, where {differ[:5]} differ and {lacks[:5]} lack")
    for name in old:
        if name not in now:
            raise Fault(f"lost: {name}")


def check_again(place, deed, undisturbed, kept):
    """The command works when it's run again, and leaves nothing but what it makes."""
    arguments = deed.arguments
    code, said = place.run(arguments, code=None)
    is_there = "there already" in said or "exists" in said
    if code != 0 and not (deed.refuses and is_there):
        raise Fault(f"run again, it ends with {code}: {said.strip()[-1500:]}")
    now = deed.state(place)
    if now != undisturbed.whole:
        differ = sorted(name for name in now.keys() | undisturbed.whole if now.get(name) != undisturbed.whole.get(name))
        raise Fault(f"run again, it makes something else: {[(name, now.get(name)) for name in differ[:5]]}")
    if place.remains():
        # What wasn't written again isn't cleaned either; it has to be as soon as something is.
        deed.make_ready(place, replace=False)
        deed.run(place)
        if place.remains():
            raise Fault(f"left over: {place.remains()}")
    if place.bytes(EARLIER) != kept:
        raise Fault("earlier results have changed")


def one_kill(place, deed, undisturbed, kept, draw):
    """One kill; returns what was killed."""
    replace = deed.stale is not None and draw.random() < 0.4
    deed.make_ready(place, replace)
    old = deed.state(place)
    child = place.start(deed.arguments)
    time.sleep(draw.uniform(0, 1.05 * undisturbed.seconds))
    others = [process for process in place.processes() if process != child.pid]
    victim = draw.choice(others) if others and draw.random() < 0.4 else child.pid
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        victim = None
    code, said = place.end_of(child, deed.arguments)
    place.settle()
    if victim not in (None, child.pid) and code not in (0, 1):
        raise Fault(f"after a kill of a process that it started, it ends with {code}: {said}")
    if code == 1 and (not one_error(said) or "signal 9" not in said):
        raise Fault(f"it doesn't say that a process was killed: {said}")
    check_made(old, deed.state(place), undisturbed.whole)
    check_again(place, deed, undisturbed, kept)
    return "nothing" if victim is None else "it" if victim == child.pid else "a child"


def by_shares(place, tally, count, shares, names, act):
    """`count` events in all, over the commands by their shares; `names` are the kind's and the events' own."""
    kept = place.bytes(EARLIER)
    deeds = all_deeds()
    kind, own = names
    for name, share in shares.items():
        runs = max(1, round(count * share / sum(shares.values())))
        wanted = [one for one in (f"{own}/{name}/{number}" for number in range(runs)) if tally.wants(one)]
        if not wanted:
            continue
        undisturbed = Undisturbed(place, deeds[name])
        for one in wanted:
            tally.one(f"{kind}: {name}", one, lambda draw: act(place, deeds[name], undisturbed, kept, draw))


def programme(place, tally, count):
    """`count` kills in all, over the commands by their shares."""
    by_shares(place, tally, count, SHARES, ("kill -9", "kill"), one_kill)
