"""Small graphs for the tests of passes, and what the tests ask of graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.evaluate import run
from graphopt.ir.builder import Builder, copy_graph
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Region, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import UnknownType, tensor
from graphopt.ops import SEMANTICS
from graphopt.pipeline import Context, Pipeline, Report


class Model:
    """Builds a graph: ``m = Model(); x = m.input("x", 1, 3); g = m.done(m("Relu", x))``."""

    def __init__(self) -> None:
        self.graph = Graph("test")
        self.builder = Builder(self.graph)

    def input(self, name: str, *shape: Dim, dtype: str = "f32") -> Value:
        return self.builder.input(name, tensor(dtype, *shape))

    def const(self, data: Any, name: str = "c", dtype: Any = np.float32) -> Value:
        return self.builder.constant(Tensor.of(np.asarray(data, dtype)), name)

    def ints(self, *data: int) -> Value:
        return self.const(data, "i", np.int64)

    def __call__(
        self,
        op: str,
        *inputs: Value | None,
        outputs: int = 1,
        region: Region | None = None,
        name: str = "",
        **attrs: Any,
    ) -> Any:
        """A node; its output, or a list of them."""
        declared = [(op.lower(), UnknownType()) for _ in range(outputs)]
        node = self.builder.node(op, inputs, declared, attrs, region=region, name=name)
        for value, kind in zip(node.outputs, SEMANTICS.infer(node), strict=False):
            value.type = kind
        return node.outputs[0] if outputs == 1 else node.outputs

    def done(self, *outputs: Value) -> Graph:
        self.builder.outputs(outputs)
        self.graph.output_names = [f"out{i}" for i in range(len(self.graph.outputs))]
        return self.graph


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
