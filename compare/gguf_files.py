"""Converts a Llama checkpoint and a LoRA to GGUF in float32, for llama.cpp. Runs in llama.cpp's environment.

llama.cpp rotates neighbouring elements of a head, transformers its two halves. So the rows of the query and key projections,
and of an adapter's `lora_B`, are reordered.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Interleaves the two halves of each head."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def heads_of(config: dict) -> dict[str, int]:
    return {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}


def write_model(folder: Path, output: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama" or config.get("rope_scaling"):
        sys.exit(f"{folder}: only Llama models without rope scaling are converted for llama.cpp")
    writer = gguf.GGUFWriter(output, "llama")
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    # No tokenizer, since prompts are token ids.
    writer.add_tokenizer_model("none")

    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    names = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    for name, values in tensors.items():
        if name in names:
            writer.add_tensor(f"{names[name]}.weight", values.astype(np.float32))
            continue
        _, _, layer, module = name.removesuffix(".weight").split(".", 3)
        kind = MODULES[module]
        if kind in heads_of(config):
            values = neighbours(values, heads_of(config)[kind])
        writer.add_tensor(f"blk.{layer}.{kind}.weight", values.astype(np.float32))
    write(writer)


def write_adapter(folder: Path, model: Path, output: Path) -> None:
    adapter = json.loads((folder / "adapter_config.json").read_text())
    config = json.loads((model / "config.json").read_text())
    writer = gguf.GGUFWriter(output, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(adapter["lora_alpha"]))
    for name, values in load_file(folder / "adapter_model.safetensors").items():
        path, factor, _ = name.removeprefix("base_model.model.model.layers.").rsplit(".", 2)
        layer, module = path.split(".", 1)
        kind = MODULES[module]
        if factor == "lora_B" and kind in heads_of(config):
            values = neighbours(values, heads_of(config)[kind])
        writer.add_tensor(f"blk.{layer}.{kind}.weight.{factor.lower()}", values.astype(np.float32))
    write(writer)


def quantize(model: Path, output: Path, kind: str) -> None:
    """Quantizes with llama.cpp's own quantizer: everything except norms, the output head included."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}[kind]
    params.pure = True
    if llama_cpp.llama_model_quantize(bytes(model), bytes(output), params) != 0:
        sys.exit(f"llama.cpp can't quantize {model} to {kind}")


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["model", folder, output]:
            write_model(Path(folder), Path(output))
        case ["adapter", folder, model, output]:
            write_adapter(Path(folder), Path(model), Path(output))
        case ["quantize", model, output, kind]:
            quantize(Path(model), Path(output), kind)
