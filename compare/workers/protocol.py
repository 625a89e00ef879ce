"""The worker's side of peft-bench's worker protocol: one JSON line in, one JSON line out (`src/measure/protocol.rs`)."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator


def serve(open_model: Callable[[dict], Callable[[list[int], int], Iterator[int]]]) -> None:
    """Answers requests until stdin ends.

    `open_model` takes the request's options and returns a function `(prompt_ids, new_tokens) -> iterator of token ids`. The
    iterator's first item is the prefill, each later one a decode step. The function itself isn't timed: it may allocate, but
    not compute.
    """
    # Libraries' output must not get between the answers, so stdout is redirected to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(kind: str, value: object) -> None:
        answers.write(json.dumps({kind: value}) + "\n")

    generate = None
    answer("ready", None)
    for line in sys.stdin:
        ((kind, request),) = json.loads(line).items()
        try:
            if kind == "open":
                start = time.perf_counter()
                generate = open_model(request)
                answer("opened", {"session_seconds": time.perf_counter() - start})
            elif kind == "generate":
                answer("generated", time_generation(generate, request["prompt_ids"], request["new_tokens"]))
            else:
                raise ValueError(f"unknown request `{kind}`")
        except Exception as error:
            answer("failed", f"{type(error).__name__}: {error}")
            raise


def time_generation(generate: Callable, prompt_ids: list[int], new_tokens: int) -> dict:
    """The token ids, and the seconds of each."""
    steps = generate(prompt_ids, new_tokens)
    token_ids, seconds = [], []
    before = time.perf_counter()
    for _ in range(new_tokens):
        token_ids.append(next(steps))
        after = time.perf_counter()
        seconds.append(after - before)
        before = after
    timings = {"time_to_first_token": seconds[0], "decode_steps": seconds[1:]}
    return {"token_ids": token_ids, "timings": timings}
