"""Runs the graph before and after each pass in ONNX Runtime and compares the outputs.

Exact and approximate passes must stay within the tolerances below; of lossy ones the distance is
reported. The distance of an output is its largest absolute error over its largest absolute value.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import EvaluationError, InputError, VerifyError
from graphopt.ir.graph import Graph
from graphopt.ir.tensor import Array
from graphopt.ir.types import DType
from graphopt.pipeline.base import Context, Effect
from graphopt.pipeline.instruments import Instrument, PassRun

if TYPE_CHECKING:
    from graphopt.evaluate import Session

RANDOM_OPS = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

EXACT_TOLERANCE = {DType.F64: 1e-12, DType.C128: 1e-12, DType.F32: 1e-6, DType.C64: 1e-6, DType.F16: 1e-3}
APPROXIMATE_TOLERANCE = {DType.F64: 1e-9, DType.C128: 1e-9, DType.F32: 1e-4, DType.C64: 1e-4, DType.F16: 1e-2}
_NARROW = (0.01, 0.1)  # exact and approximate, for bfloat16 and the 8-bit floats
SAMPLES = 2

Outputs = list[dict[str, Any]]


class NumericVerifier(Instrument):
    """Compares each pass's graph with the one before it, on the context's inputs or generated ones.

    A graph that ONNX Runtime can't run (unknown operators), or that draws random numbers, is noted
    in the report as unverified.

    Raises:
        InputError: the graph does not run on a sample that the user gave.
        VerifyError: names the output and its error; or the graph ran before the pass and does not now.
    """

    def __init__(self) -> None:
        self._inputs: list[Mapping[str, Array]] = []
        self._before: Outputs | None = None
        self._reason = ""

    def before(self, run: PassRun) -> None:
        if self._before is None and not self._reason:
            start = time.perf_counter()
            self._first(run.graph, run.context)
            run.row.verify_seconds += time.perf_counter() - start

    def after(self, run: PassRun) -> None:
        run.row.unverified = self._reason
        if self._before is None or not run.row.rewrites:
            return
        start = time.perf_counter()
        try:
            now = _evaluate(run.graph, self._inputs)
        except EvaluationError as error:
            raise VerifyError(f"the graph ran before this pass and does not run after it: {error}") from error
        for old, new in zip(self._before, now, strict=True):
            self._compare(run, old, new)
        self._before = now
        run.row.verify_seconds += time.perf_counter() - start

    def _first(self, graph: Graph, context: Context) -> None:
        random = next((n for n in graph.walk() if n.op in RANDOM_OPS and not n.domain), None)
        if random is not None:
            self._reason = f"{random.label} draws random numbers"
            return
        from graphopt.evaluate import Session, example_inputs

        try:
            self._inputs = list(context.inputs)[:SAMPLES] or [example_inputs(graph, seed=context.seed)]
            with Session(graph) as session:
                self._before = _outputs(session, self._inputs, given=bool(context.inputs))
        except EvaluationError as error:
            self._reason = str(error)

    def _compare(self, run: PassRun, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        if list(old) != list(new):
            raise VerifyError(f"the outputs were {', '.join(old)} and are {', '.join(new)}")
        for name, expected in old.items():
            measured, allowed = distance(new[name], expected, run.pass_.effect)
            run.row.distance[name] = max(measured, run.row.distance.get(name, 0.0))
            if run.pass_.effect is not Effect.LOSSY and not measured <= allowed:
                raise VerifyError(
                    f'output "{name}" changed by {measured:.3g} of its largest value; a pass that is '
                    f"{run.pass_.effect.value} may change it by {allowed:.3g}",
                    hint="bisect with fuel to find the rewrite",
                )


def _evaluate(graph: Graph, inputs: list[Mapping[str, Array]]) -> Outputs:
    from graphopt.evaluate import Session

    with Session(graph) as session:
        return _outputs(session, inputs, given=False)


def _outputs(session: Session, inputs: list[Mapping[str, Array]], *, given: bool) -> Outputs:
    """The outputs on each sample; ``given``: they are the user's own.

    Raises:
        InputError: ONNX Runtime fails on a sample that the user gave.
        EvaluationError: the engine fails otherwise.
    """
    found: Outputs = []
    for number, sample in enumerate(inputs, 1):
        try:
            found.append(dict(session.run(sample)))
        except EvaluationError as error:
            if not given or session.engine != "ort":
                raise
            raise InputError(
                f"the model fails on sample {number}: {error.message}",
                hint="give inputs on which the model runs as it is, before any pass",
            ) from error
    return found


def distance(actual: Any, expected: Any, effect: Effect) -> tuple[float, float]:
    """The distance of two outputs (infinity when they can't be compared) and what ``effect`` allows.

    Sequences are compared element by element; NaN and infinities must be at the same places.
    """
    if isinstance(expected, list | tuple):
        if not isinstance(actual, list | tuple) or len(actual) != len(expected):
            return float("inf"), 0.0
        pairs = [distance(a, b, effect) for a, b in zip(actual, expected, strict=True)]
        return max(pairs, key=lambda pair: pair[0] - pair[1], default=(0.0, 0.0))
    if expected is None or actual is None:
        return (0.0 if expected is actual else float("inf")), 0.0
    a, b = np.asarray(actual), np.asarray(expected)
    if a.shape != b.shape or a.dtype.kind != b.dtype.kind or a.dtype.itemsize != b.dtype.itemsize:
        return float("inf"), 0.0
    dtype = DType.of(b.dtype)
    if dtype is DType.STR or dtype is DType.BOOL:
        return (0.0 if np.array_equal(a, b) else float("inf")), 0.0
    return _relative(a, b), _allowed(dtype, effect, b)


def _allowed(dtype: DType, effect: Effect, expected: Array) -> float:
    exact = effect is Effect.EXACT
    if dtype.is_integer:
        # One step of a quantized output is within what an approximate pass may do.
        largest = float(np.max(np.abs(expected.astype(np.float64)), initial=0.0)) or 1.0
        return 0.0 if exact or dtype.bits > 8 else 1.0 / largest
    table = EXACT_TOLERANCE if exact else APPROXIMATE_TOLERANCE
    return table.get(dtype, _NARROW[0] if exact else _NARROW[1])


def _relative(actual: Array, expected: Array) -> float:
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    a, b = actual.astype(wide), expected.astype(wide)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return float("inf")
    error = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))
    scale = float(np.max(np.abs(b[finite]), initial=0.0))
    return error / scale if scale else error
