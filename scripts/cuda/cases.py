"""The fixtures to run, the program that runs them, and its error messages."""

import argparse
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "tests/fixtures"

DTYPES = ["float16", "bfloat16", "float32"]

# The model with a case of every method.
METHODS_OF = "llama-gqa"


def built_program() -> Path:
    program = Path(os.environ.get("PEFT_BENCH", ROOT / "target/release/peft-bench")).absolute()
    if not os.access(program, os.X_OK):
        fail(f"there is no program `{program}`; run `cargo build --release`, or set PEFT_BENCH")
    return program


def chosen(asked: list[str]) -> list[tuple[str, str]]:
    """`(model, case)` to run: each model alone and with LoRA, and all methods of `METHODS_OF`; only those in `asked`, if any."""
    cases = []
    for model in sorted(path.name for path in (FIXTURES / "models").iterdir()):
        folder = FIXTURES / "cases" / model
        names = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
        cases += [(model, "base")]
        cases += [(model, name) for name in names if model == METHODS_OF or name == "lora"]
    if asked:
        cases = [case for case in cases if case[0] in asked or "/".join(case) in asked]
    if not cases:
        fail("no case has that name")
    return cases


def target(case: tuple[str, str]) -> list:
    """The arguments of `generate` for a case."""
    model, name = case
    base = FIXTURES / "models" / model
    if name == "base":
        return [base]
    task = about(case).get("task_id")
    chosen_task = [] if task is None else ["--task-id", str(task)]
    return [FIXTURES / "cases" / model / name, "--model", base, "--variant", "unmerged", *chosen_task]


def about(case: tuple[str, str]) -> dict:
    """The case's description (`case.json`), such as its prompt."""
    file = FIXTURES.joinpath("cases", *case, "case.json")
    return json.loads(file.read_text()) if file.is_file() else {}


def parser(doc: str) -> argparse.ArgumentParser:
    """The argument parser of a script that runs these cases; `doc` is its description."""
    summary, _, rest = doc.partition("\n")
    made = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("cases", nargs="*", metavar="MODEL[/CASE]", help="fixtures to run [default: all]")
    made.add_argument("--dtype", action="append", choices=DTYPES)
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line. Options after `--` are in `generate`."""
    own, after = sys.argv[1:], []
    if "--" in own:
        own, after = own[: own.index("--")], own[own.index("--") + 1 :]
    options = made.parse_args(own)
    options.dtype = options.dtype or DTYPES
    options.generate = after
    return options


def last_words(stderr: str) -> str:
    """The last line, which is the error if the program failed."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else "no error message"


def fail(message: str) -> None:
    print(message, file=sys.stderr)
    sys.exit(2)
