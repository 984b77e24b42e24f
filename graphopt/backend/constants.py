"""What is known at compile time: constants, and what nodes compute from constants alone.

Constant folding in the graph has a size budget, so that the model stays small; code should still
not compute the same weights at every run.
"""

from __future__ import annotations

from graphopt.evaluate.constants import evaluate_nodes
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.tensor import Tensor
from graphopt.ops import is_pure


class Constants:
    """The constant values of a graph."""

    def __init__(self, graph: Graph) -> None:
        nodes = _constant_nodes(graph)
        self._computed = {
            value: Tensor.of(data, value.tensor.dtype)
            for value, data in (evaluate_nodes(nodes, graph) if nodes else {}).items()
        }

    def get(self, value: Value) -> Tensor | None:
        """The data of ``value``, None when it is known only at run time."""
        if value.is_constant:
            return value.const
        return self._computed.get(value)


def _constant_nodes(graph: Graph) -> list[Node]:
    """Nodes of the root that depend on constants only, in program order."""
    known: set[Value] = set()
    found = []
    for node in graph.body:
        operands = [value for value in node.inputs if value is not None]
        constant = all(value.is_constant or value in known for value in operands)
        if constant and operands and not node.regions and is_pure(node):
            known.update(node.outputs)
            found.append(node)
    return found
