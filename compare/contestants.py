"""The contestants, each a runtime with a variant: how they're prepared, and how their processes are started."""

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
"""This program's `--weights` modes."""
PRECISIONS = ["float32", "int4"]
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Dtypes on a GPU, and their names in onnxruntime-genai's builder."""
QUANTIZED = {
    "peft-bench 4bit": ("4bit", []),
    "peft-bench 4bit-32": (
        "4bit-block-32-head-4bit-block-32-kv-4bit-block-32",
        ["--quantize-block", "32", "--quantize-head", "4bit-block-32", "--quantize-kv-proj", "4bit-block-32"],
    ),
}
"""This program with `--quantize 4bit`: as it is by default, and with codes like those of onnxruntime-genai's builder. With each,
how the names of its folders end, and its other options."""
ON_A_GPU = {"peft-bench": False, "peft-bench graph": True}
"""This program's contestants on a GPU, and whether their decode steps are a CUDA graph."""


@dataclass
class Contestant:
    """A runtime with a variant, prepared to be started."""

    name: str
    variant: str
    prepare_seconds: float
    """Time to merge, export and convert; the base model exists already."""
    written_bytes: int
    open: Callable[[], Peer]
    starts: list[dict] = field(default_factory=list)
    """Seconds and memory of each start."""

    @property
    def label(self) -> str:
        return f"{self.name} · {self.variant}"


@dataclass
class Setting:
    """Settings that all contestants share."""

    binary: Path
    python: Path
    model: str
    threads: int
    max_length: int
    work: Path
    omp_wait_policy: str
    precision: str = "float32"
    ep: str = "cpu"
    dtype: str = "float32"
    variants: list[str] = field(default_factory=lambda: VARIANTS)
    weights: list[str] = field(default_factory=lambda: WEIGHTS)
    llama_cpp_python: Path | None = None
    """The Python of an existing environment with llama.cpp; by default one is created."""

    def __post_init__(self) -> None:
        self.model_folder = Path()
        self.model_config: dict = {}
        self.adapter = self.work / "lora" / "random_r8"
        self.exports = self.work / "exported_models"
        self.library = environment.onnxruntime_library(self.python)
        self.env = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.env.pop("OMP_WAIT_POLICY", None)
        if self.omp_wait_policy != "default":
            self.env["OMP_WAIT_POLICY"] = self.omp_wait_policy
        if self.on_a_gpu:
            # CUDA's libraries come from torch's environment.
            self.env |= {"VIRTUAL_ENV": str(self.python.parent.parent), "ORT_DYLIB_PATH": str(self.library)}

    def run(self, name: str, command: list) -> float:
        """Runs a preparation command. Returns its seconds."""
        log = self.work / f"{name}.log"
        start = time.perf_counter()
        with log.open("w") as output:
            done = subprocess.run(command, stdout=output, stderr=output, env=self.env)
        if done.returncode != 0:
            last_words = log.read_text().strip().splitlines()[-1:] or ["no message"]
            raise PeerError(f"preparing failed: {last_words[0]}")
        return time.perf_counter() - start

    def prepare(self, name: str, *options: str) -> float:
        """Runs `peft-bench prepare` on the adapter. Returns its seconds."""
        command = [self.binary, "prepare", self.adapter, "--model", self.model, "--dtype", self.dtype, "--ep", self.ep]
        return self.run(name, [*command, "--export-dir", self.exports, *options])

    def prepared(self, variant: str, quantized: str = "") -> Path:
        """The path of a variant's manifest, of the folder whose name ends with `quantized`."""
        folder = "base" if variant == "base" else f"*/{variant}"
        found = self.exports.glob(f"*/{folder}/manifest.json")
        ending = f"-{quantized}/" if quantized else f"-{self.dtype}/"
        (manifest,) = [path for path in found if ending in str(path)]
        return manifest

    def checkpoint(self, name: str) -> tuple[Path, float]:
        """Writes the merged checkpoint with `peft-bench prepare`. Returns its folder, and the seconds."""
        seconds = self.prepare(name, "--format", "hf")
        (config,) = self.exports.glob(f"*/*/checkpoint-{self.dtype}/config.json")
        return config.parent, seconds

    @property
    def on_a_gpu(self) -> bool:
        return self.ep == "cuda"

    def python_peer(self, worker: str, request: dict, label: str, python: Path | None = None) -> Callable[[], Peer]:
        command = [str(python or self.python), str(HERE / "workers" / worker)]
        log = self.work / f"{label}.log"
        return lambda: Peer(command, request, self.env, log, says_ready=True)


def peft_bench(setting: Setting) -> list[Contestant]:
    """This program, in each `--weights` mode. It must be prepared first, since it makes the base model."""
    # A synthetic model is made on first use, which isn't part of the export. So prepare once to make it, and once for the time.
    adapter.write_lora(setting.adapter, adapter.NO_LAYERS)
    setting.prepare("model", "--variant", "base")
    manifest = setting.prepared("base")
    setting.model_folder = Path(json.loads(manifest.read_text())["model_folder"])
    setting.model_config = json.loads((setting.model_folder / "config.json").read_text())
    adapter.write_lora(setting.adapter, setting.model_config)
    shutil.rmtree(manifest.parent)

    make = on_a_gpu if setting.on_a_gpu else on_the_cpu
    contestants = [one for variant in setting.variants for one in make(setting, variant)]
    return sorted(contestants, key=lambda contestant: contestant.name)


def on_the_cpu(setting: Setting, variant: str) -> list[Contestant]:
    contestants = []
    seconds = setting.prepare(f"prepare-{variant}", "--variant", variant)
    manifest = setting.prepared(variant)
    graphs = size(manifest.parent)
    made = dict.fromkeys(setting.weights, (seconds, graphs))
    if "mapped" in made:
        seconds += setting.prepare(f"lay-out-{variant}", "--variant", variant, "--weights", "mapped")
        made["mapped"] = seconds, size(manifest.parent)
    for weights in setting.weights:
        start = own_peer(setting, manifest, weights)
        contestants.append(Contestant(f"peft-bench {weights}", variant, *made[weights], start))
    if setting.precision == "int4":
        for name, (ending, more) in QUANTIZED.items():
            options = ["--variant", variant, "--quantize", "4bit", *more]
            seconds = setting.prepare(f"quantize-{variant}", *options)
            manifest = setting.prepared(variant, quantized=ending)
            written = size(manifest.parent)
            if variant == "base":
                written += size(manifest.parent.parent / "quantized.safetensors")
            start = own_peer(setting, manifest, "mapped")
            contestants.append(Contestant(name, variant, seconds, written, start))
    return contestants


def on_a_gpu(setting: Setting, variant: str) -> list[Contestant]:
    seconds = setting.prepare(f"prepare-{variant}", "--variant", variant)
    manifest = setting.prepared(variant)
    written = size(manifest.parent)
    return [
        Contestant(name, variant, seconds, written, own_peer(setting, manifest, "in-place", graph))
        for name, graph in ON_A_GPU.items()
    ]


def own_peer(setting: Setting, manifest: Path, weights: str, cuda_graph: bool = False) -> Callable[[], Peer]:
    """Starts this program's worker on a prepared variant."""
    request = worker_request(setting, manifest, weights, cuda_graph)
    kind = "graph" if cuda_graph else weights
    log = setting.work / f"peft-bench-{kind}-{manifest.parent.parent.name}-{manifest.parent.name}.log"
    return lambda: Peer([str(setting.binary), "worker"], request, setting.env, log, says_ready=False)


def worker_request(setting: Setting, manifest: Path, weights: str, cuda_graph: bool) -> dict:
    """The request that opens a variant in this program's worker."""
    return {
        "library": {
            "path": str(setting.library),
            "version": setting.library.name.removeprefix("libonnxruntime.so."),
            "source": "Environment",
            "has_cuda": setting.on_a_gpu,
        },
        "variant": {
            "folder": str(manifest.parent),
            "manifest": json.loads(manifest.read_text()),
            "up_to_date": True,
        },
        "options": {
            "provider": {"cuda": 0} if setting.on_a_gpu else "cpu",
            "threads": setting.threads,
            "weights": weights,
            "batch_size": 1,
            "max_length": setting.max_length,
            "logits_on_host": False,
            "cuda_graph": cuda_graph,
        },
    }


def transformers(setting: Setting) -> list[Contestant]:
    """transformers, with PEFT for the adapter. Nothing is prepared; merging is part of the start."""
    contestants = []
    for variant in setting.variants:
        request = {
            "model": str(setting.model_folder),
            "adapter": None if variant == "base" else str(setting.adapter),
            "merge": variant == "merged",
            "threads": setting.threads,
            "device": setting.ep,
            "dtype": setting.dtype,
        }
        start = setting.python_peer("transformers_worker.py", request, f"transformers-{variant}")
        contestants.append(Contestant("transformers", variant, 0.0, 0, start))
    return contestants


def genai(setting: Setting) -> list[Contestant]:
    """onnxruntime-genai. Merged: the checkpoint that peft-bench writes; unmerged: LoRA nodes of its builder."""
    contestants = []
    for variant in setting.variants:
        source, extra, seconds, written = setting.model_folder, [], 0.0, 0
        if variant == "merged":
            source, seconds = setting.checkpoint("checkpoint")
            written = size(source)
        if variant == "unmerged":
            extra.append(f"adapter_path={setting.adapter}")
        if setting.precision == "int4":
            extra += ["block_size=32", "accuracy_level=4"]
        options = ["--extra_options", *extra] if extra else []
        folder = setting.work / "genai" / variant
        command = [setting.python, "-m", "onnxruntime_genai.models.builder", "-i", source, "-o", folder]
        precision = "int4" if setting.precision == "int4" else DTYPES[setting.dtype]
        command += ["-p", precision, "-e", setting.ep, "-c", setting.work / "genai" / "cache", *options]
        seconds += setting.run(f"genai-builder-{variant}", command)
        configure_genai(folder / "genai_config.json", setting.threads)
        request = {"model": str(folder), "max_length": setting.max_length}
        start = setting.python_peer("genai_worker.py", request, f"genai-{variant}")
        name = "onnxruntime-genai" if setting.precision == "float32" else f"onnxruntime-genai {setting.precision}"
        contestants.append(Contestant(name, variant, seconds, written + size(folder), start))
    return contestants


def configure_genai(path: Path, threads: int) -> None:
    """Sets the shared number of threads, no spinning between turns, and no end-of-text token."""
    config = json.loads(path.read_text())
    options = config["model"]["decoder"]["session_options"]
    options["intra_op_num_threads"] = threads
    options["session.force_spinning_stop"] = "1"
    config["model"]["eos_token_id"] = []
    path.write_text(json.dumps(config, indent=4))


def llama_cpp(setting: Setting) -> list[Contestant]:
    """llama.cpp on converted files. Merged: the checkpoint that peft-bench writes; unmerged: a LoRA file."""
    python = setting.llama_cpp_python or environment.make(".venv-llama-cpp", "requirements-llama-cpp.txt")
    script, folder = HERE / "gguf_files.py", setting.work / "llama.cpp"
    folder.mkdir()
    formats = {"float32": ["F32"], "int4": ["Q4_0", "Q8_0"]}[setting.precision]
    contestants = []
    for variant in setting.variants:
        source, adapter, model, seconds = setting.model_folder, None, folder / f"{variant}.gguf", 0.0
        if variant == "merged":
            source, seconds = setting.checkpoint("checkpoint-llama.cpp")
        seconds += setting.run(f"gguf-{variant}", [python, script, "model", source, model])
        if variant == "unmerged":
            adapter = folder / "adapter.gguf"
            seconds += setting.run("gguf-adapter", [python, script, "adapter", setting.adapter, source, adapter])
        for kind in formats:
            file, quantizing = model, 0.0
            if kind != "F32":
                file = folder / f"{variant}-{kind}.gguf"
                quantizing = setting.run(f"gguf-{variant}-{kind}", [python, script, "quantize", model, file, kind])
            request = {
                "model": str(file),
                "adapter": adapter and str(adapter),
                "max_length": setting.max_length,
                "threads": setting.threads,
            }
            start = setting.python_peer("llama_cpp_worker.py", request, f"llama.cpp-{variant}-{kind}", python)
            written = size(file) + (size(adapter) if adapter else 0)
            contestants.append(Contestant(f"llama.cpp {kind}", variant, seconds + quantizing, written, start))
    return contestants


PEERS = {"peft-bench": peft_bench, "transformers": transformers, "onnxruntime-genai": genai, "llama.cpp": llama_cpp}


def size(folder: Path) -> int:
    """Bytes of all files in `folder`, or of a single file."""
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return sum(path.stat().st_size for path in files if path.is_file())

