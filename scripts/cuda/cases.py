"""Which fixtures are run, and by which program."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests/fixtures"

# The model that has a case of every method.
METHODS_OF = "llama-gqa"


def built_program() -> Path:
    program = Path(os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench")).absolute()
    if not os.access(program, os.X_OK):
        fail(f"there is no program `{program}`; run `cargo build --release`, or set PEFT_BENCH")
    return program


def chosen(asked: list[str]) -> list[tuple[str, str]]:
    """Model and case: of every model itself and LoRA, and of one of them every method; those that are asked for, if any."""
    cases = []
    for model in sorted(path.name for path in (FIXTURES / "models").iterdir()):
        folder = FIXTURES / "cases" / model
        names = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
        cases += [(model, "base")]
        cases += [(model, name) for name in names if model == METHODS_OF or name == "lora"]
    if asked:
        cases = [case for case in cases if case[0] in asked or "/".join(case) in asked]
    if not cases:
        fail("no case is of that name")
    return cases


def target(case: tuple[str, str]) -> list:
    """The case as `generate` takes it."""
    model, name = case
    base = FIXTURES / "models" / model
    if name == "base":
        return [base]
    task = about(case).get("task_id")
    chosen_task = [] if task is None else ["--task-id", str(task)]
    return [FIXTURES / "cases" / model / name, "--model", base, "--variant", "unmerged", *chosen_task]


def about(case: tuple[str, str]) -> dict:
    """What is written down of a case, such as its prompt."""
    file = FIXTURES.joinpath("cases", *case, "case.json")
    return json.loads(file.read_text()) if file.is_file() else {}


def arguments_and_rest() -> tuple[list[str], list[str]]:
    """The command line before and after `--`."""
    own, after = sys.argv[1:], []
    if "--" in own:
        own, after = own[: own.index("--")], own[own.index("--") + 1 :]
    return own, after


def fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)
