"""The comparison as Markdown, made from the raw results only."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import rounds

MIB = 1 << 20
OURS = [
    "peft-bench mapped",
    "peft-bench in-place",
    "peft-bench resident",
    "peft-bench 4bit",
    "peft-bench 4bit-32",
    "peft-bench",
    "peft-bench graph",
]
REFERENCE = "transformers"


def markdown(raw: dict) -> str:
    machine = raw["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in raw["versions"].items() if version)
    precision = raw["dtype"] if raw["precision"] == "float32" else "4 bits beside float32"
    gpu = f"{machine['gpu']}; " if "gpu" in machine else ""
    lines = [
        "# peft-bench and its peers",
        "",
        f"    {raw['command']}",
        "",
        f"{gpu}{machine['cpu']}, {machine['logical_cpus']} logical CPUs, {machine['system']}. Computed: {precision}; "
        f"{raw['threads']} threads everywhere, {raw['new_tokens']} new tokens, {raw['rounds']} rounds in turn, "
        f"torch's threads wait by the policy `{raw['omp_wait_policy']}`; {versions}.",
        "",
        "Medians over rounds with bootstrap 95 % intervals. A ratio is the median of paired rounds, to this program's "
        "same variant: above 1, the peer takes longer.",
    ]
    for model in raw["models"]:
        lines += ["", f"## {model['model']}"]
        for peer, reason in model["absent"].items():
            lines += ["", f"Not measured: {peer}: {reason}"]
        lines += ["", *start_table(model["contestants"])]
        for prompt in [entry["prompt_tokens"] for entry in model["contestants"][0]["prompts"]]:
            runs = Runs(model["contestants"], prompt)
            lines += ["", f"### Prompt of {prompt} tokens"]
            lines += ["", *runs.table("Time to first token", "time_to_first_token")]
            lines += ["", *runs.table("Decode, a token", "decode")]
            lines += ["", *runs.agreement()]
    return "\n".join(lines) + "\n"


def start_table(contestants: list[dict]) -> list[str]:
    lines = [
        "| runtime | variant | prepare | written | process start | session | anonymous after start "
        "| peak resident | idle CPU |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for contestant in contestants:
        starts = contestant["starts"]
        prepared = contestant["written_bytes"] > 0
        cells = [
            contestant["name"],
            contestant["variant"],
            time_text(contestant["prepare_seconds"]) if prepared else "–",
            f"{contestant['written_bytes'] / MIB:.1f} MiB" if prepared else "–",
            time_text(median(start["start_seconds"] for start in starts)),
            time_text(median(start["session_seconds"] for start in starts)),
            f"{median(start['memory']['RssAnon'] for start in starts) / MIB:.0f} MiB",
            f"{contestant['memory_at_the_end']['VmHWM'] / MIB:.0f} MiB",
            f"{contestant['idle_cpu_seconds'] * 100:.0f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines + [
        "",
        "Process start: from nothing to an open session, libraries and imports included; for transformers, merging "
        "too. Files are cached. Idle CPU: of one core, in the second after a generation.",
    ]


def time_text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def digits(milliseconds: float) -> str:
    """A number with three significant digits, or all digits before the decimal point."""
    decimals = next((places for places, least in enumerate([100, 10, 1]) if milliseconds >= least), 3)
    return f"{milliseconds:.{decimals}f}"


class Runs:
    """The results of all contestants for one prompt."""

    def __init__(self, contestants: list[dict], prompt_tokens: int):
        self.prompts = {}
        for contestant in contestants:
            (prompt,) = [entry for entry in contestant["prompts"] if entry["prompt_tokens"] == prompt_tokens]
            self.prompts[contestant["name"], contestant["variant"]] = prompt

    def seconds(self, key: tuple[str, str], metric: str) -> list[float]:
        """One value per round; for decode, the median step."""
        runs = self.prompts[key]["runs"]
        if metric == "decode":
            return [median(run["decode_steps"]) for run in runs]
        return [run[metric] for run in runs]

    def table(self, title: str, metric: str) -> list[str]:
        present = [ours for ours in OURS if any(name == ours for name, _ in self.prompts)]
        ratios = " | ".join(f"÷ {ours}" for ours in present)
        lines = [f"| {title} | variant | median | {ratios} |", f"| --- | --- | --: |{' --: |' * len(present)}"]
        for name, variant in self.prompts:
            values = self.seconds((name, variant), metric)
            middle, low, high = (digits(value * 1000) for value in rounds.summary(values))
            cells = [name, variant, f"{middle} ms ({low} … {high})"]
            for ours in present:
                if name == ours or (ours, variant) not in self.prompts:
                    cells.append("–")
                    continue
                middle, low, high = rounds.ratio(values, self.seconds((ours, variant), metric))
                cells.append(f"{middle:.2f} ({low:.2f} … {high:.2f})")
            lines.append(f"| {' | '.join(cells)} |")
        return lines

    def agreement(self) -> list[str]:
        """How far the greedy tokens agree; if they don't, the times aren't comparable."""
        lines = []
        for name, variant in self.prompts:
            same = [key for key in self.prompts if key[1] == variant]
            key = next((key for key in same if key[0] == REFERENCE), same[0])
            prompt, reference = self.prompts[name, variant], self.prompts[key]
            stable = all(run["same_tokens_as_warm_up"] for run in prompt["runs"])
            if not stable:
                lines.append(f"- {name} · {variant}: its rounds differ among themselves")
            base = self.prompts.get((name, "base"), {}).get("token_ids")
            if variant != "base" and prompt["token_ids"] == base:
                lines.append(f"- {name} · {variant}: the adapter changes no token of the base")
            if (name, variant) == key:
                continue
            pairs = list(zip(prompt["token_ids"], reference["token_ids"], strict=True))
            differing = [index for index, (own, other) in enumerate(pairs) if own != other]
            if differing:
                place = "the first token" if differing[0] == 0 else f"token {differing[0] + 1} of {len(pairs)}"
                lines.append(f"- {name} · {variant}: differs from {key[0]} from {place} on")
        if not lines:
            return ["Greedy tokens: all runtimes agree on every one of the same variant, and the adapter changes them."]
        return ["Greedy tokens; what isn't listed agrees on every token:", "", *lines]


def program_version(binary: Path) -> str:
    """`0.1.0` of `peft-bench 0.1.0`."""
    return subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
