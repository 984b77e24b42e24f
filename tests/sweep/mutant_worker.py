"""Takes mutants through graphopt, and what survives through ONNX Runtime; one process, one batch.

    python -m tests.sweep.mutant_worker NUMBER ...

prints JSON lines: before each step its name, so that whoever started this knows what a crash or a
hang was in, and after each mutant its fate.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import resource
import sys
import warnings
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError, GraphoptError
from graphopt.evaluate import Session, example_inputs
from graphopt.ir.equality import graphs_equal
from graphopt.ir.graph import Graph
from graphopt.ir.parser import parse_graph
from graphopt.ir.printer import print_graph
from graphopt.ir.sidecar import Sidecar
from graphopt.onnx_io import load, to_proto
from graphopt.pipeline import Context, Pipeline
from tests.sweep.mutants import mutant

MEMORY = 6 << 30
"""Bytes of address space: a wild allocation fails here and does not take the machine with it."""
SECONDS = 30
"""For one step of one mutant."""
_MOST_ELEMENTS = 4_000_000


def say(**fields: Any) -> None:
    """One JSON line, at once."""
    print(json.dumps(fields), flush=True)


def step(number: int, name: str) -> None:
    """What comes next; it has :data:`SECONDS`."""
    say(number=number, step=name)
    faulthandler.cancel_dump_traceback_later()
    faulthandler.dump_traceback_later(SECONDS, exit=True)


def fate(number: int, data: bytes) -> tuple[str, str]:
    """What became of a mutant, and details."""
    step(number, "load")
    try:
        graph = load(data)
        inputs = _inputs(graph, number)
    except GraphoptError as error:
        return "refused", f"{type(error).__name__}: {error}"
    step(number, "text")
    difference = _text_difference(graph)
    if difference:
        return "failed", f"parsed again it differs: {difference}"
    step(number, "optimize")
    try:
        Pipeline.parse("O2").run(graph, context=Context(), verify="structure")
        step(number, "export")
        to_proto(graph)
    except GraphoptError as error:
        return "failed", f"what import took, O2 or export did not: {type(error).__name__}: {error}"
    if inputs is None:
        return "carried", "inputs too large or of unknown type"
    step(number, "original")
    try:
        want = _ort(data, inputs)
    except Exception as error:
        return _alone(graph, number, inputs, " ".join(str(error).split())[:200])
    step(number, "optimized")
    try:
        with Session(graph, "ort") as session:
            got = list(session.run(inputs).values())
    except GraphoptError as error:
        return "wrong", f"ONNX Runtime ran it before O2, and not after: {error}"
    difference = _difference(got, want)
    return ("wrong", difference) if difference else ("agrees", "")


def _text_difference(graph: Graph) -> str | None:
    sidecar = Sidecar()
    return graphs_equal(parse_graph(print_graph(graph, sidecar=sidecar), sidecar=sidecar), graph)


def _alone(graph: Graph, number: int, inputs: dict[str, Any], reason: str) -> tuple[str, str]:
    """ONNX Runtime does not run the mutant as it is: there is nothing to compare with."""
    step(number, "optimized")
    try:
        with Session(graph, "ort") as session:
            session.run(inputs)
    except GraphoptError:
        return "neither runs", reason
    return "runs only optimized", reason


def _inputs(graph: Graph, number: int) -> dict[str, Any] | None:
    sizes = 0
    for value in graph.inputs:
        shape = getattr(value.type, "shape", None)
        if shape is not None and value.const is None:
            sizes += int(np.prod([float(dim) if isinstance(dim, int) else 64.0 for dim in shape]))
    if sizes > _MOST_ELEMENTS:
        return None
    try:
        return example_inputs(graph, seed=number)
    except EvaluationError:
        return None


def _ort(data: bytes, inputs: dict[str, Any]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def _difference(got: Any, want: Any) -> str:
    """How results differ; "" when they don't. Floats may be off by 1e-4 of the largest."""
    if isinstance(want, list):
        if not isinstance(got, list) or len(got) != len(want):
            return "sequences of different lengths"
        return next((d for a, b in zip(got, want, strict=True) if (d := _difference(a, b))), "")
    if want is None or got is None:
        return "" if got is want else "an optional is empty in one"
    a, b = np.asarray(got), np.asarray(want)
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype}{list(a.shape)} for {b.dtype}{list(b.shape)}"
    if b.dtype.kind not in "fc":
        return "" if a.tolist() == b.tolist() else f"{a.ravel()[:6]} for {b.ravel()[:6]}"
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    with np.errstate(all="ignore"):
        same = np.allclose(a, b, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
    return "" if same else f"{a.ravel()[:6]} for {b.ravel()[:6]}"


def main(numbers: list[int]) -> int:
    """Works through mutants."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in numbers:
        kind, data = mutant(number)
        try:
            word, details = fate(number, data)
        except Exception as error:  # Anything but a GraphoptError is what this looks for.
            import traceback

            word = "exception"
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            places = " < ".join(f"{f.filename[-40:]}:{f.lineno}" for f in reversed(frames))
            details = f"{type(error).__name__}: {str(error)[:200]} @ {places}"
        say(number=number, kind=kind, fate=word, details=details)
    faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]]))
