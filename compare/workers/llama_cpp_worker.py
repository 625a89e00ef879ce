"""llama.cpp through llama-cpp-python's `Llama.eval`, which keeps the cache; the next token is the argmax of the last logits."""

import llama_cpp
import numpy as np
from protocol import serve


def open_model(options: dict):
    model = llama_cpp.Llama(
        model_path=options["model"],
        lora_path=options["adapter"],
        n_ctx=options["max_length"],
        n_threads=options["threads"],
        n_threads_batch=options["threads"],
        flash_attn=True,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )

    def generate(prompt_ids: list[int], new_tokens: int):
        model.reset()
        tokens = prompt_ids
        for _ in range(new_tokens):
            model.eval(tokens)
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), shape=(model.n_vocab(),))
            tokens = [int(logits.argmax())]
            yield tokens[0]

    return generate


if __name__ == "__main__":
    serve(open_model)
