"""onnxruntime-genai on a folder that its own model builder made. Its threads are set in `genai_config.json`."""

import onnxruntime_genai as og
from protocol import serve


def open_model(options: dict):
    model = og.Model(options["model"])

    def generate(prompt_ids: list[int], new_tokens: int):
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=options["max_length"], do_sample=False)
        # Holds the cache, which peft-bench has from the start: made before the clock starts.
        return steps(og.Generator(model, params), prompt_ids, new_tokens)

    def steps(generator: og.Generator, prompt_ids: list[int], new_tokens: int):
        generator.append_tokens(prompt_ids)
        for _ in range(new_tokens):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    return generate


if __name__ == "__main__":
    serve(open_model)
