"""The other end of :mod:`graphopt.tune.worker`: a process that may crash or hang, and is then started anew."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from graphopt.errors import GraphoptError

if TYPE_CHECKING:
    from graphopt.tune.candidates import Candidate

_PATIENCE = 60.0
"""Seconds for one answer; a kernel that takes more than a few to run is not tuned."""


class CandidateError(GraphoptError):
    """A candidate can't be loaded, crashed, or did not end."""


class Timer:
    """Loads kernels in a process of its own and times them there."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self.patience = patience
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - see __exit__
        self._process: subprocess.Popen[str] | None = None
        self._loaded: list[str] = []

    def __enter__(self) -> Timer:
        self._started()  # It loads while the first kernels are compiled.
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._errors.close()

    def race(self, candidates: Sequence[Candidate], *, threads: int, rounds: int) -> list[list[float]]:
        """For each round seconds of a call of each candidate; fewer rounds where the last one never wins.

        Raises:
            CandidateError: one of them can't be loaded or run.
        """
        self._load(candidates)
        names = [candidate.id for candidate in candidates]
        seconds: list[list[float]] = self._ask(
            {"do": "race", "kernels": names, "threads": threads, "rounds": rounds}
        )
        return seconds

    def difference(self, first: Candidate, second: Candidate) -> float:
        """The largest difference of results relative to the largest number of the first's.

        Raises:
            CandidateError: one of them can't be loaded or run.
        """
        self._load([first, second])
        return float(self._ask({"do": "difference", "first": first.id, "second": second.id}))

    def _load(self, candidates: Sequence[Candidate]) -> None:
        names = [candidate.id for candidate in candidates]
        for candidate in candidates:
            if candidate.id not in self._loaded:
                self._loaded = [name for name in self._loaded if name in names]
                self._ask({"do": "load", "keep": self._loaded, **candidate.job})
                self._loaded.append(candidate.id)

    def _ask(self, question: dict[str, Any]) -> Any:
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # It ended: what follows says why.
            print(json.dumps(question), file=process.stdin, flush=True)
        ready, _, _ = select.select([process.stdout], [], [], self.patience)
        if not ready:
            self._end()
            raise CandidateError("a kernel did not end")
        line = process.stdout.readline()
        if not line:
            code = process.wait()
            self._end()
            raise CandidateError(f"the process of a kernel ended with code {code}")
        answer = json.loads(line)
        if "error" in answer:
            raise CandidateError(answer["error"])
        return answer["answer"]

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "graphopt.tune.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            )  # fmt: skip
        return self._process

    def _end(self) -> None:
        process, self._process, self._loaded = self._process, None, []
        if process is None:
            return
        process.kill()
        process.communicate()
