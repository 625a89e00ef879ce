"""Clocks that were wrong: times of files in the future and in the past."""

import json
import os
import time

from deeds import EARLIER, all_deeds
from place import Fault

# In seconds since 1970: of 1960, of 1980, and of 2100.
TIMES = {"1960": -315_000_000, "1980": 315_532_800, "2100": 4_102_444_800}
NAMES = ["prepare", "quantize", "portable", "measure", "base", "report", "sweep run"]


def set_times(place, seconds, draw=None):
    """Gives all files of the place this time, or with `draw` half of them."""
    for path in place.paths().values():
        if draw is None or draw.random() < 0.5:
            os.utime(path, (seconds, seconds))


def wrong_times(place, deed, kept, draw, seconds):
    """Everything that's there has a wrong time, and the command runs."""
    deed.make_ready(place, replace=False)
    if draw.random() < 0.5:
        deed.run(place)
    set_times(place, seconds, draw)
    deed.run(place)
    if any(what.startswith("broken") or what in ("a result: failed", "a result: cancelled") for what in deed.state(place).values()):
        raise Fault("a result isn't whole")
    # Times are part of what folders were made from, so they may be made again, but only once.
    said = place.run(deed.arguments)[1]
    if "prepared" in said and "up to date" not in said and deed.name == "prepare":
        raise Fault(f"it's made again although nothing has changed: {said}")
    if place.remains():
        raise Fault(f"left over: {place.remains()}")
    if place.bytes(EARLIER) != kept:
        raise Fault("earlier results have changed")


def changed_weights(place, deed, seconds):
    """An adapter that changes is merged anew, though its file has a time before the clock's beginning."""
    deed.make_ready(place, replace=False)
    path = place.work / "own/adapter_config.json"
    os.utime(path, (seconds, seconds))
    deed.run(place)
    first = deed.state(place)
    config = json.loads(path.read_text())
    text = json.dumps(config)
    path.write_text(text.replace('"lora_alpha": 16', '"lora_alpha": 32'))
    os.utime(path, (seconds - 60, seconds - 60))
    deed.run(place)
    changed = [name for name in first if "overlay" in name and deed.state(place).get(name) != first[name]]
    if not changed:
        raise Fault("another adapter wasn't merged")


def foreign_claim(place, deed, seconds, text):
    """A claim of another machine, or of nobody, that was written long ago or by a clock that was ahead."""
    deed.make_ready(place, replace=False)
    claims = place.work / "sweeps/new/claims"
    claims.mkdir(exist_ok=True)
    jobs = [json.loads(line) for line in (place.work / "sweeps/new/plan.jsonl").read_text().splitlines()]
    for key in [job["key"] for job in jobs if "key" in job]:
        (claims / key).write_text(text)
        os.utime(claims / key, (seconds, seconds))
    deed.run(place)
    if any(claims.iterdir()):
        raise Fault(f"claims are left: {list(claims.iterdir())}")


def cancelled_by_a_wrong_clock(place, deed, seconds):
    """What was cancelled by a wrong clock can be run, and cancelled again."""
    deed.make_ready(place, replace=False)
    marker = place.work / "sweeps/new/cancelled"
    marker.write_bytes(b"")
    os.utime(marker, (seconds, seconds))
    child = place.start(deed.arguments)
    began = time.monotonic()
    while not list(place.work.glob("sweeps/new/attempts/*/*/log.txt")):
        if child.poll() is not None or time.monotonic() - began > 60:
            raise Fault("a sweep that was cancelled by a wrong clock doesn't run")
        time.sleep(0.01)
    place.run(["sweep", "cancel", "sweeps/new"])
    code, said = place.end_of(child, deed.arguments)
    if code not in (0, 130):
        raise Fault(f"cancelled, it ends with {code}: {said}")
    place.settle()
    deed.run(place)


def programme(place, tally, rounds):
    """So many rounds of each; none for the short form, which has one year of claims and cancellations."""
    kept = place.bytes(EARLIER)
    deeds = all_deeds()

    for name in NAMES:
        for year, seconds in TIMES.items():
            for number in range(rounds):
                tally.one("wrong times: " + name, f"times/{name}/{year}/{number}",
                          lambda draw: wrong_times(place, deeds[name], kept, draw, seconds))
    tally.one("wrong times: another adapter", "times/adapter", lambda draw: changed_weights(place, deeds["prepare"], TIMES["1960"]))
    host = json.dumps({"host": "elsewhere", "process": 1, "began": 1, "boot": "another"})
    sweep = deeds["sweep run"]
    for year, seconds in TIMES.items() if rounds or tally.only else [("2100", TIMES["2100"])]:
        for what, text in (("host", host), ("nobody", "{"), ("empty", "")):
            tally.one("wrong times: claims", f"claim/{what}/{year}", lambda draw: foreign_claim(place, sweep, seconds, text))
        tally.one("wrong times: cancelled", f"cancelled/{year}", lambda draw: cancelled_by_a_wrong_clock(place, sweep, seconds))
