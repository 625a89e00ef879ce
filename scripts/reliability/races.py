"""Commands that make the same thing at the same time."""

import json
import time

from deeds import EARLIER
from kills import by_shares
from place import Fault

# How many races of 60 each command runs.
SHARES = {"prepare": 12, "quantize": 8, "checkpoint": 4, "portable": 6, "convert": 4, "init": 4, "measure": 8, "report": 4,
          "sweep plan": 2, "sweep run": 8}


def attempts(place):
    """The states of all attempts of the new sweep, by job."""
    found = {}
    for path in sorted(place.work.glob("sweeps/new/attempts/*/*/attempt.json")):
        found.setdefault(path.parts[-3], []).append(json.loads(path.read_text())["state"])
    return found


def one_race(place, deed, undisturbed, kept, draw):
    """Two to four processes of a command at once."""
    deed.make_ready(place, replace=deed.stale is not None and draw.random() < 0.3)
    children = []
    for _ in range(draw.randint(2, 4)):
        children.append(place.start(deed.arguments))
        time.sleep(draw.choice([0, 0, draw.uniform(0, undisturbed.seconds)]))
    ends = [place.end_of(child, deed.arguments) for child in children]
    place.settle()
    refused = lambda said: deed.refuses and ("there already" in said or "exists" in said)
    # A sweep's process that left a job to another one says that it's to be run again.
    allowed = (0, 3) if deed.name == "sweep run" else (0,)
    wrong = [end for end in ends if end[0] not in allowed and not refused(end[1])]
    if wrong:
        raise Fault(f"{len(wrong)} of {len(ends)} at once fail: {wrong[0][0]}, {wrong[0][1].strip()[-800:]}")
    if deed.name != "sweep run" and all(code != 0 for code, _ in ends):
        raise Fault(f"none of {len(ends)} at once succeeds: {ends[0][1].strip()[-800:]}")
    if deed.name == "sweep run":
        place.run(deed.arguments)
        twice = {job: states for job, states in attempts(place).items() if states.count("done") != 1}
        if twice:
            raise Fault(f"jobs were measured more than once, or never: {twice}")
    now = deed.state(place)
    if now != undisturbed.whole:
        differ = sorted(name for name in now.keys() | undisturbed.whole if now.get(name) != undisturbed.whole.get(name))
        raise Fault(f"together they make something else: {[(name, now.get(name)) for name in differ[:5]]}")
    if place.remains():
        raise Fault(f"left over: {place.remains()}")
    if place.bytes(EARLIER) != kept:
        raise Fault("earlier results have changed")


def programme(place, tally, count):
    """`count` races in all, over the commands by their shares."""
    by_shares(place, tally, count, SHARES, ("at once", "race"), one_race)
