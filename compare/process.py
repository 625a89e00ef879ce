"""A peer's process, with its memory and CPU time from the operating system (Linux)."""

import json
import os
import subprocess
import time
from pathlib import Path


class PeerError(Exception):
    """A peer failed."""


class Peer:
    """The process of a runtime with one variant. It's started by the constructor and ended by `close`."""

    def __init__(self, command: list[str], request: dict, env: dict[str, str], log: Path, says_ready: bool):
        self.log = log
        start = time.perf_counter()
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
            )
        try:
            if says_ready:
                self.answer("ready")
            opened = self.ask("open", request, "opened")
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - start
        """Seconds to a session: starting the process, imports, libraries, weights."""
        self.session_seconds = opened["session_seconds"]
        """Seconds to open the session, as the peer reports them."""
        self.memory_after_start = self.memory()

    def ask(self, kind: str, request: object, expected: str) -> dict:
        try:
            self.process.stdin.write(json.dumps({kind: request}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # It has ended; its last words are read below.
        return self.answer(expected)

    def answer(self, expected: str) -> dict:
        line = self.process.stdout.readline()
        if not line:
            last_words = self.log.read_text().strip().splitlines()[-1:] or ["without a word"]
            raise PeerError(f"the process ended with status {self.process.wait()}: {last_words[0]}")
        ((kind, value),) = json.loads(line).items()
        if kind != expected:
            raise PeerError(str(value))
        return value

    def generate(self, prompt_ids: list[int], new_tokens: int) -> dict:
        return self.ask("generate", {"prompt_ids": prompt_ids, "new_tokens": new_tokens}, "generated")

    def memory(self) -> dict[str, int]:
        """Bytes: `RssAnon` is anonymous memory, `RssFile` are mapped files, `VmHWM` is the peak of both."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return {key: int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile", "VmHWM")}

    def cpu_seconds(self) -> float:
        """CPU seconds of all threads since the start."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
