#!/usr/bin/env python3
"""Builds the Python wheel, installs it into a fresh virtual environment, and runs the program there.

    python3 scripts/wheel.py                          # dist/peft_bench-<version>-py3-none-<platform>.whl
    python3 scripts/wheel.py --output FOLDER
    python3 scripts/wheel.py -- --zig --compatibility manylinux_2_28      # options for maturin

The build is Cargo's release build in this checkout, so what was built already is used again. The program runs in an
empty folder, with an empty cache, from an environment that isn't active: it has to bring its experiments, prompts and
parameters along, and to fetch ONNX Runtime with the pip of its own environment.

The wheel's platform says which glibc it needs: that of the machine that it's built on, or an older one. For machines
with an older glibc than that, `--zig` as above needs `pip install ziglang`, and builds everything anew.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What says where the caller's programs, packages and caches are.
OF_THE_CALLER = ["VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "ORT_DYLIB_PATH"]

# A tag that says which glibc is needed, and that indexes of packages take; pip alone would say `linux`.
TAG = ["--compatibility", "pypi"]

LICENCES = ["LICENSE-MIT", "LICENSE-APACHE", "THIRD-PARTY-LICENSES.txt"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the wheel [default: dist]")
    parser.add_argument("maturin", nargs="*", help="options for maturin, after `--`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        wheel = build(folder, options.output, options.maturin)
        look_into(wheel)
        try_out(folder, wheel)
    print(f"{wheel} works")


def build(folder, output, maturin):
    """Builds the wheel as pip does for anybody, with the build tools of `pyproject.toml`."""
    python = environment(folder / "build")
    made = folder / "made"
    tag = [] if "--compatibility" in maturin else TAG
    variables = os.environ | {"MATURIN_PEP517_ARGS": shlex.join(tag + maturin)}
    run([python, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", made, ROOT], env=variables)
    (wheel,) = made.glob("peft_bench-*.whl")
    output.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(wheel, output))


def look_into(wheel):
    """Checks that the licences are in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [Path(name).name for name in archive.namelist()]
    for name in LICENCES:
        if name not in names:
            sys.exit(f"error: {wheel} has no {name}")
    print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB", flush=True)


def try_out(folder, wheel):
    """Installs the wheel, and measures a shipped experiment as a new user would."""
    python = environment(folder / "installed")
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel])
    program = python.with_name("peft-bench")
    here = folder / "empty"
    here.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in OF_THE_CALLER}
    kept["PEFT_BENCH_CACHE"] = str(folder / "cache")

    def peft_bench(*arguments):
        return run([program, *arguments], cwd=here, env=kept, stdout=subprocess.PIPE).stdout

    print(peft_bench("--version").strip(), flush=True)
    for command, expected in [
        (["methods"], "LORA"),
        (["check"], "ok     lora/lora_r8 "),
        (["completions", "bash"], "peft-bench"),
        (["init", "lora", "--rank", "4"], "experiments/lora/r4"),
        (["check", "lora/r4", "vera/r256"], "ok     vera/r256 "),
        (["measure", "lora/lora_r8", "--model", small_model(folder)], "parity "),
        (["report"], "merged"),
    ]:
        if expected not in peft_bench(*command):
            sys.exit(f"error: `peft-bench {shlex.join(map(str, command))}` printed no `{expected}`")
    results = list((here / "results").glob("lora--lora_r8--*.json"))
    if len(results) != 1 or json.loads(results[0].read_text())["run_info"]["status"] != "success":
        sys.exit(f"error: {results} should be one result with the status `success`")


def small_model(folder):
    """A tiny base model of the tests, for prompts of any length."""
    model = Path(shutil.copytree(ROOT / "tests/fixtures/models/llama-gqa", folder / "small"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    return model


def environment(folder):
    """Makes a virtual environment; returns its Python."""
    venv.create(folder, with_pip=True)
    return folder / "bin/python"


def run(command, **options):
    print("$", shlex.join(map(str, command)), flush=True)
    done = subprocess.run(command, text=True, **options)
    if done.returncode:
        sys.exit(f"error: that failed with exit code {done.returncode}")
    return done


if __name__ == "__main__":
    main()
