"""onnxruntime-genai on a folder from its model builder. `genai_config.json` sets the number of threads."""

import onnxruntime_genai as og
from protocol import serve


def open_model(options: dict):
    model = og.Model(options["model"])

    def generate(prompt_ids: list[int], new_tokens: int):
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=options["max_length"], do_sample=False)
        # The generator allocates the cache, so it's made before the clock starts: peft-bench has its cache from the start.
        return steps(og.Generator(model, params), prompt_ids, new_tokens)

    def steps(generator: og.Generator, prompt_ids: list[int], new_tokens: int):
        generator.append_tokens(prompt_ids)
        for _ in range(new_tokens):
            generator.generate_next_token()
            yield int(generator.get_next_tokens()[0])

    return generate


if __name__ == "__main__":
    serve(open_model)
