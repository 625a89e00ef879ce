"""Measures a base whose weights don't fit in memory, and checks that they stay mapped, that steps wait for the disk, and that the
result says so. A control group (as root) limits the memory; skipped with a message where there's none.

    python3 scripts/fleet/beyond_ram.py [--limit MIB]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from place import PROGRAM

MODEL = "synthetic/llama-57m"
GROUP = f"peft-bench-{os.getpid()}"


def limited(mebibytes):
    """A control group with so much memory, page cache included; `None` if there can't be one."""
    for parent, key in ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max")):
        group = parent / GROUP
        try:
            group.mkdir()
            if (group / key).exists():
                (group / key).write_text(str(mebibytes << 20))
                return group
            group.rmdir()
        except OSError:
            continue
    return None


def evict(folder):
    """Takes the files below `folder` out of the page cache, where nobody has mapped them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder, group):
    """Measures the base, in `group` if that's given; returns its waits by prompt group, the largest resident set, and the page's
    words about it."""
    join = (lambda: (group / "cgroup.procs").write_text(str(os.getpid()))) if group else None
    results = folder / ("limited" if group else "free")
    command = [PROGRAM, "base", "--model", MODEL, "--dtype", "float32", "--ep", "cpu", "--threads", "1", "--config", "config.json",
               "--prompts", "prompts.json", "--output", results, "--export-dir", "exported"]
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, preexec_fn=join, check=False)
    if done.returncode:
        sys.exit(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    [path] = results.glob("*.json")
    memory = json.loads(path.read_text())["generation_info"]["variants"]["base"]["memory"]
    waits = {log["stage"]: log["disk_waits"] for log in memory["memory_logs"]}
    return waits, memory["peak_ram_memory_mb"], done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=200, metavar="MIB", help="memory of all processes, page cache included")
    limit = parser.parse_args().limit
    with tempfile.TemporaryDirectory(prefix="peft-bench-beyond-", dir=os.environ.get("TMPDIR")) as folder:
        folder = Path(folder)
        (folder / "config.json").write_text('{"num_inference_runs": 2, "max_new_tokens": 4, "num_prompt_samples": 1}')
        (folder / "prompts.json").write_text('{"short": ["a b"], "medium": ["the cat sat"], "long": ["one two three four"]}')
        waits, peak, said = measure(folder, None)
        print(f"free: waits {waits}, at most {peak:.0f} MiB resident")
        assert "waited for the disk" not in said, said
        group = limited(limit)
        if not group:
            print("skipped: there's no control group that can limit memory (as root)", file=sys.stderr)
            return
        try:
            evict(folder / "exported")
            waits, peak, said = measure(folder, group)
        finally:
            group.rmdir()
        print(f"{limit} MiB: waits {waits}, at most {peak:.0f} MiB resident")
        assert "waited for the disk" in said, said
        print(next(line for line in said.splitlines() if "waited for the disk" in line))


if __name__ == "__main__":
    main()
