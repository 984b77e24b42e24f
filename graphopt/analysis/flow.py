"""How data flows between the nodes of one region, what control flow captures included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graphopt.ir.graph import Graph, Node, Region, Use, Value


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


def captures(region: Region) -> Iterator[Use]:
    """The uses, in ``region`` or deeper, of values that come from outside of it; constants are no such values."""
    pending = [region] if region.parent is not None else []
    while pending:
        inner = pending.pop()
        for node in inner:
            yield from _from_outside(node, node.inputs, region)
            if not node.is_fused:
                pending += node.regions.values()
        yield from _from_outside(inner, inner.outputs, region)


def _from_outside(user: Node | Region, values: Sequence[Value | None], region: Region) -> Iterator[Use]:
    for index, value in enumerate(values):
        if value is not None and not value.is_constant and not _is_inside(value, region):
            yield Use(user, index)


def _is_inside(value: Value, region: Region) -> bool:
    home = value.producer.parent if value.producer is not None else value.owner
    while isinstance(home, Region) and home is not region:
        home = home.parent.parent if home.parent is not None else None
    return home is region
