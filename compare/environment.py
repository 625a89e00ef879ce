"""The Python environment of the peers: `compare/.venv`, made on first use from `requirements.txt`."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = [
    "torch",
    "transformers",
    "peft",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "llama-cpp-python",
    "numpy",
]


def make(name: str = ".venv", requirements: str = "requirements.txt") -> Path:
    """The environment's Python. An existing environment made from the same requirements is reused."""
    folder = HERE / name
    python = folder / "bin" / "python"
    wanted = HERE / requirements
    made_from = folder / "requirements.txt"
    if not (made_from.is_file() and made_from.read_text() == wanted.read_text()):
        print(f"making {folder} (torch is large; llama.cpp is compiled, which takes ten minutes)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", wanted], check=True)
        made_from.write_text(wanted.read_text())
    return python


def versions(python: Path) -> dict[str, str | None]:
    """The versions of the relevant packages; `None` if one isn't installed."""
    script = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({'python': platform.python_version()} | {n: found.get(n) for n in sys.argv[1:]}))"
    )
    command = [python, "-c", script, *PACKAGES]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def onnxruntime_library(python: Path) -> Path:
    """The library in `ORT_DYLIB_PATH`, else the one that onnxruntime-genai uses, so that peft-bench uses the same file."""
    if named := os.environ.get("ORT_DYLIB_PATH"):
        return Path(named)
    script = "import importlib.util as u; print(u.find_spec('onnxruntime').submodule_search_locations[0])"
    package = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    return next((Path(package) / "capi").glob("libonnxruntime.so.*"))
