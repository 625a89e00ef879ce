"""An adapter as training leaves it: LoRA on `q_proj` and `v_proj` whose B isn't zero, so that it changes the tokens."""

import array
import json
import random
import struct
from pathlib import Path

R = 8
B_STD = 0.05


def write_lora(folder: Path, model_config: dict) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors`, float32, the same ones for the same model."""
    hidden = model_config["hidden_size"]
    heads = model_config["num_attention_heads"]
    head_dim = model_config.get("head_dim") or hidden // heads
    outputs = {"q_proj": heads * head_dim, "v_proj": model_config["num_key_value_heads"] * head_dim}

    generator = random.Random(8)
    header, data = {}, array.array("f")

    def add(name: str, shape: list[int], std: float) -> None:
        start = len(data) * data.itemsize
        data.extend(generator.gauss(0, std) for _ in range(shape[0] * shape[1]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data) * data.itemsize]}

    for layer in range(model_config["num_hidden_layers"]):
        for module, out_features in outputs.items():
            path = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            add(f"{path}.lora_A.weight", [R, hidden], hidden**-0.5)
            add(f"{path}.lora_B.weight", [out_features, R], B_STD)

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data.tobytes())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": R,
        "lora_alpha": 2 * R,
        "lora_dropout": 0.0,
        "target_modules": list(outputs),
        "bias": "none",
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
