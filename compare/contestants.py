"""Who is compared: what each peer prepares, and how its process is opened."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import adapter
import environment
from process import Peer, PeerError

HERE = Path(__file__).resolve().parent
VARIANTS = ["base", "merged", "unmerged"]
WEIGHTS = ["mapped", "in-place", "resident"]
"""How this program holds weights."""


@dataclass
class Contestant:
    """A runtime with a variant, ready to be opened."""

    name: str
    variant: str
    prepare_seconds: float
    """Over a base model that's there already: merging, exporting, converting."""
    written_bytes: int
    open: Callable[[], Peer]
    starts: list[dict] = field(default_factory=list)
    """Of each time that it was started: seconds and memory."""

    @property
    def label(self) -> str:
        return f"{self.name} · {self.variant}"


@dataclass
class Setting:
    """What all contestants share."""

    binary: Path
    python: Path
    model: str
    threads: int
    max_length: int
    work: Path
    omp_wait_policy: str

    def __post_init__(self) -> None:
        self.model_folder = Path()
        self.model_config: dict = {}
        self.adapter = self.work / "lora" / "random_r8"
        self.exports = self.work / "exported_models"
        self.env = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.env.pop("OMP_WAIT_POLICY", None)
        if self.omp_wait_policy != "default":
            self.env["OMP_WAIT_POLICY"] = self.omp_wait_policy

    def run(self, name: str, command: list) -> float:
        """Runs a step of preparation; returns its seconds."""
        log = self.work / f"{name}.log"
        start = time.perf_counter()
        with log.open("w") as output:
            done = subprocess.run(command, stdout=output, stderr=output, env=self.env)
        if done.returncode != 0:
            last_words = log.read_text().strip().splitlines()[-1:] or ["without a word"]
            raise PeerError(f"preparing failed: {last_words[0]}")
        return time.perf_counter() - start

    def prepare(self, name: str, *options: str) -> float:
        """`peft-bench prepare` of the adapter."""
        command = [self.binary, "prepare", self.adapter, "--model", self.model, "--dtype", "float32", "--ep", "cpu"]
        return self.run(name, [*command, "--export-dir", self.exports, *options])

    def python_peer(self, worker: str, request: dict, label: str) -> Callable[[], Peer]:
        command = [str(self.python), str(HERE / "workers" / worker)]
        log = self.work / f"{label}.log"
        return lambda: Peer(command, request, self.env, log, says_ready=True)


def peft_bench(setting: Setting) -> list[Contestant]:
    """This program, with each way of holding weights. It has to be first: it makes the base model."""
    # A synthetic model is made on first use, and isn't part of the export: once to make it, once for the time.
    no_layers = {"hidden_size": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 0}
    adapter.write_lora(setting.adapter, no_layers)
    setting.prepare("model", "--variant", "base")
    (manifest,) = setting.exports.glob("*/base/manifest.json")
    setting.model_folder = Path(json.loads(manifest.read_text())["model_folder"])
    setting.model_config = json.loads((setting.model_folder / "config.json").read_text())
    adapter.write_lora(setting.adapter, setting.model_config)
    shutil.rmtree(manifest.parent)

    library = environment.onnxruntime_library(setting.python)
    contestants = []
    for variant in VARIANTS:
        seconds = setting.prepare(f"prepare-{variant}", "--variant", variant)
        folder = "base" if variant == "base" else f"*/{variant}"
        (manifest,) = setting.exports.glob(f"*/{folder}/manifest.json")
        graphs = size(manifest.parent)
        laid_out = seconds + setting.prepare(f"lay-out-{variant}", "--variant", variant, "--weights", "mapped")
        for weights in WEIGHTS:
            request = worker_request(setting, library, manifest, weights)
            log = setting.work / f"peft-bench-{weights}-{variant}.log"

            def start(request=request, log=log) -> Peer:
                return Peer([str(setting.binary), "worker"], request, setting.env, log, says_ready=False)

            made = (laid_out, size(manifest.parent)) if weights == "mapped" else (seconds, graphs)
            contestants.append(Contestant(f"peft-bench {weights}", variant, *made, start))
    return sorted(contestants, key=lambda contestant: contestant.name)


def worker_request(setting: Setting, library: Path, manifest: Path, weights: str) -> dict:
    """What this program's own worker is asked to open."""
    return {
        "library": {
            "path": str(library),
            "version": library.name.removeprefix("libonnxruntime.so."),
            "source": "Environment",
            "has_cuda": False,
        },
        "variant": {
            "folder": str(manifest.parent),
            "manifest": json.loads(manifest.read_text()),
            "up_to_date": True,
        },
        "options": {
            "provider": "cpu",
            "threads": setting.threads,
            "weights": weights,
            "batch_size": 1,
            "max_length": setting.max_length,
            "logits_on_host": False,
        },
    }


def transformers(setting: Setting) -> list[Contestant]:
    """transformers, and PEFT for the adapter: nothing is prepared, merging is part of the start."""
    contestants = []
    for variant in VARIANTS:
        request = {
            "model": str(setting.model_folder),
            "adapter": None if variant == "base" else str(setting.adapter),
            "merge": variant == "merged",
            "threads": setting.threads,
        }
        start = setting.python_peer("transformers_worker.py", request, f"transformers-{variant}")
        contestants.append(Contestant("transformers", variant, 0.0, 0, start))
    return contestants


def genai(setting: Setting) -> list[Contestant]:
    """onnxruntime-genai: merged is the checkpoint that peft-bench writes, unmerged its builder's own LoRA nodes."""
    seconds = setting.prepare("checkpoint", "--format", "hf")
    (checkpoint,) = [path.parent for path in setting.exports.glob("*/*/checkpoint-float32/config.json")]
    sources = {
        "base": (setting.model_folder, [], 0.0, 0),
        "merged": (checkpoint, [], seconds, size(checkpoint)),
        "unmerged": (setting.model_folder, ["--extra_options", f"adapter_path={setting.adapter}"], 0.0, 0),
    }
    contestants = []
    for variant, (source, options, seconds, written) in sources.items():
        folder = setting.work / "genai" / variant
        command = [setting.python, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", folder]
        command += ["-p", "fp32", "-e", "cpu", "-c", setting.work / "genai" / "cache", *options]
        seconds += setting.run(f"genai-builder-{variant}", command)
        configure_genai(folder / "genai_config.json", setting.threads)
        request = {"model": str(folder), "max_length": setting.max_length}
        start = setting.python_peer("genai_worker.py", request, f"genai-{variant}")
        contestants.append(Contestant("onnxruntime-genai", variant, seconds, written + size(folder), start))
    return contestants


def configure_genai(path: Path, threads: int) -> None:
    """The same threads as everyone, which don't spin between turns, and no end-of-text token that stops it."""
    config = json.loads(path.read_text())
    options = config["model"]["decoder"]["session_options"]
    options["intra_op_num_threads"] = threads
    options["session.force_spinning_stop"] = "1"
    config["model"]["eos_token_id"] = []
    path.write_text(json.dumps(config, indent=4))


PEERS = {"peft-bench": peft_bench, "transformers": transformers, "onnxruntime-genai": genai}


def size(folder: Path) -> int:
    """Bytes of the files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

