"""The worker's side of peft-bench's own protocol: a JSON line in, a JSON line out (`src/measure/protocol.rs`)."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator


def serve(open_model: Callable[[dict], Callable[[list[int], int], Iterator[int]]]) -> None:
    """Answers requests until stdin ends.

    `open_model` takes the request's options, and returns a function from prompt ids and a number of new tokens to an
    iterator of token ids, whose first item is the prefill and each later one a decode step. The function's own work is
    not timed: it may allocate, not compute.
    """
    # What libraries print must not get between the answers.
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
    """Token ids, and the seconds that each took."""
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
