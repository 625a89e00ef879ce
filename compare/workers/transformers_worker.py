"""transformers and PEFT on torch: the model's `forward` with its KV cache, without the bookkeeping of `generate()`."""

import torch
from peft import PeftModel
from protocol import serve
from transformers import AutoModelForCausalLM


def open_model(options: dict):
    torch.set_num_threads(options["threads"])
    dtype = getattr(torch, options["dtype"])
    model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=dtype).to(options["device"])
    if options["adapter"]:
        model = PeftModel.from_pretrained(model, options["adapter"])
        if options["merge"]:
            model = model.merge_and_unload()
    model.eval()

    def generate(prompt_ids: list[int], new_tokens: int):
        # Entered in each step, since a generator would otherwise leave it active between turns.
        inputs, cache = torch.tensor([prompt_ids], device=options["device"]), None
        for _ in range(new_tokens):
            with torch.inference_mode():
                output = model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                inputs = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            cache = output.past_key_values
            yield inputs.item()

    return generate


if __name__ == "__main__":
    serve(open_model)
