"""Small graphs for the tests of passes, and what the tests ask of graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.evaluate import run
from graphopt.ir.builder import copy_graph
from graphopt.ir.graph import Graph, Region
from graphopt.pipeline import Context, Pipeline, Report
from graphopt.testing import Draft as Model

__all__ = ["Model", "apply", "assert_same_numbers", "bodies", "checked", "count", "ops", "random"]


def ops(graph: Graph | Region) -> list[str]:
    """Operators in program order, at this level only."""
    return [node.op for node in (graph.body if isinstance(graph, Graph) else graph)]


def count(graph: Graph) -> Counter[str]:
    """How often each operator stands in the graph, regions included."""
    return Counter(node.op for node in graph.walk() if not node.is_fused)


def bodies(graph: Graph) -> list[list[str]]:
    """The operators in each fused region, in order."""
    return [ops(node.body) for node in graph.walk() if node.is_fused]


def apply(graph: Graph, pipeline: str, **options: Any) -> Report:
    """Runs a pipeline on ``graph`` with full verification of its structure."""
    return Pipeline.parse(pipeline).run(graph, context=Context(**options))


def assert_same_numbers(
    before: Graph, after: Graph, inputs: Mapping[str, Any], *, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """ONNX Runtime, optimizations off, gives the same for both; bitwise by default, NaN where NaN is."""
    wanted, given = run(before, inputs), run(after, inputs)
    assert list(wanted) == list(given)
    for name, expected in wanted.items():
        np.testing.assert_allclose(given[name], expected, rtol=rtol, atol=atol, err_msg=name)
        assert given[name].dtype == expected.dtype and given[name].shape == expected.shape


def checked(graph: Graph, pipeline: str, inputs: Mapping[str, Any], **tolerance: float) -> Report:
    """Runs a pipeline on ``graph`` and compares the numbers before and after."""
    before = copy_graph(graph)
    report = apply(graph, pipeline)
    assert_same_numbers(before, graph, inputs, **tolerance)
    return report


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
