"""A folder in which commands of peft-bench are disturbed, and what must hold there afterwards."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench")).resolve()
FIXTURES = ROOT / "tests/fixtures"

# How every process that a place starts is recognised, its children too.
MARK = "PEFT_BENCH_RELIABILITY"
# Nothing here takes so long, in seconds.
PATIENCE = 300

# Names that a file or folder has while it's being written.
TEMPORARY = re.compile(r"^\.partial-|^\.tmp|^\.try-|^\.now-|^\.gone-|^peft-bench-[0-9a-f]{8}-|\.partial$|\.incomplete$")
# ONNX Runtime writes it into the temporary folder when it's loaded.
OF_ONNX_RUNTIME = ".ses"
# What differs from run to run in files that are otherwise the same.
VOLATILE = {"prepare_seconds", "lay_out_seconds"}

# A measurement of a second.
CONFIG = {"model_id": "models/llama-gqa", "dtype": "float32", "seed": 1, "max_new_tokens": 4, "num_inference_runs": 2,
          "num_prompt_samples": 1}
PROMPTS = {"short": ["a b"], "medium": ["the cat sat"], "long": ["one two three four five"]}
# What every measurement is told.
MEASURE = ["--prompts", "prompts.json", "--config", "config.json", "--ep", "cpu", "--threads", "1"]


class Fault(Exception):
    """Something that must not happen."""


class Place:
    """A working folder with a temporary folder, a cache and locks of its own."""

    def __init__(self, root):
        self.root = Path(root).resolve()
        self.work = self.root / "work"
        self.mark = uuid.uuid4().hex
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "HQ_"))},
            "TMPDIR": str(self.root / "tmp"),
            "PEFT_BENCH_CACHE": str(self.root / "cache"),
            "PEFT_BENCH_LOCKS": str(self.root / "locks"),
            "ORT_DYLIB_PATH": library(),
            "HF_HUB_OFFLINE": "1",
            "RUST_BACKTRACE": "0",
            MARK: self.mark,
        }
        self.furnish()

    def furnish(self):
        """Makes what's missing of it."""
        for name in ("work/new", "tmp", "cache", "locks"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.work / "prompts.json").write_text(json.dumps(PROMPTS))
        (self.work / "config.json").write_text(json.dumps(CONFIG))
        for name, target in (("models", FIXTURES / "models"), ("cases", FIXTURES / "cases/llama-gqa")):
            if not (self.work / name).is_symlink():
                (self.work / name).symlink_to(target)

    def start(self, arguments, stdout=subprocess.PIPE, limits=None, new_session=False):
        """Starts the program; `limits` is called in the child."""
        return subprocess.Popen([PROGRAM, *map(str, arguments)], cwd=self.work, env=self.environment, stdin=subprocess.DEVNULL,
                                stdout=stdout, stderr=subprocess.PIPE, text=True, preexec_fn=limits,
                                start_new_session=new_session)

    def run(self, arguments, code=0, **more):
        """Runs the program, which has to end with `code` unless that's None; returns its code and what it says."""
        return self.end_of(self.start(arguments, **more), arguments, code)

    def end_of(self, child, arguments, code=None, patience=PATIENCE):
        """Waits for a process; returns its code and what it says."""
        words = " ".join(map(str, arguments))
        try:
            out, err = child.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise Fault(f"`{words}` went on for {patience} s") from None
        said = (out or "") + err
        if "panicked" in said:
            raise Fault(f"`{words}` panicked: {said}")
        if code is not None and child.returncode != code:
            raise Fault(f"`{words}` ended with {child.returncode}, not {code}: {said.strip()[-2000:]}")
        return child.returncode, said

    def processes(self):
        """The ids of all processes that were started here, and their children."""
        found = []
        mark = f"{MARK}={self.mark}".encode()
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in path.joinpath("environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return sorted(found)

    def settle(self, patience=30):
        """Waits until no process is left."""
        began = time.monotonic()
        while left := self.processes():
            if time.monotonic() - began > patience:
                for process in left:
                    os.kill(process, signal.SIGKILL)
                raise Fault(f"processes are left: {left}")
            time.sleep(0.01)

    def paths(self):
        """All files, by their path below the root; links aren't followed, and locks aren't counted."""
        found = {}
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.root:
                folders[:] = [name for name in folders if name != "locks"]
            for name in files:
                path = Path(folder, name)
                # The lock of a synthetic model stays, since others may wait for it.
                if path.is_file() and not path.is_symlink() and not name.endswith(".lock"):
                    found[str(path.relative_to(self.root))] = path
        return found

    def bytes(self, below):
        """The hashes of all files below these folders of the working folder, byte by byte."""
        prefixes = tuple(f"work/{name}/" for name in below)
        return {name: digest(path.read_bytes()) for name, path in self.paths().items()
                if name.startswith(prefixes) and not is_temporary(name)}

    def state(self, below):
        """What's below these folders, without what differs from run to run."""
        prefixes = tuple(f"work/{name}" for name in below)
        return {name: meaning(path) for name, path in self.paths().items() if name.startswith(prefixes) and not is_temporary(name)}

    def remains(self):
        """Files and folders with temporary names."""
        found = []
        for folder, folders, files in os.walk(self.root):
            if Path(folder) == self.root:
                folders[:] = [name for name in folders if name != "locks"]
            found += [str(Path(folder, name).relative_to(self.root)) for name in folders + files if TEMPORARY.search(name)]
        found += [f"tmp/{name}" for name in os.listdir(self.root / "tmp") if name != OF_ONNX_RUNTIME]
        return sorted({name for name in found if not owner_lives(name)})

    def tidy(self):
        """Ends and removes what a fault left, so that the next event begins as if it hadn't been."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        for name in self.remains():
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self.furnish()

    def remove(self, *names):
        """Removes files and folders of the working folder."""
        for name in names:
            path = self.work / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def is_temporary(name):
    return any(TEMPORARY.search(part) for part in Path(name).parts)


def owner_lives(name):
    """Whether a temporary name's process id is that of a process, another one by now: it's removed when that has ended."""
    owner = re.search(r"(?:\.partial|peft-bench)-[0-9a-f]{8}-(\d+)-", name)
    return bool(owner) and Path("/proc", owner[1]).exists()


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def meaning(path):
    """The hash of a file; of JSON without what differs from run to run; of a measurement only that it's whole."""
    data = path.read_bytes()
    if path.suffix == ".html":
        # It says when it was made.
        return "a page" if data.rstrip().endswith(b"</html>") else "a broken page"
    if path.suffix != ".json":
        return digest(data)
    try:
        value = json.loads(data)
    except ValueError:
        return f"broken: {data[:60]!r}"
    if isinstance(value, dict) and "run_info" in value:
        return f"a result: {value['run_info']['status']}"
    if isinstance(value, dict) and "key" in value and "record" in value:
        return "a base's measurement"
    return digest(json.dumps(without_volatile(value), sort_keys=True).encode())


def without_volatile(value):
    if isinstance(value, dict):
        return {name: without_volatile(inner) for name, inner in value.items() if name not in VOLATILE}
    return value


def library():
    """ONNX Runtime's library, which every place uses."""
    if not hasattr(library, "path"):
        ask = lambda: subprocess.run([PROGRAM, "runtime", "--json"], capture_output=True, text=True, check=True).stdout
        found = json.loads(ask())["library"]
        if not found:
            subprocess.run([PROGRAM, "runtime", "install"], check=True)
            found = json.loads(ask())["library"]
        library.path = found
    return library.path


def one_error(said):
    """Whether what a command says ends with one error, and isn't a panic."""
    return sum(line.startswith("error: ") for line in said.splitlines()) == 1
