"""Runs engines in alternating rounds, one at a time, and compares medians and outputs."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.bench.engines import Reference, engine
from graphopt.bench.process import Worker
from graphopt.errors import EvaluationError
from graphopt.ir.tensor import Array
from graphopt.runtime.archives import save_arrays

TOLERANCE = 2e-3
"""Outputs further apart, as a share of the largest one, are of an engine in lower precision."""
_PAUSE = 0.05  # seconds in which the threads of the engine before stop spinning


@dataclass(slots=True)
class EngineResult:
    """What one engine did.

    Attributes:
        load_seconds: from the file to being ready; with engines that compile a model, this is in it.
        first_ms: the first call.
        rounds: milliseconds per call, the median of each round.
        peak_bytes: most memory held while loading and running, above what importing the engine took.
        disk_bytes: size of what it loads.
        compile_seconds: time to make what it loads, where that was measured.
        max_error: distance of its outputs from the reference; None without one.
        precision: the type in which it computes floats, as far as it says.
        lower_precision: whether it answers in lower precision than the others, and so isn't compared.
        note: why it was not measured; empty when it was.
    """

    engine: str
    title: str
    version: str = ""
    load_seconds: float = 0.0
    first_ms: float = 0.0
    rounds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    disk_bytes: int = 0
    compile_seconds: float | None = None
    max_error: float | None = None
    precision: str = ""
    lower_precision: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """Median of the rounds' medians, milliseconds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Largest minus smallest round, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / self.median

    @property
    def comparable(self) -> bool:
        """Whether its time says something beside the others'."""
        return bool(self.rounds) and not self.lower_precision


@dataclass(slots=True)
class Comparison:
    """Engines on the same inputs."""

    model: str
    threads: int
    results: list[EngineResult]
    inputs: dict[str, str] = field(default_factory=dict)

    def ratio(self, name: str) -> float | None:
        """Time of an engine by that of the fastest other one; below 1 it is the fastest.

        It is the median over rounds. None when there is nothing to compare.
        """
        own = next(result for result in self.results if result.engine == name)
        others = [r for r in self.results if r is not own and r.comparable]
        if not own.comparable or not others:
            return None
        fastest = min(others, key=lambda result: result.median)
        return statistics.median(a / b for a, b in zip(own.rounds, fastest.rounds, strict=True))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "threads": self.threads,
            "inputs": self.inputs,
            "engines": [self._row(result) for result in self.results],
        }

    def _row(self, result: EngineResult) -> dict[str, Any]:
        row = {name: getattr(result, name) for name in EngineResult.__slots__}
        if result.rounds:
            row |= {
                "median_ms": result.median,
                "spread": result.spread,
                "ratio": self.ratio(result.engine),
            }
        return row


def compare(
    files: Mapping[str, Path],
    inputs: Mapping[str, Array],
    *,
    name: str = "",
    threads: int = 1,
    rounds: int = 7,
    seconds: float = 0.3,
    reference: Path | None = None,
    fixed: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, step: None,
) -> Comparison:
    """Measures engines on the same inputs, in separate processes and alternating rounds.

    Args:
        files: engine name to the file it loads. The first must run; others that can't get a note.
        inputs: arrays by input name.
        name: of the model, for the reports.
        threads: threads of each engine.
        rounds: how many times each engine is measured.
        seconds: length of one measurement.
        reference: the ONNX model with whose outputs in ONNX Runtime, optimizations off, all are compared.
        fixed: whether engines may plan for the shapes of these inputs, as an artifact with fixed shapes can.

    Raises:
        EvaluationError: the first engine, or the reference, can't run its file.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-bench-") as scratch, contextlib.ExitStack() as stack:
        folder = Path(scratch)
        save_arrays(folder / "inputs.npz", inputs)
        shapes = {key: array.shape for key, array in inputs.items()} if fixed else {}
        model = reference or next((file for file in files.values() if file.is_file()), None)
        symbols = named_sizes(model, shapes) if model is not None and fixed else {}
        expected: list[Array] | None = None
        if reference is not None:
            progress(0, rounds, "reference")
            judge = Worker(Reference.name, reference, folder, threads, shapes, symbols)
            judge.close()
            expected = judge.outputs()
        results, workers = [], []
        for chosen, file in files.items():
            kind = engine(chosen)
            result = EngineResult(chosen, kind.title, kind.version() or "", disk_bytes=bytes_of(file))
            results.append(result)
            if not result.version:
                result.note = f"not installed; {kind.hint}"
                continue
            progress(0, rounds, f"loading {kind.title}")
            try:
                worker = Worker(chosen, file, folder, threads, shapes, symbols)
            except EvaluationError as error:
                if len(results) == 1:
                    raise
                result.note = error.message
                continue
            stack.callback(worker.close)
            for key, value in worker.loaded.items():
                setattr(result, key, value)
            workers.append((worker, result))
        _take_rounds(workers, rounds, seconds, progress)
        for worker, result in workers:
            result.peak_bytes = worker.peak_bytes()
            if expected is not None:
                _judge(result, worker.outputs(), expected)
    described = {key: f"{array.dtype}{list(array.shape)}" for key, array in inputs.items()}
    return Comparison(name, threads, results, described)


def _take_rounds(
    workers: Sequence[tuple[Worker, EngineResult]],
    rounds: int,
    seconds: float,
    progress: Callable[[int, int, str], None],
) -> None:
    for index in range(rounds):
        # Every other round runs backwards, so that no engine always follows the same one.
        for worker, result in workers if index % 2 == 0 else reversed(workers):
            progress(index, rounds, result.title)
            time.sleep(_PAUSE)
            result.rounds.append(worker.measure(seconds))


def _judge(result: EngineResult, outputs: Sequence[Array], expected: Sequence[Array]) -> None:
    if len(outputs) != len(expected):
        raise EvaluationError(
            f"the number of outputs of {result.title} is {len(outputs)}, that of the model {len(expected)}",
            hint="the artifact was compiled from another model",
        )
    result.max_error = max(
        (relative_error(a, b) for a, b in zip(outputs, expected, strict=True)), default=0.0
    )
    result.lower_precision = not result.max_error <= TOLERANCE or result.precision != "float32"


def named_sizes(model: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """What shapes of inputs make of the named dimensions of an ONNX model.

    Some exporters give all dimensions one name; a name of several sizes is left out.
    """
    import onnx

    sizes: dict[str, set[int]] = {}
    for item in onnx.load(model, load_external_data=False).graph.input:
        dims = item.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes.get(item.name, ()), strict=False):
            if dim.dim_param:
                sizes.setdefault(dim.dim_param, set()).add(size)
    return {name: min(found) for name, found in sizes.items() if len(found) == 1}


def bytes_of(path: Path) -> int:
    """Bytes of a file, with the external data of an ONNX model, or of all files in a directory."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        return 0
    return path.stat().st_size + sum(file.stat().st_size for file in _external_files(path))


def _external_files(path: Path) -> set[Path]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception:  # No model at all, say: the engine will tell what is wrong with it.
        return set()
    found = {
        path.parent / entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return {file for file in found if file.is_file()}


def relative_error(actual: Array, expected: Array) -> float:
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
