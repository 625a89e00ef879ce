"""A LoRA like a trained one: its B isn't zero, so it changes the tokens."""

import array
import json
import random
import struct
from pathlib import Path

B_STD = 0.05
NO_LAYERS = {"hidden_size": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 0}
"""A model configuration for which the adapter has no tensors, to prepare a base alone."""


def linear_shapes(model_config: dict) -> dict[str, tuple[int, int]]:
    """`{module: (out_features, in_features)}` of a Llama layer; a module is named by its path within the layer."""
    hidden = model_config["hidden_size"]
    heads = model_config["num_attention_heads"]
    head_dim = model_config.get("head_dim") or hidden // heads
    queries, values = heads * head_dim, model_config["num_key_value_heads"] * head_dim
    inner = model_config.get("intermediate_size", 1)
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (values, hidden),
        "self_attn.v_proj": (values, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def write_lora(folder: Path, model_config: dict, r: int = 8, modules: tuple[str, ...] = ("q_proj", "v_proj")) -> None:
    """Writes `adapter_config.json` and `adapter_model.safetensors` in float32, deterministic for a model."""
    shapes = {path: shape for path, shape in linear_shapes(model_config).items() if path.endswith(modules)}

    generator = random.Random(8)
    header, data = {}, array.array("f")

    def add(name: str, shape: list[int], std: float) -> None:
        start = len(data) * data.itemsize
        data.extend(generator.gauss(0, std) for _ in range(shape[0] * shape[1]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data) * data.itemsize]}

    for layer in range(model_config["num_hidden_layers"]):
        for module, (out_features, in_features) in shapes.items():
            path = f"base_model.model.model.layers.{layer}.{module}"
            add(f"{path}.lora_A.weight", [r, in_features], in_features**-0.5)
            add(f"{path}.lora_B.weight", [out_features, r], B_STD)

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data.tobytes())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": 2 * r,
        "lora_dropout": 0.0,
        "target_modules": list(modules),
        "bias": "none",
        "inference_mode": True,
        "base_model_name_or_path": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
