"""Where the nodes are between which data flows: regions, and the node of a region that makes a use."""

from __future__ import annotations

from collections.abc import Iterator

from graphopt.ir.graph import Graph, Node, Region, Use


def open_regions(graph: Graph) -> Iterator[Region]:
    """The root and every region of control flow; bodies of fused nodes, which are one kernel each, not."""
    yield graph.body
    for node in graph.walk():
        if not node.is_fused and node.parent is not None and not node.parent.is_isolated:
            yield from node.regions.values()


def reader(use: Use, home: Region) -> Node | None:
    """The node of ``home`` that makes a use of one of its values: the user itself, or the control flow that
    holds it; None where it is an output of ``home``."""
    user = use.user
    if user is home:
        return None
    node = user if isinstance(user, Node) else user.parent
    while node is not None and node.parent is not home:
        node = node.parent.parent if node.parent is not None else None
    return node
