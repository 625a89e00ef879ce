"""One case of the dry run: its nodes from ONNX Runtime's profile, its kernels and copies from the log of calls."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

from cases import last_words, target

PROMPT = [1, 2, 3, 4, 5]
NEW_TOKENS = 5
PATIENCE_SECONDS = 300

# Bytes of a token id and of a mask's position; a length is an int64 or an int32.
INT64 = 8
INT32 = 4
REFUSAL = re.compile(r"(is not|isn't) (supported|implemented)")
NO_GRAPH = re.compile(r"are no CUDA graph: (.*)")
# Operators that run where their layer is meant to, with --gpu-layers.
PLACED = {"MatMul", "FusedMatMul", "Gemm", "MatMulNBits", "GroupQueryAttention", "Attention", "TensorScatter"}
LAYER = re.compile(r"[/.](?:layers|h|blocks)[/.](\d+)[/.]")
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4}


class Trial:
    def __init__(self, program: Path, environment: dict, case: tuple[str, str], options: list[str]):
        self.command = [program, "generate", *target(case), *options, "--ep", "cuda", "--offline"]
        self.command += ["--prompt-ids", ",".join(map(str, PROMPT)), "--max-new-tokens", str(NEW_TOKENS)]
        self.environment = environment
        self.graph = "--cuda-graph" in options
        self.size = SIZES[options[options.index("--dtype") + 1]]
        self.gpu_layers = int(options[options.index("--gpu-layers") + 1]) if "--gpu-layers" in options else None
        # Nodes: name to (operator, provider). Steps: the calls of each.
        self.nodes: dict[str, tuple[str, str]] = {}
        self.steps: list[list[str]] = []
        # Why the program refuses the case; why decode steps aren't the CUDA graph that was asked for.
        self.refusal: str | None = None
        self.no_graph: str | None = None

    def run(self, folder: Path) -> list[str]:
        """Runs the case in `folder` and returns its faults."""
        log = folder / "calls.log"
        own = ["--export-dir", folder / "exports", "--profile", folder / "profiles"]
        environment = self.environment | {"CUDA_DRY_RUN_LOG": str(log)}
        try:
            done = subprocess.run(
                [*self.command, *own], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
            )
        except subprocess.TimeoutExpired:
            return [f"takes longer than {PATIENCE_SECONDS} seconds"]
        if done.returncode:
            said = last_words(done.stderr)
            if REFUSAL.search(said):
                self.refusal = said
                return []
            return [f"doesn't run ({done.returncode}): {said}"]
        (manifest,) = (folder / "exports").glob("**/manifest.json")
        vocabulary = json.loads(manifest.read_text())["vocab_size"]
        for profile in (folder / "profiles").glob("*/*.json"):
            self.read_profile(json.loads(profile.read_text()))
        calls = log.read_text().splitlines()
        self.steps = split(calls)
        if self.graph:
            # Earlier steps are the program's comparison with and without the graph.
            self.steps = self.steps[-NEW_TOKENS:]
            found = NO_GRAPH.search(done.stderr)
            self.no_graph = found and found[1]
        return self.faults(calls, vocabulary)

    def read_profile(self, events: list[dict]) -> None:
        for event in events:
            provider = event.get("args", {}).get("provider")
            if event.get("cat") == "Node" and provider and event["name"].endswith("_kernel_time"):
                name = event["name"].removesuffix("_kernel_time")
                self.nodes[name] = (event["args"]["op_name"], provider)

    def faults(self, calls: list[str], vocabulary: int) -> list[str]:
        found = [f"copies the wrong way: {call}" for call in calls if call.endswith(" wrong")]
        if self.gpu_layers is not None:
            # What the CPU's layers take and give is copied, too.
            return found + self.misplaced()
        if len(self.steps) != NEW_TOKENS:
            return [*found, f"brings {len(self.steps)} tokens back, not {NEW_TOKENS}"]
        graphs, kernels = (sum(call.startswith(what) for call in self.steps[-1]) for what in ["graph", "kernel "])
        if self.graph and not self.no_graph and (graphs, kernels) != (1, 0):
            found.append(f"a decode step starts {graphs} graphs and {kernels} kernels")
        operators = Counter(operator for operator, _ in self.nodes.values())
        # The operator copies NF4's 16 values at every call.
        tables = Counter({16 * self.size: operators["MatMulBnb4"]})
        before, last = (sorted((Counter(copies(step, "h2d")) - tables).elements()) for step in self.steps[-2:])
        if not is_decode_step(before, last):
            found.append(f"a decode step copies {last} bytes to the device, and the one before {before}")
        back, expected = copies(self.steps[-1], "d2h"), [INT64, vocabulary * self.size]
        # An expert's tokens are selected on the device; their number is copied to the host.
        expected += [INT32] * operators["NonZero"]
        if sorted(back) != sorted(expected):
            found.append(f"a decode step brings {sorted(back)} bytes back, not {sorted(expected)}")
        return found

    def misplaced(self) -> list[str]:
        """Products and attention of layers that aren't where --gpu-layers says."""
        found = []
        for name, (operator, provider) in self.nodes.items():
            layer = LAYER.search(name)
            if layer and operator in PLACED:
                on_gpu = int(layer[1]) < self.gpu_layers
                if (provider == "CUDAExecutionProvider") != on_gpu:
                    found.append(f"{name} ({operator}) runs on {provider}")
        return found if self.nodes else ["ran no nodes"]

    def on_cpu(self) -> list[str]:
        """Nodes of layers that run on the CPU."""
        nodes = ((name, provider) for name, (_, provider) in self.nodes.items())
        return [name for name, provider in nodes if provider == "CPUExecutionProvider" and "layers." in name]

    def row(self) -> str:
        if self.refusal:
            return f"refused: {self.refusal[:80]}…"
        if not self.steps:
            return "–"
        last = self.steps[-1]
        there, back = (copies(last, direction) for direction in ["h2d", "d2h"])
        both = [f"{sum(sizes)} B in {len(sizes)}" for sizes in [there, back]]
        kernels = sum(call.startswith("kernel ") for call in last)
        row = f"{len(self.nodes):>5} {len(self.on_cpu()):>17} {both[0]:>12} {both[1]:>12} {kernels:>7}"
        return f"{row}  no graph: {self.no_graph}" if self.no_graph else row

    def details(self) -> list[str]:
        lines = [f"on the CPU: {name} ({self.nodes[name][0]})" for name in sorted(self.on_cpu())]
        kernels = Counter(call.split(" ", 1)[1] for call in (self.steps or [[]])[-1] if call.startswith("kernel "))
        return lines + [f"{count:>4} × {name}" for name, count in kernels.most_common()]


def split(calls: list[str]) -> list[list[str]]:
    """The calls of each step. A step ends when the next token is copied back; the first one includes the start of the session."""
    steps: list[list[str]] = [[]]
    for call in calls:
        steps[-1].append(call)
        if call == f"copy d2h {INT64}":
            steps.append([])
    return steps[:-1]


def is_decode_step(before: list[int], last: list[int]) -> bool:
    """Whether `last`, sorted, are the copies of a decode step to the device: the token's id, at most two lengths, and at most one
    mask, which has one position more than in the step `before`."""
    small, masks = ([size for size in last if (size > INT64) == large] for large in [False, True])
    grown = [*small, *(size - INT64 for size in masks)]
    return INT64 in small and len(small) <= 3 and len(masks) <= 1 and before == grown


def copies(calls: list[str], direction: str) -> list[int]:
    """The bytes of each copy in `direction`."""
    found = (re.match(rf"copy {direction} (\d+)", call) for call in calls)
    return [int(match[1]) for match in found if match]
