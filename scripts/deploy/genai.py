"""Running portable folders in onnxruntime-genai: what the scripts of this folder share."""

import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime_genai as og


def prepare(program, arguments, folder, exported):
    """Runs `peft-bench prepare … --portable folder`; returns its error message, or None."""
    command = [program, "prepare", "--ep", "cpu", "--export-dir", exported, *arguments, "--portable", folder]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1].removeprefix("error: ") if lines else f"exit code {done.returncode}"


class Folder:
    """An open portable folder."""

    def __init__(self, path):
        self.path = Path(path)
        self.model = og.Model(str(path))
        config = json.loads((self.path / "genai_config.json").read_text())["model"]
        self.vocab_size = config["vocab_size"]
        self.pad = config["pad_token_id"]
        ends = config["eos_token_id"]
        self.ends = ends if isinstance(ends, list) else [ends]
        self.adapters = None
        files = sorted((self.path / "adapters").glob("*.onnx_adapter"))
        if files:
            self.adapters = og.Adapters(self.model)
            for file in files:
                self.adapters.load(str(file), file.stem)

    def generator(self, batch, max_length, adapter=None, inputs=None):
        params = og.GeneratorParams(self.model)
        params.set_search_options(max_length=max_length, batch_size=batch, do_sample=False)
        generator = og.Generator(self.model, params)
        if adapter is not None:
            generator.set_active_adapter(self.adapters, adapter)
        for name, value in (inputs or {}).items():
            generator.set_model_input(name, value)
        return generator

    def generate(self, prompts, count, adapter=None):
        """Greedy tokens after each of `prompts` (lists of ids) at once, without the end of text."""
        length = max(map(len, prompts))
        generator = self.generator(len(prompts), length + count, adapter)
        padded = [list(prompt) + [self.pad] * (length - len(prompt)) for prompt in prompts]
        ids = np.array(padded if len(padded) > 1 else padded[0], dtype=np.int32)
        generator.append_tokens(ids)
        while not generator.is_done():
            generator.generate_next_token()
        found = []
        for index in range(len(prompts)):
            new = [int(token) for token in generator.get_sequence(index)[length:]]
            # A batch has the end-of-text token and padding, a single sequence neither.
            found.append([token for token in new if token not in [self.pad, *self.ends]])
        return found

    def logits(self, prompt, tokens, adapter=None, inputs=None):
        """The logits of each step while `tokens` are fed, `[len(tokens), vocab_size]`."""
        generator = self.generator(1, len(prompt) + len(tokens) + 1, adapter, inputs)
        rows = []
        generator.append_tokens(np.array(prompt, dtype=np.int32))
        rows.append(np.array(generator.get_logits()).reshape(-1)[-self.vocab_size:])
        for token in tokens[:-1]:
            generator.append_tokens(np.array([token], dtype=np.int32))
            rows.append(np.array(generator.get_logits()).reshape(-1)[-self.vocab_size:])
        return np.stack(rows)


def difference(a, b):
    """The largest difference, relative to the largest logit."""
    width = min(a.shape[1], b.shape[1])
    a, b = a[:, :width], b[:, :width]
    return float(np.abs(a - b).max() / np.abs(a).max())
