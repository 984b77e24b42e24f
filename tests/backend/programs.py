"""Small ONNX programs, compiled and held against ONNX Runtime or the reference evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import graphopt as go
from graphopt import onnx_io
from graphopt.backend.compile import compile_graph
from graphopt.targets import Target

Array = np.ndarray[Any, Any]
NATIVE = Target.parse("native")


def program(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    dims: Mapping[str, Sequence[int | str]] | None = None,
    opset: int = 21,
) -> go.Graph:
    """A graph with these nodes; ``dims`` gives inputs symbolic shapes."""
    declared = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), (dims or {}).get(name, array.shape)
        )
        for name, array in inputs.items()
    ]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(list(nodes), "program", declared, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx_io.load(model.SerializeToString())


def outputs_of(graph: go.Graph, inputs: Mapping[str, Array], target: Target = NATIVE) -> list[Array]:
    """What the compiled graph gives."""
    with compile_graph(graph, target).load(threads=1) as executable:
        return [np.asarray(array) for array in executable(dict(inputs))]


def expected_of(graph: go.Graph, inputs: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime gives, all its optimizations off; the reference evaluator where it can't."""
    import onnxruntime as ort

    model = onnx_io.to_proto(graph)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
    except Exception:
        from onnx.reference import ReferenceEvaluator

        return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(inputs))]
    return [np.asarray(array) for array in session.run(None, dict(inputs))]


def assert_close(ours: Array, theirs: Array, tolerance: float = 1e-5) -> None:
    """Same shape and type; floats within ``tolerance`` of the largest value, all else equal."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs)
        return
    finite = np.isfinite(theirs)
    np.testing.assert_array_equal(ours[~finite], theirs[~finite])
    a, b = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    error, largest = np.abs(a - b).max(initial=0), np.abs(b).max(initial=0)
    assert error <= tolerance * max(largest, 1e-30), f"{error / largest:.2e} of the largest value"


def check(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array] | None = None,
    *,
    pipeline: str = "",
    tolerance: float = 1e-5,
    **options: Any,
) -> None:
    """Compiles a program, after ``pipeline``, and compares every output."""
    graph = program(nodes, inputs, constants, **options)
    expected = expected_of(graph, inputs)
    compiled = outputs_of(go.optimize(graph, pipeline) if pipeline else graph, inputs)
    for ours, theirs in zip(compiled, expected, strict=True):
        assert_close(ours, theirs, tolerance)


def numbers(seed: int, *shape: int, dtype: Any = np.float32) -> Array:
    """Seeded random numbers: normal floats, small integers."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if np.dtype(dtype).kind == "b":
        return rng.random(shape) > 0.5
    low = 0 if np.dtype(dtype).kind == "u" else -20
    return rng.integers(low, 21, shape).astype(dtype)
