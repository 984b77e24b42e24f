"""Dominators of the flow of data: which node all paths go through.

Here paths follow data, not control: from what comes into a region (its inputs, what it captures) through
nodes to its outputs. What constants alone decide is on no path to another node. See Cooper, Harvey and Kennedy, "A Simple, Fast
Dominance Algorithm", 2001, for the algorithm, which is networkx's. Whether a value may be used at a place is
another question, which :func:`graphopt.ir.graph.dominates` answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from graphopt.analysis.flow import open_regions, reader
from graphopt.ir.analyses import Analysis
from graphopt.ir.captures import captures
from graphopt.ir.graph import Graph, Node, Region
from graphopt.ir.transaction import EventKind

if TYPE_CHECKING:
    import networkx as nx

_STRUCTURE = frozenset({EventKind.INSERTED, EventKind.ERASED, EventKind.CHANGED, EventKind.REPLACED})
_START, _END = "start", "end"


@dataclass(frozen=True)
class Dominators(Analysis):
    """``immediate[node]``: the last node before ``node`` that every path from the inputs to it goes through;
    None where there is none."""

    invalidated_by: ClassVar = _STRUCTURE
    immediate: Mapping[Node, Node | None]

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Computes them for the nodes of the root and of control flow, each in its region."""
        return cls({n: d for region in open_regions(graph) for n, d in _immediate(_flow(region), _START)})

    def chain(self, node: Node) -> Iterator[Node]:
        """The nodes that every path to ``node`` goes through, itself first."""
        step: Node | None = node
        while step is not None:
            yield step
            step = self.immediate.get(step)

    def dominates(self, first: Node, second: Node) -> bool:
        """Whether every path to ``second`` goes through ``first``; a node dominates itself."""
        return any(node is first for node in self.chain(second))


@dataclass(frozen=True)
class PostDominators(Dominators):
    """The same against the flow: ``immediate[node]`` is the first node after ``node`` that every path from it
    to an output goes through."""

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Computes them for the nodes of the root and of control flow, each in its region."""
        flows = (_flow(region).reverse(copy=False) for region in open_regions(graph))
        return cls({n: d for flow in flows for n, d in _immediate(flow, _END)})


def _flow(region: Region) -> nx.DiGraph:
    """Nodes between a start and an end, with an edge for each use of a value that is no constant."""
    import networkx as nx

    flow = nx.DiGraph()
    flow.add_nodes_from((_START, _END))
    captured = [use for use, value in captures(region) if not value.is_constant]
    for use in (*(use for value in region.inputs for use in value.uses), *captured):
        flow.add_edge(_START, reader(use, region) or _END)
    for node in region:
        flow.add_node(node)
        uses = [use for value in node.outputs for use in value.uses]
        flow.add_edges_from((node, reader(use, region) or _END) for use in uses)
        if not uses:
            flow.add_edge(node, _END)
    return flow


def _immediate(flow: nx.DiGraph, start: str) -> Iterator[tuple[Node, Node | None]]:
    import networkx as nx

    found = nx.immediate_dominators(flow, start)
    for node in flow:
        if isinstance(node, Node):
            dominator = found.get(node)  # none where no path leads, as to what constants alone decide
            yield node, dominator if isinstance(dominator, Node) else None
