"""Runs engines in alternating rounds, one at a time, and compares medians and outputs."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.tensor import Array
from graphopt.runtime.archives import save_arrays


@dataclass(slots=True)
class EngineResult:
    """What one engine did: milliseconds per call as the median of each round, and its load time."""

    engine: str
    load_seconds: float
    rounds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median of the rounds' medians, milliseconds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Largest minus smallest round, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / self.median


@dataclass(slots=True)
class Comparison:
    """Two engines on the same inputs; ``ratio`` below 1 means that the first is faster."""

    results: list[EngineResult]
    threads: int
    ratio: float
    max_error: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        engines = [{**asdict(r), "median_ms": r.median, "spread": r.spread} for r in self.results]
        return {
            "threads": self.threads,
            "ratio": self.ratio,
            "max_error": self.max_error,
            "engines": engines,
        }


class _Worker:
    def __init__(self, engine: str, file: Path, folder: Path, threads: int) -> None:
        self.engine = engine
        self.outputs_path = folder / f"{engine}.npz"
        command = [sys.executable, "-m", "graphopt.bench.worker", engine, str(file)]
        command += [str(folder / "inputs.npz"), str(self.outputs_path), str(threads)]
        self._errors = open(folder / f"{engine}.log", "w+")  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.result = EngineResult(engine, self._answer()["load_seconds"])
        except BaseException:
            self.close()
            raise

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines()[-1:]
            code = self._process.returncode
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise EvaluationError(
                f"the process of {self.engine} {ended}{': ' if said else ''}{''.join(said)}"
            )
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise EvaluationError(f"{self.engine} could not run the model: {answer['error']}")
        return answer

    def measure(self, seconds: float) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It ended: what follows says why.
            print(seconds, file=self._process.stdin, flush=True)
        self.result.rounds.append(statistics.median(self._answer()))

    def outputs(self) -> list[Array]:
        with np.load(self.outputs_path) as archive:
            return [archive[name] for name in archive.files]

    def close(self) -> None:
        """Ends the process: it stops by itself when its stdin ends, unless it hangs."""
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        finally:
            self._errors.close()


@contextlib.contextmanager
def _workers(files: Mapping[str, Path], inputs: Mapping[str, Array], threads: int) -> Iterator[list[_Worker]]:
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        save_arrays(folder / "inputs.npz", inputs)
        workers = []
        for engine, file in files.items():
            worker = _Worker(engine, file, folder, threads)
            stack.callback(worker.close)
            workers.append(worker)
        yield workers


def compare(
    files: Mapping[str, Path],
    inputs: Mapping[str, Array],
    *,
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 0.3,
    progress: Callable[[int, int, str], None] = lambda done, total, step: None,
) -> Comparison:
    """Measures engines on the same inputs, in separate processes and alternating rounds.

    Args:
        files: engine name (a key of ``ENGINES``) to the file it loads; the first is compared to the second.
        inputs: arrays by input name.
        threads: threads of each engine.
        rounds: how many times each engine is measured.
        seconds: length of one measurement.

    Raises:
        EvaluationError: an engine can't run its file.
    """
    with _workers(files, inputs, threads) as workers:
        for index in range(rounds):
            # Every other round runs backwards, so that no engine always follows the same one.
            for worker in workers if index % 2 == 0 else reversed(workers):
                progress(index, rounds, worker.engine)
                worker.measure(seconds)
        results = [worker.result for worker in workers]
        first, second = workers[0].outputs(), workers[1].outputs()
    if len(first) != len(second):
        raise EvaluationError(
            f"the number of outputs of {results[0].engine} is {len(first)}, that of {results[1].engine} {len(second)}",
            hint="the artifact was compiled from another model",
        )
    ratios = [a / b for a, b in zip(results[0].rounds, results[1].rounds, strict=True)]
    error = max((_relative_error(a, b) for a, b in zip(first, second, strict=True)), default=0.0)
    return Comparison(results, threads, statistics.median(ratios), error)


def _relative_error(actual: Array, expected: Array) -> float:
    """``max|actual - expected| / max|expected|``; infinite when shapes, NaNs or infinities differ."""
    if actual.shape != expected.shape:
        return float("inf")
    if actual.size == 0 or actual.dtype.kind in "OSU":
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return float("inf")
    scale = float(np.max(np.abs(b[finite]), initial=0.0)) or 1.0
    return float(np.max(np.abs(a[finite] - b[finite]), initial=0.0)) / scale
