"""The commands that are disturbed: everything of peft-bench that writes."""

import json
import os
import shutil

from place import FIXTURES, MEASURE, Place

# What's made first, and must stay as it is, byte by byte, whatever happens to other commands.
EARLIER = ["results", "earlier", "experiments/lora/earlier", "sweeps/earlier"]

CONFIGURED = ["--config", "config.json"]
PLANNED = [*CONFIGURED, "--ep", "cpu", "--threads", "1", "--", "--prompts", "prompts.json"]


class Deed:
    """A command, what it makes, and what's there before it."""

    def __init__(self, name, arguments, makes, loose=(), ready=None, stale=None, refuses=False, code=0):
        self.name = name
        self.arguments = arguments
        # Files and folders of the working folder.
        self.makes = makes
        # Parts of paths of files that differ from run to run.
        self.loose = loose
        # Makes ready what the command needs.
        self.ready = ready
        # Makes what was made before out of date; None where it's never replaced.
        self.stale = stale
        # Whether the command refuses to replace what's there.
        self.refuses = refuses

    def make_ready(self, place, replace):
        """What the command makes is absent afterwards, or there and out of date."""
        place.remove(*self.makes)
        if replace and self.stale:
            self.stale(place)
            self.run(place)
        if self.ready:
            self.ready(place)

    def run(self, place):
        place.run(self.arguments)

    def state(self, place):
        """What's made, as far as it's the same in every run."""
        state = place.state(self.makes)
        return {name: what for name, what in state.items() if not any(part in name for part in self.loose)}


def units(state):
    """Files that appear together: those of a folder with a manifest; each of the others by itself."""
    marks = ("/manifest.json", "/adapter_config.json", "/config.json")
    folders = {name.rsplit("/", 1)[0] for name in state if name.endswith(marks)}
    found = {}
    for name, what in state.items():
        parents = [folder for folder in folders if name.startswith(folder + "/")]
        # Weights that are laid out for the processor are added to a folder later.
        alone = not parents or name.endswith(("/laid-out.safetensors", "/conversion.json"))
        unit = name if alone else min(parents, key=len)
        found.setdefault(unit, {})[name] = what
    return found


def furnished(folder):
    """A place with earlier work of every kind."""
    place = Place(folder)
    exported = ["--export-dir", "earlier/exported"]
    place.run(["measure", "cases/ia3-regex", *MEASURE, *exported])
    place.run(["report", "results", "--output", "earlier/report.html"])
    place.run(["prepare", "cases/ia3-regex", "--portable", "earlier/portable", *CONFIGURED, *exported])
    place.run(["convert", "cases/dora", "--to", "lora", "--rank", "4", "--name", "earlier", *CONFIGURED, *exported])
    place.run(["sweep", "plan", "--experiments", "cases/ia3-regex", "--to", "sweeps/earlier", *PLANNED])
    place.run(["sweep", "run", "sweeps/earlier"])
    place.remove("exported_models")
    return place


def adapter_with(alpha):
    """Writes an adapter of the place's own, whose files have the same times whenever they're the same."""

    def write(place):
        folder = place.work / "own"
        if not folder.exists():
            shutil.copytree(FIXTURES / "cases/llama-gqa/lora", folder)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"lora_alpha": alpha}
        beside = folder / "config.new"
        beside.write_text(json.dumps(config))
        os.utime(beside, (1_700_000_000 + alpha,) * 2)
        os.replace(beside, path)

    return write


def planned(place):
    place.run(["sweep", "plan", "--experiments", "cases/lora,cases/loha", "--to", "sweeps/new", *PLANNED])


def all_deeds():
    """Every deed by its name."""
    own, other = adapter_with(16), adapter_with(8)
    laid_out = ("laid-out.safetensors",)
    deeds = [
        Deed("prepare", ["prepare", "own", "--export-dir", "new/exported", *CONFIGURED], ["new/exported"], ready=own, stale=other),
        Deed("quantize", ["prepare", "own", "--quantize", "4bit", "--export-dir", "new/quantized", *CONFIGURED],
             ["new/quantized"], ready=own, stale=other),
        Deed("checkpoint", ["prepare", "own", "--format", "hf", "--export-dir", "new/checkpoint", *CONFIGURED],
             ["new/checkpoint"], ready=own, stale=other),
        Deed("portable", ["prepare", "own", "--portable", "new/portable", "--export-dir", "new/portable-exported", *CONFIGURED],
             ["new/portable", "new/portable-exported"], ready=own, stale=other),
        Deed("convert", ["convert", "cases/loha", "--to", "lora", "--rank", "4", "--name", "new", "--export-dir",
                         "new/converted", *CONFIGURED], ["experiments/lora/new", "new/converted"], refuses=True, loose=("/converted/", "/conversion.json")),
        Deed("init", ["init", "xlora", "--name", "new", *CONFIGURED], ["experiments/xlora/new"], refuses=True),
        Deed("measure", ["measure", "own", "--output", "new/results", "--export-dir", "new/measured", *MEASURE],
             ["new/results", "new/measured"], ready=own, stale=other, loose=("/failed/", *laid_out)),
        Deed("base", ["base", "--output", "new/base", "--export-dir", "new/base-exported", *MEASURE],
             ["new/base", "new/base-exported"], loose=("/failed/", *laid_out)),
        Deed("report", ["report", "results", "--output", "new/report.html"], ["new/report.html"], stale=lambda place: None),
        Deed("sweep plan", ["sweep", "plan", "--experiments", "cases/lora,cases/loha", "--to", "sweeps/planned", *PLANNED],
             ["sweeps/planned"]),
        Deed("sweep run", ["sweep", "run", "sweeps/new"], ["sweeps/new", "exported_models"],
             loose=("/attempts/", "/claims/", "/plan.jsonl", *laid_out), ready=planned),
    ]
    return {deed.name: deed for deed in deeds}
