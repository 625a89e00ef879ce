"""Exports a checkpoint as others do: python export.py KIND CHECKPOINT FOLDER

KIND: builder-float32, builder-int4 (onnxruntime-genai), optimum, transformers, transformers-fused (Transformers' own
exporter, with ONNX Runtime's operators). `environments.sh` makes the environments that they need.
"""

import shutil
import subprocess
import sys
from pathlib import Path


def builder(precision, checkpoint, folder):
    cache = folder / "cache"
    command = ["-i", checkpoint, "-o", folder, "-p", precision, "-e", "cpu", "-c", cache]
    subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", *command], check=True)
    shutil.rmtree(cache, ignore_errors=True)


def optimum(checkpoint, folder):
    from optimum.exporters.onnx import main_export

    main_export(str(checkpoint), folder, task="text-generation-with-past")


def transformers(checkpoint, folder, fusions):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    # A full mask isn't traced, and becomes no input.
    ids = torch.arange(1, 8)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    config = OnnxConfig(dynamic=True, ort_fusions=fusions)
    OnnxExporter().export_for_generation(model, inputs, config).save_pretrained(folder)


def tokenizer(checkpoint, folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (checkpoint / name).is_file() and not (folder / name).is_file():
            shutil.copy(checkpoint / name, folder / name)


EXPORTS = {
    "builder-float32": lambda *paths: builder("fp32", *paths),
    "builder-int4": lambda *paths: builder("int4", *paths),
    "optimum": optimum,
    "transformers": lambda *paths: transformers(*paths, None),
    "transformers-fused": lambda *paths: transformers(*paths, "cpu"),
}

if __name__ == "__main__":
    kind, checkpoint, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    EXPORTS[kind](checkpoint, folder)
    tokenizer(checkpoint, folder)
