"""Which nodes constants alone decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from graphopt.ir.analyses import Analysis
from graphopt.ir.graph import Graph, Node
from graphopt.ir.transaction import EventKind
from graphopt.ops import is_pure


@dataclass(frozen=True)
class ConstantNodes(Analysis):
    """The nodes that depend on constants only, through nodes of their own region; control flow is none of them.

    They could be computed ahead of time, if what comes out is not too large.
    """

    invalidated_by: ClassVar = frozenset({EventKind.INSERTED, EventKind.CHANGED})
    nodes: frozenset[Node]

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Looks at every node once."""
        found: set[Node] = set()
        for node in graph.walk():
            inputs = [value for value in node.inputs if value is not None]
            constant = bool(inputs) and all(
                value.is_constant or (value.producer in found and value.producer.parent is node.parent)
                for value in inputs
            )
            if constant and not node.regions and is_pure(node):
                found.add(node)
        return cls(frozenset(found))

    def __contains__(self, node: Node | None) -> bool:
        """Whether ``node`` is one of them."""
        return node in self.nodes
