"""What is known at compile time: constants, and what nodes compute from constants alone.

Constant folding in the graph has a size budget, so that the model stays small; code should still
not compute the same weights at every run.
"""

from __future__ import annotations

from graphopt.analysis import ConstantNodes
from graphopt.evaluate.constants import evaluate_nodes
from graphopt.ir.graph import Graph, Value
from graphopt.ir.tensor import Tensor


class Constants:
    """The constant values of a graph."""

    def __init__(self, graph: Graph) -> None:
        constant = ConstantNodes.of(graph)
        nodes = [node for node in graph.body if node in constant]
        self._computed = {
            value: Tensor.of(data, value.tensor.dtype)
            for value, data in (evaluate_nodes(nodes, graph) if nodes else {}).items()
        }

    def get(self, value: Value) -> Tensor | None:
        """The data of ``value``, None when it is known only at run time."""
        if value.is_constant:
            return value.const
        return self._computed.get(value)
