"""Graphs built call by call, with every type inferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.ir.builder import Builder
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Attr, Graph, Region, Value
from graphopt.ir.tensor import Tensor
from graphopt.ir.types import Type, UnknownType, tensor


class Draft:
    """Builds a graph::

    m = Draft()
    x = m.input("x", sym("n"), 3)
    graph = m.done(m("Relu", x))
    """

    def __init__(self, name: str = "test") -> None:
        self.graph = Graph(name)
        self.builder = Builder(self.graph)

    def input(self, name: str, *shape: Dim, dtype: str = "f32") -> Value:
        """A new input of the graph."""
        return self.builder.input(name, tensor(dtype, *shape))

    def const(self, data: Any, name: str = "c", dtype: Any = np.float32) -> Value:
        """A new constant."""
        return self.builder.constant(Tensor.of(np.asarray(data, dtype)), name)

    def ints(self, *data: int) -> Value:
        """A constant vector of i64, as axes and shapes are given."""
        return self.const(data, "i", np.int64)

    def __call__(
        self,
        op: str,
        *inputs: Value | None,
        outputs: int = 1,
        region: Region | None = None,
        name: str = "",
        **attrs: Attr,
    ) -> Any:
        """A node; its output, or a list of them.

        Raises:
            TypeInferenceError: the inputs don't fit the operator.
        """
        from graphopt.ops import SEMANTICS

        declared: list[tuple[str, Type]] = [(op.lower(), UnknownType()) for _ in range(outputs)]
        node = self.builder.node(op, inputs, declared, attrs, region=region, name=name)
        for value, kind in zip(node.outputs, SEMANTICS.infer(node), strict=False):
            value.type = kind
        return node.outputs[0] if outputs == 1 else node.outputs

    def control(
        self,
        op: str,
        inputs: Sequence[Value | None],
        regions: dict[str, tuple[Sequence[tuple[str, Type]], Any]],
        outputs: int = 1,
        *,
        region: Region | None = None,
    ) -> Any:
        """A node of control flow; its output, or a list of them.

        Args:
            regions: for each the names and types of its inputs, and a function that takes the region and
                fills it: what it returns, a sequence of values, are the region's outputs.
        """
        from graphopt.ops import SEMANTICS

        node = self.builder.node(op, inputs, [(op.lower(), UnknownType())] * outputs, region=region)
        for attr, (parameters, fill) in regions.items():
            inner = self.builder.region(node, attr)
            for name, kind in parameters:
                self.builder.input(name, kind, inner)
            self.builder.outputs(fill(inner), inner)
        for value, kind in zip(node.outputs, SEMANTICS.infer(node), strict=False):
            value.type = kind
        return node.outputs[0] if outputs == 1 else node.outputs

    def done(self, *outputs: Value) -> Graph:
        """The graph; its outputs are called ``out0``, ``out1``, ..."""
        self.builder.outputs(outputs)
        self.graph.output_names = [f"out{i}" for i in range(len(self.graph.outputs))]
        return self.graph
