"""Calibration: which range of numbers each activation takes on sample inputs.

A copy of the graph gets the minimum and maximum of each value as additional outputs and runs on
ONNX Runtime, so that what comes back per value and sample are two numbers, not the activation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.errors import PassError
from graphopt.ir.builder import Builder, copy_graph
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import DType, TensorType

Range = tuple[float, float]


def ranges(graph: Graph, values: Sequence[Value], samples: Sequence[Mapping[str, Any]]) -> dict[Value, Range]:
    """Smallest and largest number that each of ``values`` takes on any of ``samples``.

    Raises:
        PassError: a value is not finite on some sample.
        EvaluationError, InputError: the graph does not run on a sample.
    """
    from graphopt.evaluate import Session

    observed = _with_extremes(graph, values)
    found: dict[Value, Range] = {}
    with Session(observed) as session:
        for sample in samples:
            results = session.run(sample)
            for value in values:
                low, high = (float(results[f"{value.name}:{which}"]) for which in ("min", "max"))
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise PassError(
                        f"%{value.name} takes the range {low} to {high} on a calibration sample",
                        hint="give samples on which the model stays finite",
                    )
                old = found.get(value, (low, high))
                found[value] = (min(old[0], low), max(old[1], high))
    return found


def _with_extremes(graph: Graph, values: Sequence[Value]) -> Graph:
    """A copy of ``graph`` that also gives the extremes of ``values`` as ``NAME:min`` and ``NAME:max``."""
    observed = copy_graph(graph)
    builder = Builder(observed)
    scalar = TensorType(DType.F32, ())
    for value in values:
        for which in ("min", "max"):
            name = f"{value.name}:{which}"
            node = builder.node(
                "ReduceMin" if which == "min" else "ReduceMax",
                [observed.value(value.name)],
                [(name, scalar)],
                {"keepdims": 0},
            )
            builder.outputs(node.outputs)
            observed.output_names.append(name)
    return observed
