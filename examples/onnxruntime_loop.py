"""Generates with a portable folder in plain ONNX Runtime: onnxruntime_loop.py FOLDER "Once upon a time" [ADAPTER]"""

import sys

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

folder, text, *adapter = sys.argv[1:]
session = ort.InferenceSession(f"{folder}/model.onnx")
tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
options = ort.RunOptions()
for name in adapter:
    active = ort.LoraAdapter()
    active.Load(f"{folder}/adapters/{name}.onnx_adapter")
    options.add_active_adapter(active)

ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
mask = np.ones_like(ids)
past = [i for i in session.get_inputs() if i.name.startswith("past_key_values.")]
cache = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), dtype=np.float32) for i in past}
outputs = ["next_token"] + [i.name.replace("past_key_values", "present") for i in past]
for _ in range(40):
    ids, *present = session.run(outputs, {"input_ids": ids, "attention_mask": mask, **cache}, options)
    print(tokenizer.decode(ids[0]), end=" ", flush=True)
    cache = dict(zip(cache, present))
    mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
