#!/usr/bin/env python3
"""Compares peft-bench with transformers, onnxruntime-genai and llama.cpp: see README.md in this folder.

Each contestant has its own process. They take turns round by round, in an order that changes with the round.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import environment
import report
from contestants import DTYPES, PEERS, PRECISIONS, VARIANTS, WEIGHTS, Contestant, Setting
from process import Peer, PeerError
from rounds import orders

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.05
"""Seconds between two turns, so that spinning threads stop."""


def main() -> None:
    arguments = parse()
    binary = arguments.binary.resolve()
    if not binary.is_file():
        sys.exit(f"error: {binary} is absent; build it with `cargo build --release`")
    made = (".venv", "requirements.txt") if arguments.ep == "cpu" else (".venv-cuda", "requirements-cuda.txt")
    python = arguments.python or environment.make(*made)
    raw = {
        "command": shlex.join(["python3", *sys.argv]),
        "machine": machine(arguments.ep),
        "versions": {"peft-bench": report.program_version(binary)} | environment.versions(python),
        "precision": arguments.precision,
        "ep": arguments.ep,
        "dtype": arguments.dtype,
        "threads": arguments.threads,
        "omp_wait_policy": arguments.omp_wait_policy,
        "new_tokens": arguments.new_tokens,
        "rounds": arguments.rounds,
        "models": [],
    }
    if arguments.work_dir is not None:
        arguments.work_dir.mkdir(parents=True, exist_ok=True)
    for model in arguments.model:
        with tempfile.TemporaryDirectory(prefix="compare-", dir=arguments.work_dir) as work:
            max_length = max(arguments.prompt_tokens) + arguments.new_tokens
            setting = Setting(
                binary=binary,
                python=python,
                model=model,
                threads=arguments.threads,
                max_length=max_length,
                work=Path(work).resolve(),
                omp_wait_policy=arguments.omp_wait_policy,
                precision=arguments.precision,
                ep=arguments.ep,
                dtype=arguments.dtype,
                variants=arguments.variants,
                weights=arguments.weights,
                llama_cpp_python=arguments.llama_cpp_python,
            )
            raw["models"].append(compare(setting, arguments))
        # Written after each model, so that an interrupted run keeps its results.
        if arguments.json:
            arguments.json.write_text(json.dumps(raw, indent=1))
        text = report.markdown(raw)
        if arguments.output:
            arguments.output.write_text(text)
    if not arguments.output:
        print(text, end="")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="as in `peft-bench --model`; can be repeated")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=list(PEERS)[1:],
        default=["transformers", "onnxruntime-genai"],
        help="llama.cpp is compiled on first use, and takes Llama models without rope scaling",
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--weights", nargs="+", choices=WEIGHTS, default=WEIGHTS, help="how this program holds float32")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="int4: this program's and onnxruntime-genai's weights in 4 bits, beside float32",
    )
    parser.add_argument("--ep", choices=["cpu", "cuda"], default="cpu", help="cuda: everything on an NVIDIA GPU")
    parser.add_argument("--dtype", choices=list(DTYPES), help="on a GPU [default: float16]; on the CPU float32")
    parser.add_argument("--prompt-tokens", nargs="+", type=positive, default=[64, 512], metavar="N")
    parser.add_argument("--new-tokens", type=positive, default=32, metavar="N")
    parser.add_argument("--rounds", type=positive, default=20, metavar="N")
    parser.add_argument(
        "--starts",
        type=positive,
        default=3,
        metavar="N",
        help="how often each process is started; the rounds are spread over them",
    )
    parser.add_argument("--threads", type=positive, default=physical_cores(), metavar="N")
    parser.add_argument(
        "--omp-wait-policy",
        choices=["passive", "active", "default"],
        default="passive",
        help="how torch's threads wait: see README.md",
    )
    parser.add_argument("--binary", type=Path, default=ROOT / "target" / "release" / "peft-bench")
    parser.add_argument("--python", type=Path, help="an environment's Python in place of compare/.venv")
    parser.add_argument("--llama-cpp-python", type=Path, help="the same for llama.cpp, compare/.venv-llama-cpp")
    parser.add_argument("--work-dir", type=Path, help="folder for exports (some GB, removed at the end)")
    parser.add_argument("--output", type=Path, help="the report, in place of stdout")
    parser.add_argument("--json", type=Path, help="every single time, too")
    arguments = parser.parse_args()
    if arguments.new_tokens < 2:
        parser.error("--new-tokens must be at least 2: the first one is the prefill")
    if arguments.ep == "cpu" and arguments.dtype not in [None, "float32"]:
        parser.error(f"--dtype {arguments.dtype} needs --ep cuda")
    if arguments.ep == "cuda" and (arguments.precision != "float32" or "llama.cpp" in arguments.peers):
        parser.error("4 bits and llama.cpp are compared on the CPU")
    arguments.dtype = arguments.dtype or ("float32" if arguments.ep == "cpu" else "float16")
    arguments.model = arguments.model or ["synthetic/llama-135m", "synthetic/llama-336m"]
    return arguments


def compare(setting: Setting, arguments: argparse.Namespace) -> dict:
    """Prepares and measures all contestants on one model."""
    log(f"{setting.model}: preparing")
    ready, absent = [], {}
    for name in ["peft-bench", *arguments.peers]:
        try:
            ready += PEERS[name](setting)
        except PeerError as error:
            if name == "peft-bench":
                sys.exit(f"error: {setting.model}: {error}")
            absent[name] = str(error)
    vocab_size = setting.model_config["vocab_size"]
    prompts = {tokens: fixed_prompt(tokens, vocab_size) for tokens in arguments.prompt_tokens}
    tally = Tally(setting.model, prompts, arguments, absent)
    for sitting in range(arguments.starts):
        with ExitStack() as stack:
            # The first process started is some percent slower for its whole life, so contestants take turns at starting first.
            started = {index: tally.open(ready[index], stack) for index in orders(len(ready), arguments.starts)[sitting]}
            opened = [started[index] for index in range(len(ready))]
            tally.take_turns(opened, sitting)
            tally.note_memory(opened)
    measured = [tally.result(contestant) for contestant in ready if contestant.label not in absent]
    return {"model": setting.model, "contestants": measured, "absent": absent}


class Tally:
    """The measurements so far, and the contestants that failed, with the reason.

    All contestants are started anew for each sitting. The placement of a process's pages and threads changes its speed by some
    percent for its whole life, so it varies between sittings and not between rounds.
    """

    def __init__(self, model: str, prompts: dict[int, list[int]], arguments: argparse.Namespace, absent: dict[str, str]):
        self.model = model
        self.prompts = prompts
        self.arguments = arguments
        self.absent = absent
        self.runs: dict[str, dict[int, list[dict]]] = {}
        self.outputs: dict[str, dict[int, dict]] = {}
        self.facts: dict[str, dict] = {}

    def open(self, contestant: Contestant, stack: ExitStack) -> tuple[Contestant, Peer | None]:
        """Starts a contestant and warms it up. `None` if it fails."""
        label = contestant.label
        if label in self.absent:
            return contestant, None
        log(f"{self.model}: starting {label}")
        try:
            peer = contestant.open()
            stack.callback(peer.close)
            contestant.starts.append(
                {
                    "start_seconds": peer.start_seconds,
                    "session_seconds": peer.session_seconds,
                    "memory": peer.memory_after_start,
                }
            )
            new_tokens = self.arguments.new_tokens
            warm_up = {tokens: peer.generate(ids, new_tokens) for tokens, ids in self.prompts.items()}
            self.outputs.setdefault(label, warm_up)
            self.runs.setdefault(label, {tokens: [] for tokens in self.prompts})
            self.facts[label] = {"idle_cpu_seconds": idle_cpu(peer)}
            return contestant, peer
        except PeerError as error:
            self.lose(contestant, str(error))
            return contestant, None

    def lose(self, contestant: Contestant, reason: str) -> None:
        if contestant.name.startswith("peft-bench"):
            sys.exit(f"error: {self.model}: {contestant.label}: {reason}")
        log(f"{self.model}: lost {contestant.label}: {reason}")
        self.absent[contestant.label] = reason

    def take_turns(self, opened: list[tuple[Contestant, Peer | None]], sitting: int) -> None:
        """Runs the sitting's share of the rounds."""
        rounds, starts = self.arguments.rounds, self.arguments.starts
        share = slice(sitting * rounds // starts, (sitting + 1) * rounds // starts)
        for number, order in list(enumerate(orders(len(opened), rounds), start=1))[share]:
            log(f"{self.model}: sitting {sitting + 1} of {starts}, round {number} of {rounds}")
            for tokens, prompt_ids in self.prompts.items():
                for contestant, peer in (opened[index] for index in order):
                    if peer is None or contestant.label in self.absent:
                        continue
                    time.sleep(PAUSE)
                    try:
                        generated = peer.generate(prompt_ids, self.arguments.new_tokens)
                    except PeerError as error:
                        self.lose(contestant, f"in round {number}: {error}")
                        continue
                    same = generated["token_ids"] == self.outputs[contestant.label][tokens]["token_ids"]
                    timings = generated["timings"] | {"same_tokens_as_warm_up": same}
                    self.runs[contestant.label][tokens].append(timings)

    def note_memory(self, opened: list[tuple[Contestant, Peer | None]]) -> None:
        for contestant, peer in opened:
            if peer is not None and contestant.label not in self.absent:
                self.facts[contestant.label]["memory_at_the_end"] = peer.memory()

    def result(self, contestant: Contestant) -> dict:
        label = contestant.label
        return {
            "name": contestant.name,
            "variant": contestant.variant,
            "prepare_seconds": contestant.prepare_seconds,
            "written_bytes": contestant.written_bytes,
            "starts": contestant.starts,
            **self.facts[label],
            "prompts": [
                {"prompt_tokens": tokens, "token_ids": self.outputs[label][tokens]["token_ids"], "runs": timings}
                for tokens, timings in self.runs[label].items()
            ],
        }


def idle_cpu(peer: Peer) -> float:
    """CPU seconds used in the second after a generation: time that it would take from the next contestant."""
    before = peer.cpu_seconds()
    time.sleep(1)
    return peer.cpu_seconds() - before


def fixed_prompt(tokens: int, vocab_size: int) -> list[int]:
    """The prompt ids, the same for all contestants: spread over the vocabulary, without the special tokens at its start."""
    return [3 + position * 7919 % (vocab_size - 3) for position in range(tokens)]


def machine(ep: str) -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    found = {"cpu": cpu, "logical_cpus": os.cpu_count(), "system": platform.platform()}
    if ep == "cuda":
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader", "--id=0"]
        try:
            found["gpu"] = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"error: `--ep cuda` asks nvidia-smi for the GPU: {error}")
    return found


def physical_cores() -> int:
    """Number of physical cores, as peft-bench counts them: hyper-threads share a core."""
    cores = set()
    for core in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        cores.add(((core / "physical_package_id").read_text(), (core / "core_id").read_text()))
    return len(cores) or 1


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"`{text}` is not positive")
    return value


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("error: memory and CPU times are read from /proc, so this runs on Linux only")
    main()
