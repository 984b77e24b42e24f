"""The other end of :mod:`graphopt.bench.worker`: starting processes of engines and asking them."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.tensor import Array


class Worker:
    """One engine in a process of its own, loaded and warm.

    Args:
        engine: its name.
        file: what it loads.
        folder: holds ``inputs.npz``, and takes up what the process writes.
        threads: how many it may use.
        shapes: of the inputs, when it may plan for them.
        symbols: numbers of named dimensions, likewise.

    Raises:
        EvaluationError: the engine can't run the file.
    """

    def __init__(
        self,
        engine: str,
        file: Path,
        folder: Path,
        threads: int,
        shapes: Mapping[str, tuple[int, ...]],
        symbols: Mapping[str, int],
    ) -> None:
        self.engine = engine
        self._outputs_path = folder / f"{engine}.npz"
        job = {
            "engine": engine,
            "file": str(file.absolute()),
            "inputs": str(folder / "inputs.npz"),
            "outputs": str(self._outputs_path),
            "threads": threads,
            "shapes": dict(shapes),
            "symbols": dict(symbols),
        }
        job_path = folder / f"{engine}.json"
        job_path.write_text(json.dumps(job))
        command = [sys.executable, "-m", "graphopt.bench.worker", str(job_path)]
        self._errors = open(folder / f"{engine}.log", "w+", errors="replace")  # noqa: SIM115 - see close()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )
        try:
            self.loaded: dict[str, Any] = self._answer()
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

    def _ask(self, question: str) -> Any:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # It ended: what follows says why.
            print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def measure(self, seconds: float) -> float:
        """Milliseconds of a call, the median of as many as fit into ``seconds``."""
        return float(statistics.median(self._ask(repr(seconds))))

    def peak_bytes(self) -> int:
        """The most memory held while loading and running, above what importing the engine took."""
        return int(self._ask("memory"))

    def outputs(self) -> list[Array]:
        """What the first call gave."""
        with np.load(self._outputs_path) as archive:
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
