"""Copies of graphs in which values lie in row-major order that lay in blocks of channels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from graphopt.ir.builder import Builder, copy_graph, copy_node
from graphopt.ir.captures import operands
from graphopt.ir.graph import Graph, Node, Value
from graphopt.ir.types import TensorType, Type


def plain_type(type: Type) -> Type:
    """The type of the same value in row-major order."""
    return replace(type, layout=None) if isinstance(type, TensorType) else type


def without_layouts(source: Graph) -> Graph:
    """A copy of a graph in which everything lies in row-major order."""
    graph = copy_graph(source)
    for value in graph.inputs:
        value.type = plain_type(value.type)
    for node in graph.body:
        _forget_layouts(node)
    return graph


def in_row_major(source: Graph, chosen: Collection[Node]) -> tuple[Graph, list[Node]]:
    """A copy of a graph in which some nodes read and make values in row-major order, and these nodes in it.

    Where the others have them in blocks, an Identity converts.
    """
    graph = Graph(source.name)
    graph.opset, graph.unverifiable = dict(source.opset), source.unverifiable
    graph.metadata, graph.output_names = dict(source.metadata), list(source.output_names)
    builder = Builder(graph)

    def converted(value: Value, type: Type) -> Value:
        return builder.node("Identity", [value], [(value.name, type)]).output

    copies: dict[Value, Value] = {}
    for value in source.constants.values():
        assert value.const is not None
        copies[value] = builder.constant(value.const, value.name)
    for value in source.inputs:
        copies[value] = builder.input(value.name, value.type)
        copies[value].const = value.const
    found = []
    members = frozenset(chosen)
    for node in source.body:
        if node not in members:
            copy_node(node, builder, copies)
            continue
        own = {value: copies[value] for value in operands(node)}
        for value, copy in own.items():
            if value.tensor.layout is not None:
                own[value] = converted(copy, plain_type(value.type))
        found.append(copy_node(node, builder, own))
        _forget_layouts(found[-1])
        for value in node.outputs:
            blocked = value.tensor.layout is not None
            copies[value] = converted(own[value], value.type) if blocked else own[value]
    builder.outputs([copies[value] for value in source.outputs])
    return graph, found


def _forget_layouts(node: Node) -> None:
    for value in node.outputs:
        value.type = plain_type(value.type)
    for region in node.regions.values():
        for value in region.inputs:
            value.type = plain_type(value.type)
        for inner in region:
            _forget_layouts(inner)
