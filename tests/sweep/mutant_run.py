"""Runs mutants in batches of processes, and says what became of each.

    python -m tests.sweep.mutant_run FIRST LAST

prints the mutants that went wrong, then the counts.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BAD = frozenset({"exception", "failed", "wrong", "crash", "hang"})
_BATCH_SECONDS = 3600


@dataclass(frozen=True)
class Fate:
    """What became of a mutant; ``word`` is one of those of the worker, or crash or hang."""

    number: int
    kind: str
    word: str
    details: str


def run(numbers: Sequence[int]) -> Iterator[Fate]:
    """The fate of each mutant. After a crash or a hang the rest goes on in a new process.

    A crash or a hang of ONNX Runtime in the mutant as it is is not ours.
    """
    left = list(numbers)
    while left:
        command = [sys.executable, "-m", "tests.sweep.mutant_worker", *map(str, left)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_BATCH_SECONDS)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            if "fate" in line:
                yield Fate(line["number"], line["kind"], line["fate"], line["details"])
                left.remove(line["number"])
        if done.returncode == 0:
            return
        if not lines or "step" not in lines[-1]:
            raise RuntimeError(f"the worker broke before or between mutants: {done.stderr[-2000:]}")
        left.remove(lines[-1]["number"])
        yield _broken(lines[-1]["number"], lines[-1]["step"], done)


def _broken(number: int, step: str, done: subprocess.CompletedProcess[str]) -> Fate:
    hang = "Timeout (" in done.stderr
    word = "hang" if hang else "crash"
    if step == "original":
        return Fate(number, "", f"{word} of ONNX Runtime as it is", "")
    return Fate(number, "", word, f"in step {step}, exit code {done.returncode}: {done.stderr[-1500:]}")


def main(first: int, last: int) -> int:
    """Prints what went wrong, and the counts."""
    counts: collections.Counter[str] = collections.Counter()
    for fate in run(range(first, last)):
        counts[fate.word] += 1
        if fate.word in BAD:
            print(f"{fate.word.upper()} {fate.number} {fate.kind}: {fate.details}", flush=True)
    print(dict(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
